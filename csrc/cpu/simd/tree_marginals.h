// SPDX-License-Identifier: Apache-2.0
//
// method="recursion": marginals from the tree in the log algebra.
#pragma once

#include "cpu/simd/lane_groups.h"
#include "cpu/simd/tree.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// The logarithms of the two coefficients of a leaf.
template <class Lanes>
struct LogLeaf {
  typename Lanes::Real uncounted, counted;
};
template <class Lanes>
DG_INLINE LogLeaf<Lanes> make_log_leaf(typename Lanes::Real x, typename Lanes::Int flip) {
  const LogSigmoid<Lanes> log_of = log_sigmoid<Lanes>(x);
  return {select(flip, log_of.of_plus, log_of.of_minus),
          select(flip, log_of.of_minus, log_of.of_plus)};
}

template <class Lanes>
void recursion_group(const Rows<typename Lanes::Scalar>& problem, int64_t first, int count,
                     LaneRows<Lanes>& rows, TreeWorkspace<typename Lanes::Real>& work,
                     typename Lanes::Scalar* marginals, typename Lanes::Scalar* log_partition) {
  using Real = typename Lanes::Real;
  using Algebra = LogAlgebra<Lanes>;
  const int64_t n = problem.n;
  rows.load_rows(problem, first, count);
  rows.tilt();
  const LaneCounts<Lanes> counts(rows);
  work.plan_for(counts.most);
  const TreePlan& plan = work.plan();
  Real* values = work.values();
  Real* adjoints = work.adjoints();
  for (int64_t i = 0; i < n; ++i) {
    const LogLeaf<Lanes> leaf = make_log_leaf<Lanes>(rows.tilted(i), counts.flip_mask);
    const int64_t at = plan.leaf_offset(i);
    values[at] = leaf.uncounted;
    values[at + 1] = leaf.counted;
    adjoints[at + 1] = Real{};
  }
  tree_up<Algebra>(plan, values, counts.least);
  start_adjoints<Lanes>(counts, plan, adjoints + plan.offset(1));
  tree_down<Algebra>(plan, values, adjoints, counts.least);
  const Real at_target = root_at_target<Lanes>(counts, plan, values + plan.offset(1));
  Real* columns = work.columns();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = plan.leaf_offset(i);
    const Real uncounted = adjoints[at], counted = adjoints[at + 1];
    columns[i] = select(counts.flip_mask, uncounted, counted) / (uncounted + counted);
  }
  write_columns<Lanes>(columns, n, first, count, marginals);
  write_log_partition<Lanes, true>(rows, at_target, first, count, log_partition);
  finish_certain_rows<Lanes>(problem, rows, first, count, marginals, log_partition);
}

template <class T>
void recursion_forward(const Rows<T>& problem, int64_t begin, int64_t end, T* marginals,
                       T* log_partition) {
  TreeWorkspace<typename Wide<T>::Real> wide(problem.n);
  TreeWorkspace<T> single(problem.n);
  for_lane_groups<T>(begin, end, problem.n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    recursion_group<Lanes>(problem, first, count, rows, pick<Lanes>(single, wide), marginals,
                           log_partition);
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
