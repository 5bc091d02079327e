// SPDX-License-Identifier: Apache-2.0
//
// First look at a row, and loops over a row's items by segments.
#pragma once

#include "core/tilt.h"
#include "cpu/kernels.h"
#include "cpu/simd/vec.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// A lane accumulates at most this many terms before the lanes are folded into doubles: rounding
// stays small, and a product of factors in [1/2, 1] stays far from underflow.
constexpr int64_t kFold = 64;

// A row is cut into segments of this many items, a multiple of every vector length. Sums are formed
// by segment and then over segments in order, on one thread or on many alike.
constexpr int64_t kSegment = 32768;

DG_INLINE int64_t segment_count(int64_t n) { return (n + kSegment - 1) / kSegment; }
DG_INLINE int64_t segment_end(int64_t segment, int64_t n) {
  const int64_t end = (segment + 1) * kSegment;
  return end < n ? end : n;
}

// body(segment, begin, end) for each segment.
template <class Body>
DG_INLINE void for_segments(int64_t n, const Executor& executor, Body& body) {
  struct Context {
    Body* body;
    int64_t n;
  } context{&body, n};
  executor.run(
      segment_count(n),
      [](void* opaque, int64_t segment) {
        auto* c = static_cast<Context*>(opaque);
        (*c->body)(segment, segment* kSegment, segment_end(segment, c->n));
      },
      &context);
}

// body(i, count): vectors of items, the last one perhaps partial; fold() after each kFold vectors.
template <class Lanes, class Body, class Fold>
DG_INLINE void for_vectors(int64_t begin, int64_t end, Body&& body, Fold&& fold) {
  constexpr int64_t kLanes = Lanes::kLanes;
  int64_t i = begin;
  while (i + kLanes <= end) {
    const int64_t whole = (end - i) / kLanes;
    const int64_t stop = i + (whole < kFold ? whole : kFold) * kLanes;
    for (; i < stop; i += kLanes) body(i, static_cast<int>(kLanes));
    fold();
  }
  if (i < end) {
    body(i, static_cast<int>(end - i));
    fold();
  }
}

template <class Lanes>
DG_INLINE typename Lanes::Real load_items(const typename Lanes::Scalar* row, int64_t i, int count,
                                          typename Lanes::Scalar fill) {
  return count == Lanes::kLanes ? load<Lanes>(row + i) : load_first<Lanes>(row + i, count, fill);
}

template <class Lanes>
DG_INLINE void store_items(typename Lanes::Scalar* row, int64_t i, int count,
                           typename Lanes::Real value) {
  if (count == Lanes::kLanes) {
    store<Lanes>(row + i, value);
  } else {
    store_first<Lanes>(row + i, value, count);
  }
}

// The sums of a segment of numbers that are all finite: the usual case. False, and nothing said, if
// one is not, or if their squares overflow.
template <class T>
bool summarize_finite(const T* row, int64_t begin, int64_t end, T origin, RowSummary& summary) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  Real least = splat<Lanes>(origin), most = least;
  Real sum{}, square{};
  double total = 0.0, total_square = 0.0;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Real theta = load_items<Lanes>(row, i, count, origin);
        const Real centred = theta - origin;
        least = smaller(theta, least);
        most = larger(theta, most);
        sum += centred;
        square += centred * centred;
      },
      [&] {
        total += sum_lanes<Lanes>(sum);
        total_square += sum_lanes<Lanes>(square);
        sum = square = Real{};
      });
  if (!(total_square < static_cast<double>(INFINITY))) return false;
  summary.live = end - begin;
  summary.smallest = static_cast<double>(smallest_lane(least));
  summary.largest = static_cast<double>(largest_lane(most));
  summary.mean = total;
  summary.variance = total_square;
  return true;
}

