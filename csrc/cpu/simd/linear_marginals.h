// SPDX-License-Identifier: Apache-2.0
//
// method="linear": marginals from the tree of tilted probabilities, and their vector-Jacobian
// product by carrying a tangent through it.
#pragma once

#include "cpu/simd/lane_groups.h"
#include "cpu/simd/linear_block.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// A tree whose leaves are blocks. Items are not kept: make_leaf(i) is called on the way up and
// again on the way down, where use(i, leaf, its adjoint) takes the result.
template <class Number, class RealType>
class BlockTree {
 public:
  explicit BlockTree(int64_t items) : work_(items, kBlockItems) {}

  const TreePlan& plan() const { return work_.plan(); }
  const Number* root() { return work_.values() + plan().offset(1); }
  Number* root_adjoint() { return work_.adjoints() + plan().offset(1); }
  // One number for each item, up to the end of the last block.
  RealType* columns() { return work_.columns(); }
  int64_t num_columns() const { return plan().leaves() * kBlockItems; }

  template <class MakeLeaf>
  void up(int64_t max_count, int64_t root_from, MakeLeaf&& make_leaf) {
    work_.plan_for(max_count);
    for (int64_t b = 0; b < plan().leaves(); ++b) {
      Leaf<Number> leaf[kBlockItems];
      for (int i = 0; i < kBlockItems; ++i) leaf[i] = make_leaf(b * kBlockItems + i);
      Number law[kBlockItems + 1];
      multiply_block(leaf, law);
      copy(law, plan().leaf_degree(b), work_.values() + plan().leaf_offset(b));
    }
    tree_up<LinearAlgebra<Number>>(plan(), work_.values(), root_from);
  }

  template <class MakeLeaf, class Use>
  void down(int64_t root_from, MakeLeaf&& make_leaf, Use&& use) {
    tree_down<LinearAlgebra<Number>>(plan(), work_.values(), work_.adjoints(), root_from);
    for (int64_t b = 0; b < plan().leaves(); ++b) {
      Leaf<Number> leaf[kBlockItems], adjoint_of[kBlockItems];
      for (int i = 0; i < kBlockItems; ++i) leaf[i] = make_leaf(b * kBlockItems + i);
      // What the law was cut to has no adjoint beyond.
      Number adjoint[kBlockItems + 1] = {};
      copy(work_.adjoints() + plan().leaf_offset(b), plan().leaf_degree(b), adjoint);
      pull_back_block(leaf, adjoint, adjoint_of);
      for (int i = 0; i < kBlockItems; ++i) use(b * kBlockItems + i, leaf[i], adjoint_of[i]);
    }
  }

 private:
  static void copy(const Number* from, int64_t degree, Number* to) {
    if (degree == kBlockItems) {
      for (int j = 0; j <= kBlockItems; ++j) to[j] = from[j];
    } else {
      for (int64_t j = 0; j <= degree; ++j) to[j] = from[j];
    }
  }

  TreeWorkspace<Number, RealType> work_;
};

// The items of a group as the tree counts them: in a flipped lane the unchosen ones.
template <class Lanes>
class CountedItems {
 public:
  using Real = typename Lanes::Real;

  // Items beyond the row, up to `num_items`, are never counted.
  CountedItems(LaneRows<Lanes>& rows, const LaneCounts<Lanes>& counts, int64_t num_items)
      : rows_(rows), flip_(counts.flip_mask) {
    const Real never{};
    rows.extend(num_items, select(flip_, -never, never));
  }

  Item<Lanes> operator()(int64_t i) const {
    const Real tail = rows_.tail(i);
    return unpack_item<Lanes>(select(flip_, -tail, tail));
  }
  // +value, in a flipped lane -value.
  Real signed_by_flip(Real value) const { return select(flip_, -value, value); }
  // Of what belongs to the uncounted and to the counted, the part of the chosen.
  Real chosen(Real uncounted, Real counted) const { return select(flip_, uncounted, counted); }

 private:
  const LaneRows<Lanes>& rows_;
  typename Lanes::Int flip_;
};

template <class Lanes>
void linear_group(const Rows<typename Lanes::Scalar>& problem, int64_t first, int count,
                  LaneRows<Lanes>& rows,
                  BlockTree<typename Lanes::Real, typename Lanes::Real>& tree,
                  typename Lanes::Scalar* marginals, typename Lanes::Scalar* log_partition) {
  using Real = typename Lanes::Real;
  rows.load_rows(problem, first, count);
  rows.tilt();
  const LaneCounts<Lanes> counts(rows);
  const CountedItems<Lanes> items(rows, counts, tree.num_columns());
  const auto make_leaf = [&](int64_t i) {
    const Item<Lanes> item = items(i);
    return Leaf<Real>{item.p, item.q};
  };
  tree.up(counts.most, counts.least, make_leaf);
  start_adjoints<Lanes>(counts, tree.plan(), tree.root_adjoint());
  Real* columns = tree.columns();
  tree.down(counts.least, make_leaf, [&](int64_t i, Leaf<Real> leaf, Leaf<Real> adjoint) {
    const Real uncounted = leaf.uncounted * adjoint.uncounted;
    const Real counted = leaf.counted * adjoint.counted;
    columns[i] = items.chosen(uncounted, counted) / (uncounted + counted);
  });
  write_columns<Lanes>(columns, problem.n, first, count, marginals);
  const Real at_target = root_at_target<Lanes>(counts, tree.plan(), tree.root());
  write_log_partition<Lanes, false>(rows, at_target, first, count, log_partition);
  finish_certain_rows<Lanes>(problem, rows, first, count, marginals, log_partition);
}

