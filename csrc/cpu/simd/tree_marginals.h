// SPDX-License-Identifier: Apache-2.0
//
// method="linear" and method="recursion": marginals from the tree, and the vector-Jacobian product
// of the linear form by carrying a tangent through it.
#pragma once

#include "cpu/simd/algebra.h"
#include "cpu/simd/contour_vjp.h"
#include "cpu/simd/lane_rows.h"
#include "cpu/simd/tree.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// A lane with more chosen than unchosen items counts the unchosen ones: the tree is narrower.
template <class Lanes>
struct LaneCounts {
  using Int = typename Lanes::Int;

  Int flip_mask;
  Int target;
  int64_t most;   // the largest target
  int64_t least;  // the smallest: lower coefficients of the root are not wanted

  explicit LaneCounts(const LaneRows<Lanes>& rows) {
    using IntScalar = typename Lanes::IntScalar;
    const Int zero{}, items = zero + static_cast<IntScalar>(rows.n());
    const auto ordinary = rows.ordinary();
    const auto flipped = ordinary & (rows.k() + rows.k() > items);
    flip_mask = select(flipped, zero - 1, zero);
    target = select(ordinary, select(flipped, items - rows.k(), rows.k()), zero);
    most = largest_lane(target);
    least = smallest_lane(select(ordinary, target, zero + static_cast<IntScalar>(most)));
  }
};

template <class Lanes>
DG_INLINE void write_lane(typename Lanes::Real values, int lanes, int64_t i, int64_t n,
                          typename Lanes::Scalar* rows) {
  typename Lanes::Scalar lane[Lanes::kLanes];
  store<Lanes>(lane, values);
  for (int l = 0; l < lanes; ++l) rows[l * n + i] = lane[l];
}

template <class Lanes>
DG_INLINE typename Lanes::Scalar get_lane(typename Lanes::Real values, int l) {
  typename Lanes::Scalar lane[Lanes::kLanes];
  store<Lanes>(lane, values);
  return lane[l];
}

// Column i of a [rows, columns] array, one row per lane; unused lanes repeat the last row.
template <class Lanes>
DG_INLINE typename Lanes::Real read_lanes(const typename Lanes::Scalar* rows, int64_t first,
                                          int count, int64_t i, int64_t columns) {
  typename Lanes::Scalar lane[Lanes::kLanes];
  for (int l = 0; l < Lanes::kLanes; ++l) {
    lane[l] = rows[(first + (l < count ? l : count - 1)) * columns + i];
  }
  return load<Lanes>(lane);
}

// 1 at each lane's own target, 0 elsewhere.
template <class Lanes>
DG_INLINE typename Lanes::Real indicator(const LaneCounts<Lanes>& counts, int64_t j) {
  using Real = typename Lanes::Real;
  const auto here = counts.target == static_cast<typename Lanes::IntScalar>(j);
  return select(here, splat<Lanes>(typename Lanes::Scalar(1)), Real{});
}

template <class Lanes>
void finish_certain_rows(const Rows<typename Lanes::Scalar>& problem, const LaneRows<Lanes>& rows,
                         int64_t first, int count, typename Lanes::Scalar* marginals,
                         typename Lanes::Scalar* log_partition) {
  using Scalar = typename Lanes::Scalar;
  for (int l = 0; l < count; ++l) {
    const Scalar* row = problem.logits + (first + l) * problem.n;
    Scalar* mu = marginals + (first + l) * problem.n;
    if (rows.kind(l) == RowKind::kInvalid) {
      fill_row<Scalar>(mu, problem.n, Scalar(NAN));
      log_partition[first + l] = Scalar(NAN);
    } else if (rows.kind(l) != RowKind::kOrdinary) {
      certain_marginals<Scalar>(row, problem.n, rows.kind(l), mu);
      log_partition[first + l] =
          static_cast<Scalar>(certain_log_partition<Scalar>(row, problem.n, rows.kind(l)));
    }
  }
}

// The two coefficients of a leaf (not counted, counted): probabilities, or their logarithms.
template <class Lanes>
struct Leaf {
  typename Lanes::Real uncounted, counted;
};
template <class Lanes>
DG_INLINE Leaf<Lanes> make_leaf(const Item<Lanes>& item, typename Lanes::Int flip) {
  return {select(flip, item.q, item.p), select(flip, item.p, item.q)};
}
template <class Lanes>
DG_INLINE Leaf<Lanes> make_log_leaf(typename Lanes::Real x, typename Lanes::Int flip) {
  const LogSigmoid<Lanes> log_of = log_sigmoid<Lanes>(x);
  return {select(flip, log_of.of_plus, log_of.of_minus),
          select(flip, log_of.of_minus, log_of.of_plus)};
}

