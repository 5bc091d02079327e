// SPDX-License-Identifier: Apache-2.0
//
// First look at a row, its tilt, and the signed tails of its items at the tilt.
//
// With x = theta + s the *signed tail* of an item is min(q, p) with the sign bit set where x > 0,
// from which q, p, q p and q - p all follow without cancellation (docs/mathematics.md).
#pragma once

#include "core/tilt.h"
#include "cuda/launchers.h"
#include "cuda/math.cuh"
#include "cuda/team.cuh"

namespace dg {
namespace cuda {

// Below this the row is deterministic in working precision: its covariance is 0.
constexpr double kNoVariance = 1e-30;

template <class T>
DG_DEVICE int64_t count_of_row(const Rows<T>& rows, int64_t row) {
  return rows.row_k == nullptr ? rows.k : rows.row_k[row];
}

template <class T>
DG_DEVICE T signed_tail(T x) {
  const T e = std::exp(x > T(0) ? -x : x);
  const T w = e / (T(1) + e);
  return x > T(0) ? -w : w;
}

// Everything the formulas need of an item.
template <class T>
struct Item {
  T q, p, qp, delta;  // delta = q - p
};

template <class T>
DG_DEVICE Item<T> unpack_item(T tail) {
  const bool above = is_negative(tail);
  const T w = above ? -tail : tail;
  const T rest = T(1) - w;
  const T spread = rest - w;
  return {above ? rest : w, above ? w : rest, w * rest, above ? spread : -spread};
}

// What a pass over items gathers for the RowSummary. The mean and the variance are only a first
// guess for the tilt; they are taken about an origin, so that a common shift costs little.
template <class T>
struct SummarySums {
  T smallest = T(INFINITY);
  T largest = -T(INFINITY);
  T sum = 0;
  T square = 0;
  int live = 0;
  int forced = 0;
  int nan = 0;
  int padding = 0;

  DG_DEVICE void add(T theta, T origin) {
    nan += theta != theta;
    forced += theta == T(INFINITY);
    if (!is_finite(theta)) return;
    live += 1;
    smallest = theta < smallest ? theta : smallest;
    largest = theta > largest ? theta : largest;
    sum += theta - origin;
    square += (theta - origin) * (theta - origin);
  }
};

struct CombineSummaries {
  template <class T>
  DG_DEVICE SummarySums<T> operator()(const SummarySums<T>& a, const SummarySums<T>& b) const {
    SummarySums<T> all;
    all.smallest = a.smallest < b.smallest ? a.smallest : b.smallest;
    all.largest = a.largest > b.largest ? a.largest : b.largest;
    all.sum = rounded_sum(a.sum, b.sum);
    all.square = rounded_sum(a.square, b.square);
    all.live = a.live + b.live;
    all.forced = a.forced + b.forced;
    all.nan = a.nan + b.nan;
    return all;
  }
};

// Where to take the mean about: the first logit, if it is finite.
template <class T>
DG_DEVICE T origin_of_row(const T* row) {
  return is_finite(row[0]) ? row[0] : T(0);
}

// The mean and the variance from the sums about an origin.
template <class T>
DG_DEVICE void set_moments(T sum, T square, T origin, BasicRowSummary<T>* row) {
  if (row->live == 0) return;
  const T live = static_cast<T>(row->live);
  const T mean = sum / live;
  row->mean = mean + origin;
  row->variance = square / live - mean * mean;
  // Overflowing squares must not spoil the guess, which the bracket then bounds.
  if (!(row->variance >= T(0) && row->variance < T(1e30))) row->variance = T(0);
  if (!(row->mean >= row->smallest && row->mean <= row->largest)) {
    row->mean = T(0.5) * row->smallest + T(0.5) * row->largest;
  }
}

template <class T>
DG_DEVICE BasicRowSummary<T> summary_of(const SummarySums<T>& sums, T origin) {
  BasicRowSummary<T> row;
  row.live = sums.live;
  row.forced = sums.forced;
  row.has_nan = sums.nan > 0;
  row.smallest = sums.smallest;
  row.largest = sums.largest;
  set_moments(sums.sum, sums.square, origin, &row);
  return row;
}

// Sums over items at a tilt. sum q = above + excess.
template <class T>
struct TailSums {
  T excess = 0;    // sum of q (q <= 1/2) minus sum of p (q > 1/2)
  T variance = 0;  // sum q p
  int above = 0;   // items with q > 1/2, the forced ones among them
  int padding = 0;

  DG_DEVICE void add(T tail) {
    const bool negative = is_negative(tail);
    const T w = negative ? -tail : tail;
    excess += tail;
    variance += w * (T(1) - w);
    above += negative;
  }
};

struct CombineTails {
  template <class T>
  DG_DEVICE TailSums<T> operator()(const TailSums<T>& a, const TailSums<T>& b) const {
    TailSums<T> all;
    all.excess = rounded_sum(a.excess, b.excess);
    all.variance = rounded_sum(a.variance, b.variance);
    all.above = a.above + b.above;
    return all;
  }
};

template <class T>
struct FoundTilt {
  T s;
  TailSums<T> sums;
};

// The tilt of a row of k items, by safeguarded Newton steps; pass(s) returns the TailSums of the
// whole row at s, the same in every thread. A row that is not `ordinary` gets the tilt 0.
template <class T, class TeamType, class Pass>
DG_DEVICE FoundTilt<T> find_tilt(const TeamType& team, bool ordinary,
                                 const BasicRowSummary<T>& summary, int64_t k, T tolerance,
                                 Pass&& pass) {
  BasicTilt<T> tilt = tilt_start(summary, k - summary.forced);
  FoundTilt<T> found;
  found.s = ordinary ? tilt.value : T(0);
  bool searching = ordinary;
  for (int step = 0; step < kMaxTiltSteps; ++step) {
    found.sums = pass(found.s);
    const T excess = static_cast<T>(found.sums.above - k) + found.sums.excess;
    searching = searching && !tilt_is_good(excess, found.sums.variance, tolerance);
    if (searching) {
      tilt_step(tilt, excess, found.sums.variance);
      searching = tilt.value != found.s;
      found.s = tilt.value;
    }
    if (!team.any(searching)) break;
  }
  return found;
}

// The same for a row in memory, which the members of a team go over together.
template <class T, class TeamType>
DG_DEVICE BasicRowSummary<T> summarize_row(TeamType& team, const T* row, int64_t n) {
  const T origin = origin_of_row(row);
  SummarySums<T> sums;
  for (int64_t i = team.rank(); i < n; i += TeamType::kThreads) sums.add(row[i], origin);
  return summary_of(team.reduce(sums, CombineSummaries()), origin);
}

template <class T, class TeamType>
DG_DEVICE FoundTilt<T> find_tilt_of_row(TeamType& team, const T* row, int64_t n,
                                        const BasicRowSummary<T>& summary, int64_t k, T tolerance) {
  return find_tilt(team, /*ordinary=*/true, summary, k, tolerance, [&](T s) {
    TailSums<T> sums;
    for (int64_t i = team.rank(); i < n; i += TeamType::kThreads) {
      sums.add(signed_tail(row[i] + s));
    }
    return team.reduce(sums, CombineTails());
  });
}

// Whether the subset of a row that is certain holds an item.
template <class T>
DG_DEVICE bool is_certain_member(T theta, RowKind kind) {
  return kind == RowKind::kNone ? theta == T(INFINITY) : theta > -T(INFINITY);
}

}  // namespace cuda
}  // namespace dg
