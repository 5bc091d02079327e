// SPDX-License-Identifier: Apache-2.0
//
// What the recursions over the tree share: groups of rows, one per lane, their counts, and the rows
// whose subset is certain.
#pragma once

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

// The adjoints of the root, 1 at each lane's own target and 0 elsewhere: numbers, or duals of them.
template <class Lanes, class Number>
DG_INLINE void start_adjoints(const LaneCounts<Lanes>& counts, const TreePlan& plan,
                              Number* root_adjoint) {
  using Real = typename Lanes::Real;
  const Real one = splat<Lanes>(typename Lanes::Scalar(1));
  for (int64_t j = 0; j <= plan.degree(1); ++j) {
    const auto here = counts.target == static_cast<typename Lanes::IntScalar>(j);
    root_adjoint[j] = Number{select(here, one, Real{})};
  }
}

// The root at each lane's own target: P(S = k), or its logarithm.
template <class Lanes>
DG_INLINE typename Lanes::Real root_at_target(const LaneCounts<Lanes>& counts, const TreePlan& plan,
                                              const typename Lanes::Real* root) {
  typename Lanes::Real result{};
  for (int64_t j = counts.least; j <= plan.degree(1); ++j) {
    const auto here = counts.target == static_cast<typename Lanes::IntScalar>(j);
    result = select(here, root[j], result);
  }
  return result;
}

template <class Lanes>
void finish_certain_rows(const Rows<typename Lanes::Scalar>& problem, const LaneRows<Lanes>& rows,
                         int64_t first, int count, typename Lanes::Scalar* marginals,
                         typename Lanes::Scalar* log_partition) {
  using Scalar = typename Lanes::Scalar;
  if (rows.all_live()) return;
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

// From P(S = k) at the tilt (kLog: its logarithm).
template <class Lanes, bool kLog>
void write_log_partition(const LaneRows<Lanes>& rows, typename Lanes::Real at_target, int64_t first,
                         int count, typename Lanes::Scalar* log_partition) {
  using Scalar = typename Lanes::Scalar;
  double outside[Lanes::kLanes];
  rows.outside_log_partition(kLog ? splat<Lanes>(Scalar(1)) : at_target, outside);
  Scalar inside[Lanes::kLanes] = {};
  if constexpr (kLog) store<Lanes>(inside, at_target);
  for (int l = 0; l < count; ++l) {
    log_partition[first + l] = static_cast<Scalar>(outside[l] + static_cast<double>(inside[l]));
  }
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

}  // namespace CPU_CAPABILITY
}  // namespace dg