template <class T>
void linear_forward(const Rows<T>& problem, int64_t begin, int64_t end, T* marginals,
                    T* log_partition) {
  using Wider = typename Wide<T>::Real;
  BlockTree<Wider, Wider> wide(problem.n);
  BlockTree<T, T> single(problem.n);
  for_lane_groups<T>(begin, end, problem.n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    linear_group<Lanes>(problem, first, count, rows, pick<Lanes>(single, wide), marginals,
                        log_partition);
  });
}

// direction[i] = g_i less their mean under the weights q p; 0 where nothing varies.
template <class Lanes>
void centre_direction(const LaneRows<Lanes>& rows, int64_t n, typename Lanes::Real* direction) {
  using Real = typename Lanes::Real;
  Real sum{}, variance{};
  for (int64_t i = 0; i < n; ++i) {
    const Real qp = unpack_item<Lanes>(rows.tail(i)).qp;
    sum += qp * direction[i];
    variance += qp;
  }
  const auto varies = variance > typename Lanes::Scalar(kNoVariance);
  const Real centre = select(varies, sum / variance, Real{});
  for (int64_t i = 0; i < n; ++i) direction[i] = select(varies, direction[i] - centre, Real{});
}

// The derivative of the marginals along the centred gradient: the covariance is symmetric, so the
// forward-mode derivative is the vector-Jacobian product.
template <class Lanes>
void linear_vjp_group(const Rows<typename Lanes::Scalar>& problem, int64_t first, int count,
                      LaneRows<Lanes>& rows,
                      BlockTree<Dual<typename Lanes::Real>, typename Lanes::Real>& tree,
                      const typename Lanes::Scalar* grad_marginals,
                      const typename Lanes::Scalar* grad_log_partition,
                      typename Lanes::Scalar* grad_logits) {
  using Scalar = typename Lanes::Scalar;
  using Real = typename Lanes::Real;
  using Number = Dual<Real>;
  const int64_t n = problem.n;
  rows.load_rows(problem, first, count);
  rows.tilt();
  const LaneCounts<Lanes> counts(rows);
  const CountedItems<Lanes> items(rows, counts, tree.num_columns());
  Real* direction = tree.columns();
  for (int64_t i = 0; i < tree.num_columns(); ++i) direction[i] = Real{};
  if (grad_marginals != nullptr) {
    read_columns<Lanes>(grad_marginals, n, first, count, direction);
    centre_direction<Lanes>(rows, n, direction);
  }
  const Real scale = grad_log_partition == nullptr
                         ? Real{}
                         : read_lanes<Lanes>(grad_log_partition, first, count, 0, 1);
  const auto make_leaf = [&](int64_t i) {
    const Item<Lanes> item = items(i);
    const Real change = items.signed_by_flip(item.qp * direction[i]);
    return Leaf<Number>{{item.p, -change}, {item.q, change}};
  };
  tree.up(counts.most, counts.least, make_leaf);
  start_adjoints<Lanes>(counts, tree.plan(), tree.root_adjoint());
  tree.down(counts.least, make_leaf, [&](int64_t i, Leaf<Number> leaf, Leaf<Number> adjoint) {
    const Number uncounted = leaf.uncounted * adjoint.uncounted;
    const Number counted = leaf.counted * adjoint.counted;
    const Number chosen{items.chosen(uncounted.v, counted.v), items.chosen(uncounted.d, counted.d)};
    const Number mu = chosen / (uncounted + counted);
    direction[i] = mu.d + scale * mu.v;
  });
  write_columns<Lanes>(direction, n, first, count, grad_logits);
  if (rows.all_live()) return;
  for (int l = 0; l < count; ++l) {
    const Scalar* row = problem.logits + (first + l) * n;
    Scalar* out = grad_logits + (first + l) * n;
    if (rows.kind(l) == RowKind::kInvalid) {
      fill_row<Scalar>(out, n, Scalar(NAN));
    } else if (rows.kind(l) == RowKind::kOrdinary) {
      zero_forced<Scalar>(row, n, out);
    } else {
      certain_gradient<Scalar>(row, n, rows.kind(l), get_lane<Lanes>(scale, l), out);
    }
  }
}

template <class T>
void linear_vjp(const Rows<T>& problem, int64_t begin, int64_t end, const T* grad_marginals,
                const T* grad_log_partition, T* grad_logits) {
  using Wider = typename Wide<T>::Real;
  BlockTree<Dual<Wider>, Wider> wide(problem.n);
  BlockTree<Dual<T>, T> single(problem.n);
  for_lane_groups<T>(begin, end, problem.n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    linear_vjp_group<Lanes>(problem, first, count, rows, pick<Lanes>(single, wide), grad_marginals,
                            grad_log_partition, grad_logits);
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