template <class Lanes, bool kLog>
void write_log_partition(const LaneRows<Lanes>& rows, typename Lanes::Real at_target, int64_t first,
                         int count, typename Lanes::Scalar* log_partition) {
  using Scalar = typename Lanes::Scalar;
  constexpr int kLanes = Lanes::kLanes;
  double outside[kLanes], inside[kLanes];
  rows.outside_log_partition(outside);
  Scalar lane[kLanes];
  store<Lanes>(lane, at_target);
  for (int l = 0; l < kLanes; ++l) inside[l] = static_cast<double>(lane[l]);
  if constexpr (!kLog) log_in_place<kLanes>(inside);
  for (int l = 0; l < count; ++l) {
    log_partition[first + l] = static_cast<Scalar>(outside[l] + inside[l]);
  }
}

// One group of rows. The linear algebra works on probabilities, the log algebra on their logs.
template <class Lanes, bool kLog>
void tree_group(const Rows<typename Lanes::Scalar>& problem, int64_t first, int count,
                LaneRows<Lanes>& rows, TreeWorkspace<typename Lanes::Real>& work,
                typename Lanes::Scalar* marginals, typename Lanes::Scalar* log_partition) {
  using Real = typename Lanes::Real;
  using Algebra = std::conditional_t<kLog, LogAlgebra<Lanes>, LinearAlgebra<Real>>;
  const int64_t n = problem.n;
  rows.load_rows(problem, first, count);
  rows.tilt();
  const LaneCounts<Lanes> counts(rows);
  work.plan_for(n, counts.most);
  const TreePlan& plan = work.plan();
  Real* values = work.values();
  Real* adjoints = work.adjoints();
  for (int64_t i = 0; i < n; ++i) {
    const Leaf<Lanes> leaf =
        kLog ? make_log_leaf<Lanes>(rows.tilted(i), counts.flip_mask)
             : make_leaf<Lanes>(unpack_item<Lanes>(rows.tail(i)), counts.flip_mask);
    const int64_t at = plan.leaf_offset(i);
    values[at] = leaf.uncounted;
    values[at + 1] = leaf.counted;
    adjoints[at + 1] = Real{};
  }
  tree_up<Algebra>(plan, values, counts.least);
  const Real* root = values + plan.offset(1);
  Real* root_adjoint = adjoints + plan.offset(1);
  Real at_target{};  // of the root: P(S = k) or its logarithm
  for (int64_t j = counts.least; j <= plan.degree(1); ++j) {
    root_adjoint[j] = indicator<Lanes>(counts, j);
    at_target = select(root_adjoint[j] > Real{}, root[j], at_target);
  }
  tree_down<Algebra>(plan, values, adjoints, counts.least);
  Real* columns = work.columns();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = plan.leaf_offset(i);
    Real uncounted = adjoints[at], counted = adjoints[at + 1];
    if constexpr (!kLog) {
      uncounted *= values[at];
      counted *= values[at + 1];
    }
    columns[i] = select(counts.flip_mask, uncounted, counted) / (uncounted + counted);
  }
  write_columns<Lanes>(columns, n, first, count, marginals);
  write_log_partition<Lanes, kLog>(rows, at_target, first, count, log_partition);
  finish_certain_rows<Lanes>(problem, rows, first, count, marginals, log_partition);
}

// body(first, count, lanes tag): whole groups of lanes, then what is left one row at a time where
// that is cheaper than a group that is mostly empty.
template <class T, class Body>
void for_lane_groups(int64_t begin, int64_t end, int64_t n, Body&& body) {
  constexpr int kLanes = Wide<T>::kLanes;
  constexpr int kFewRows = 2;
  int64_t r = begin;
  if (end - begin > kFewRows) {
    LaneRows<Wide<T>> rows(n);
    while (end - r > kFewRows) {
      const int count = static_cast<int>(end - r < kLanes ? end - r : kLanes);
      body(r, count, rows);
      r += count;
    }
  }
  if (r < end) {
    LaneRows<Single<T>> rows(n);
    for (; r < end; ++r) body(r, 1, rows);
  }
}

// The workspace of one lane, or that of many.
template <class Lanes, class One, class Many>
DG_INLINE auto& pick(One& one, Many& many) {
  if constexpr (Lanes::kLanes == 1) {
    return one;
  } else {
    return many;
  }
}