// Mean and variance are only a first guess for the tilt: float sums are enough, and they are taken
// about the first finite logit, so that a common shift costs nothing.
template <class T>
RowSummary summarize_segment(const T* row, int64_t begin, int64_t end, T origin) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  const T infinity = T(INFINITY);
  Real least = splat<Lanes>(infinity), most = splat<Lanes>(-infinity);
  Real sum{}, square{};
  Int live{}, forced{}, nan{};
  double total = 0.0, total_square = 0.0;
  double count_live = 0.0, count_forced = 0.0;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Real theta = load_items<Lanes>(row, i, count, -infinity);
        const Int is_nan = theta != theta;
        const Int is_forced = theta == infinity;
        const Int is_live = (theta < infinity) & (theta > -infinity);
        const Real centred = select(is_live, theta - origin, Real{});
        least = smaller(select(is_live, theta, splat<Lanes>(infinity)), least);
        most = larger(select(is_live, theta, splat<Lanes>(-infinity)), most);
        sum += centred;
        square += centred * centred;
        live -= is_live;
        forced -= is_forced;
        nan |= is_nan;
      },
      [&] {
        total += sum_lanes<Lanes>(sum);
        total_square += sum_lanes<Lanes>(square);
        count_live += sum_lanes<Lanes>(convert<Real>(live));
        count_forced += sum_lanes<Lanes>(convert<Real>(forced));
        sum = square = Real{};
        live = forced = Int{};
      });
  RowSummary summary;
  summary.live = static_cast<int64_t>(count_live);
  summary.forced = static_cast<int64_t>(count_forced);
  summary.has_nan = any_lane(nan);
  T low[Lanes::kLanes], high[Lanes::kLanes];
  store<Lanes>(low, least);
  store<Lanes>(high, most);
  summary.smallest = static_cast<double>(infinity);
  summary.largest = -static_cast<double>(infinity);
  for (int l = 0; l < Lanes::kLanes; ++l) {
    if (low[l] < summary.smallest) summary.smallest = low[l];
    if (high[l] > summary.largest) summary.largest = high[l];
  }
  // Here sums, not yet moments: `summarize` divides.
  summary.mean = total;
  summary.variance = total_square;
  return summary;
}

// Forced and live items, extremes, mean and variance of a row.
template <class T>
RowSummary summarize(const T* row, int64_t n, const Executor& executor, RowSummary* partial) {
  T origin = T(0);
  for (int64_t i = 0; i < n; ++i) {
    if (row[i] < T(INFINITY) && row[i] > -T(INFINITY)) {
      origin = row[i];
      break;
    }
  }
  auto body = [&](int64_t segment, int64_t begin, int64_t end) {
    partial[segment] = RowSummary();
    if (!summarize_finite<T>(row, begin, end, origin, partial[segment])) {
      partial[segment] = summarize_segment<T>(row, begin, end, origin);
    }
  };
  for_segments(n, executor, body);
  RowSummary all;
  all.smallest = INFINITY;
  all.largest = -INFINITY;
  for (int64_t segment = 0; segment < segment_count(n); ++segment) {
    const RowSummary& part = partial[segment];
    all.live += part.live;
    all.forced += part.forced;
    all.has_nan = all.has_nan || part.has_nan;
    all.mean += part.mean;
    all.variance += part.variance;
    if (part.smallest < all.smallest) all.smallest = part.smallest;
    if (part.largest > all.largest) all.largest = part.largest;
  }
  if (all.live > 0) {
    const double live = static_cast<double>(all.live);
    const double mean = all.mean / live;
    all.variance = all.variance / live - mean * mean;
    all.mean = mean + static_cast<double>(origin);
    // Overflowing squares must not spoil the guess, which the bracket then bounds.
    if (!(all.variance >= 0.0 && all.variance < 1e30)) all.variance = 0.0;
    if (!(all.mean >= all.smallest && all.mean <= all.largest)) {
      all.mean = 0.5 * all.smallest + 0.5 * all.largest;
    }
  }
  return all;
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
