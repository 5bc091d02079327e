// SPDX-License-Identifier: Apache-2.0
//
// A team's passes over items that may lie apart, as the sampler by halving needs them: in T, folded
// into doubles, since draws are compared with q itself and backends agree only if they agree on q.
#pragma once

#include "cuda/row.cuh"

namespace dg {
namespace cuda {

// Items first, first + step, ... of a row.
template <class T>
struct Items {
  const T* first;
  int64_t step;
  int64_t count;

  DG_DEVICE T operator[](int64_t i) const { return first[i * step]; }
  // Its items 2 i + parity.
  DG_DEVICE Items every_second(int parity) const {
    return {first + parity * step, 2 * step, parity == 0 ? (count + 1) / 2 : count / 2};
  }
};

// Terms that a thread sums in T before it goes on in double.
constexpr int kFold = 64;

// body(i) for this member's items, all of one parity; fold() after each kFold of them.
template <int kThreads, class Body, class Fold>
DG_DEVICE void for_items(const Team<kThreads>& team, int64_t count, Body&& body, Fold&& fold) {
  static_assert(kThreads % 2 == 0, "a member's items have one parity");
  int64_t i = team.rank();
  while (i < count) {
    for (int j = 0; j < kFold && i < count; ++j, i += kThreads) body(i);
    fold();
  }
}

// As `summarize_row`.
template <class T, int kThreads>
DG_DEVICE RowSummary summarize_items(Team<kThreads>& team, const Items<T>& items) {
  const T origin = is_finite(items[0]) ? items[0] : T(0);
  SummarySums<double> all;
  SummarySums<T> sums;
  for_items(
      team, items.count, [&](int64_t i) { sums.add(items[i], origin); },
      [&] {
        all.sum += static_cast<double>(sums.sum);
        all.square += static_cast<double>(sums.square);
        sums.sum = sums.square = T(0);
      });
  all.smallest = static_cast<double>(sums.smallest);
  all.largest = static_cast<double>(sums.largest);
  all.live = sums.live;
  all.forced = sums.forced;
  all.nan = sums.nan;
  return summary_of(team.reduce(all, CombineSummaries()), static_cast<double>(origin));
}

// Sums at a tilt over the items of even and of odd number. sum q = above + excess.
struct HalfSums {
  double excess, variance, above;
};
struct ParitySums {
  HalfSums even, odd;
};

template <class T, int kThreads>
DG_DEVICE ParitySums sums_by_parity(Team<kThreads>& team, const Items<T>& items, T s) {
  TailSums<T> sums;
  double excess = 0.0, variance = 0.0;
  for_items(
      team, items.count, [&](int64_t i) { sums.add(signed_tail(items[i] + s)); },
      [&] {
        excess += static_cast<double>(sums.excess);
        variance += static_cast<double>(sums.variance);
        sums.excess = sums.variance = T(0);
      });
  const bool odd = team.rank() % 2 != 0;
  const double above = sums.above;
  const Sums<double, 6> own = {{odd ? 0.0 : excess, odd ? 0.0 : variance, odd ? 0.0 : above,
                                odd ? excess : 0.0, odd ? variance : 0.0, odd ? above : 0.0}};
  const Sums<double, 6> all = team.reduce(own, Add());
  return {{all.of[0], all.of[1], all.of[2]}, {all.of[3], all.of[4], all.of[5]}};
}

// The tilt for a target, to the tolerance of the sampler and one Newton step beyond, as the CPU's
// search: in double, at tilts that are rounded to T.
template <class T, class SumsAt>
DG_DEVICE T sampling_tilt(const RowSummary& row, int64_t target, SumsAt&& sums_at) {
  Tilt tilt = tilt_start(row, target - row.forced);
  T s = static_cast<T>(tilt.value);
  bool polish = true;
  for (int step = 0; step < kMaxTiltSteps; ++step) {
    tilt.value = static_cast<double>(s);
    const ParitySums sums = sums_at(s);
    const double variance = sums.even.variance + sums.odd.variance;
    const double excess = (sums.even.above + sums.odd.above - static_cast<double>(target)) +
                          (sums.even.excess + sums.odd.excess);
    const bool good = tilt_is_good(excess, variance, kSamplingTilt);
    // What is within the square already has nothing to gain: there the step is rounding error.
    if (good && (!polish || tilt_is_good(excess, variance, kSamplingTilt * kSamplingTilt))) break;
    if (good) polish = false;
    tilt_step(tilt, excess, variance);
    const T next = static_cast<T>(tilt.value);
    if (next == s) break;
    s = next;
  }
  return s;
}

}  // namespace cuda
}  // namespace dg