template <class T>
void tree_forward(const Rows<T>& problem, TreeAlgebra algebra, int64_t begin, int64_t end,
                  T* marginals, T* log_partition) {
  TreeWorkspace<typename Wide<T>::Real> wide(problem.n);
  TreeWorkspace<T> single(problem.n);
  for_lane_groups<T>(begin, end, problem.n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    auto& work = pick<Lanes>(single, wide);
    if (algebra == TreeAlgebra::kLog) {
      tree_group<Lanes, true>(problem, first, count, rows, work, marginals, log_partition);
    } else {
      tree_group<Lanes, false>(problem, first, count, rows, work, marginals, log_partition);
    }
  });
}

// The derivative of the marginals along the centred gradient: the covariance is symmetric, so the
// forward-mode derivative is the vector-Jacobian product.
template <class Lanes>
void linear_vjp_group(const Rows<typename Lanes::Scalar>& problem, int64_t first, int count,
                      LaneRows<Lanes>& rows,
                      TreeWorkspace<Dual<typename Lanes::Real>, typename Lanes::Real>& work,
                      const typename Lanes::Scalar* grad_marginals,
                      const typename Lanes::Scalar* grad_log_partition,
                      typename Lanes::Scalar* grad_logits) {
  using Scalar = typename Lanes::Scalar;
  using Real = typename Lanes::Real;
  using Number = Dual<Real>;
  using Algebra = LinearAlgebra<Number>;
  const int64_t n = problem.n;
  rows.load_rows(problem, first, count);
  rows.tilt();
  const LaneCounts<Lanes> counts(rows);
  work.plan_for(n, counts.most);
  const TreePlan& plan = work.plan();
  Number* values = work.values();
  Number* adjoints = work.adjoints();
  Real* direction = work.columns();
  if (grad_marginals != nullptr) {
    read_columns<Lanes>(grad_marginals, n, first, count, direction);
  } else {
    for (int64_t i = 0; i < n; ++i) direction[i] = Real{};
  }
  {
    Real sum{}, variance{};
    for (int64_t i = 0; i < n; ++i) {
      const Real qp = unpack_item<Lanes>(rows.tail(i)).qp;
      sum += qp * direction[i];
      variance += qp;
    }
    const auto varies = variance > Scalar(kNoVariance);
    const Real centre = select(varies, sum / variance, Real{});
    for (int64_t i = 0; i < n; ++i) {
      direction[i] = select(varies, direction[i] - centre, Real{});
    }
  }
  const Real scale = grad_log_partition == nullptr
                         ? Real{}
                         : read_lanes<Lanes>(grad_log_partition, first, count, 0, 1);
  for (int64_t i = 0; i < n; ++i) {
    const Item<Lanes> item = unpack_item<Lanes>(rows.tail(i));
    const Leaf<Lanes> leaf = make_leaf<Lanes>(item, counts.flip_mask);
    const Real change = item.qp * direction[i];
    const Real counted_change = select(counts.flip_mask, -change, change);
    const int64_t at = plan.leaf_offset(i);
    values[at] = {leaf.uncounted, -counted_change};
    values[at + 1] = {leaf.counted, counted_change};
    adjoints[at + 1] = Number{};
  }
  tree_up<Algebra>(plan, values, counts.least);
  Number* root_adjoint = adjoints + plan.offset(1);
  for (int64_t j = counts.least; j <= plan.degree(1); ++j) {
    root_adjoint[j] = {indicator<Lanes>(counts, j), Real{}};
  }
  tree_down<Algebra>(plan, values, adjoints, counts.least);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = plan.leaf_offset(i);
    const Number uncounted = values[at] * adjoints[at];
    const Number counted = values[at + 1] * adjoints[at + 1];
    const Number chosen{select(counts.flip_mask, uncounted.v, counted.v),
                        select(counts.flip_mask, uncounted.d, counted.d)};
    const Number mu = chosen / (uncounted + counted);
    direction[i] = mu.d + scale * mu.v;
  }
  write_columns<Lanes>(direction, n, first, count, grad_logits);
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
  TreeWorkspace<Dual<typename Wide<T>::Real>, typename Wide<T>::Real> wide(problem.n);
  TreeWorkspace<Dual<T>, T> single(problem.n);
  for_lane_groups<T>(begin, end, problem.n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    linear_vjp_group<Lanes>(problem, first, count, rows, pick<Lanes>(single, wide), grad_marginals,
                            grad_log_partition, grad_logits);
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
