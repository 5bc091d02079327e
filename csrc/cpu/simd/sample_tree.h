// SPDX-License-Identifier: Apache-2.0
//
// Exact sampling by the tree, for rows of at most kTreeItems items: walk down from the root and
// split each node's count between its children. The law of a split does not depend on the tilt.
#pragma once

#include "core/philox.h"
#include "cpu/simd/lane_groups.h"
#include "cpu/simd/linear_algebra.h"
#include "cpu/simd/random.h"
#include "cpu/simd/sample_output.h"

namespace dg {
inline namespace CPU_CAPABILITY {

constexpr int64_t kTreeItems = 64;

// values[index] in each lane, 0 where the index is not one of 0 .. degree.
template <class Lanes>
DG_INLINE typename Lanes::Real coefficient_at(const typename Lanes::Real* values, int64_t degree,
                                              typename Lanes::Int index) {
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using IntScalar = typename Lanes::IntScalar;
  if constexpr (Lanes::kLanes == 1) {
    return index >= 0 && index <= degree ? values[index] : Real{};
  } else {
    // Up to here comparing with every index costs less than a gather.
    constexpr int64_t kComparedDegree = 3;
    if (degree <= kComparedDegree) {
      Real found{};
      for (int64_t j = 0; j <= degree; ++j) {
        found = select(index == static_cast<IntScalar>(j), values[j], found);
      }
      return found;
    }
    const Int is_inside = (index >= 0) & (index <= static_cast<IntScalar>(degree));
    return gather_rows<Lanes>(values, index, is_inside);
  }
}

// The tree of a group of rows, ready to be walked any number of times.
template <class Lanes>
class TreeSampler {
 public:
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using IntScalar = typename Lanes::IntScalar;
  static constexpr int kLanes = Lanes::kLanes;

  explicit TreeSampler(int64_t n) : n_(n), work_(n), targets_(2 * work_.plan().width()) {}

  void prepare(const LaneRows<Lanes>& rows) {
    start_ = select(rows.ordinary(), rows.k(), Int{});
    work_.plan_for(largest_lane(start_));
    const TreePlan& plan = work_.plan();
    Real* values = work_.values();
    for (int64_t i = 0; i < n_; ++i) {
      const Item<Lanes> item = unpack_item<Lanes>(rows.tail(i));
      values[plan.leaf_offset(i)] = item.p;
      values[plan.leaf_offset(i) + 1] = item.q;
    }
    tree_up<LinearAlgebra<Real>>(plan, values, smallest_lane(start_));
  }

  // Draws one subset per lane. stream_rows: the Philox row of each lane.
  void draw(uint64_t seed, const uint64_t* stream_rows, uint32_t round) {
    const TreePlan& plan = work_.plan();
    const PhiloxStream tag = philox_stream(0, 0, Purpose::kTreeSplit, round);
    Real uniforms[4];
    int64_t block = -1;
    targets_[1] = start_;
    for (int64_t h = 1; h < plan.width(); ++h) {
      if (plan.is_empty(h)) continue;
      if (!plan.is_product(h)) {
        targets_[2 * h] = targets_[h];
        continue;
      }
      if (h / 4 != block) {
        block = h / 4;
        row_uniforms<Lanes>(seed, stream_rows, tag.tag, static_cast<uint32_t>(block), uniforms);
      }
      split(h, uniforms[h % 4]);
    }
  }

  int64_t items() const { return n_; }
  // 1 where the item was drawn, 0 elsewhere.
  Int chosen(int64_t item) const { return targets_[work_.plan().width() + item]; }

 private:
  // The left child gets the smallest a whose cumulative weight exceeds v times the node's.
  void split(int64_t h, Real v) {
    const TreePlan& plan = work_.plan();
    const Real* values = work_.values();
    const Real* left = values + plan.offset(2 * h);
    const Real* right = values + plan.offset(2 * h + 1);
    const int64_t left_degree = plan.degree(2 * h), right_degree = plan.degree(2 * h + 1);
    const Int target = targets_[h];
    const Real threshold =
        v * coefficient_at<Lanes>(values + plan.offset(h), plan.degree(h), target);
    // Outside this range every term is 0.
    int64_t begin = 0, end = left_degree;
    if (left_degree > 1) {
      begin = larger<int64_t>(smallest_lane(target) - right_degree, 0);
      end = smaller<int64_t>(largest_lane(target), left_degree);
    }
    Real cumulative{};
    Int below = Int{} + static_cast<IntScalar>(begin), last{};
    for (int64_t a = begin; a <= end; ++a) {
      const Int index = target - static_cast<IntScalar>(a);
      const Real term = left[a] * coefficient_at<Lanes>(right, right_degree, index);
      cumulative += term;
      below = select(cumulative <= threshold, below + 1, below);
      last = select(term > Real{}, Int{} + static_cast<IntScalar>(a), last);
    }
    // Rounding may leave the whole sum at or below the threshold: take the last possible split.
    Int taken = smaller(below, last);
    taken = larger(taken, target - static_cast<IntScalar>(right_degree));
    taken = smaller(taken, target);
    targets_[2 * h] = taken;
    targets_[2 * h + 1] = target - taken;
  }

  int64_t n_;
  Int start_;
  TreeWorkspace<Real> work_;
  Buffer<Int> targets_;  // of each heap node
};

// One draw of a group of rows into the rows of `out` from p on.
template <class Lanes>
void write_group(const TreeSampler<Lanes>& sampler, const LaneRows<Lanes>& rows,
                 const Rows<typename Lanes::Scalar>& problem, int64_t first, int count,
                 const SubsetOutput& out, int64_t p) {
  using Scalar = typename Lanes::Scalar;
  using Int = typename Lanes::Int;
  const int64_t n = problem.n;
  if (out.form == SubsetOutput::Form::kHot && out.width == sizeof(Scalar)) {
    const Int one = Int{} + static_cast<typename Lanes::IntScalar>(out.one);
    typename Lanes::Real columns[kTreeItems];
    for (int64_t i = 0; i < n; ++i) {
      columns[i] = bit_cast<typename Lanes::Real>(select(sampler.chosen(i) > 0, one, Int{}));
    }
    write_columns<Lanes>(columns, n, p, count, static_cast<Scalar*>(out.data));
  } else {
    uint8_t chosen[kTreeItems];
    for (int l = 0; l < count; ++l) {
      for (int64_t i = 0; i < n; ++i) chosen[i] = lane_of<Lanes>(sampler.chosen(i), l) != 0;
      write_subset(out, p + l, n, problem.row_count(first + l), chosen);
    }
  }
  for (int l = 0; l < count; ++l) {
    const RowKind kind = rows.kind(l);
    if (kind != RowKind::kOrdinary) {
      write_certain<Scalar>(out, p + l, problem, first + l, kind);
    }
  }
}

template <class T>
void sample_small_rows(const Rows<T>& problem, int64_t begin, int64_t end, int64_t num_samples,
                       uint64_t seed, const SubsetOutput& out) {
  const int64_t n = problem.n;
  TreeSampler<Wide<T>> wide(n);
  TreeSampler<Single<T>> single(n);
  for_lane_groups<T>(begin, end, n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    rows.load_rows(problem, first, count);
    rows.tilt();
    TreeSampler<Lanes>& sampler = pick<Lanes>(single, wide);
    sampler.prepare(rows);
    uint64_t stream_rows[Lanes::kLanes];
    for (int64_t sample = 0; sample < num_samples; ++sample) {
      const int64_t p = sample * problem.rows + first;
      for (int l = 0; l < Lanes::kLanes; ++l) {
        stream_rows[l] = static_cast<uint64_t>(p + (l < count ? l : count - 1));
      }
      sampler.draw(seed, stream_rows, /*round=*/0);
      write_group<Lanes>(sampler, rows, problem, first, count, out, p);
    }
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
