// SPDX-License-Identifier: Apache-2.0
//
// The tilt s of a row: sum_i sigmoid(theta_i + s) is brought near k.
//
// Any real s gives exact results; a good one keeps the law of the count centred at k. Newton's
// method runs on logit(sum / live) - logit(k / live), which is linear in s for equal logits, and is
// kept inside a bracket because the sum is flat where a wide gap follows the k-th largest logit.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/platform.h"

namespace dg {

// What is known of a row before any tilt: over the items that are neither -inf nor +inf ("live").
// Real: double; a GPU, where that is slow, searches the tilts of short float rows in float.
template <class Real>
struct BasicRowSummary {
  int64_t live = 0;
  int64_t forced = 0;  // +inf
  bool has_nan = false;
  Real smallest = 0;
  Real largest = 0;
  Real mean = 0;
  Real variance = 0;
};
using RowSummary = BasicRowSummary<double>;

enum class RowKind {
  kOrdinary,  // 0 < k - forced < live
  kNone,      // exactly the forced items
  kAll,       // all but the excluded items
  kInvalid,   // NaN, or k outside [forced, forced + live]
};

template <class Real>
DG_INLINE RowKind row_kind(const BasicRowSummary<Real>& row, int64_t k) {
  const int64_t target = k - row.forced;
  if (row.has_nan || target < 0 || target > row.live) return RowKind::kInvalid;
  if (target == 0) return RowKind::kNone;
  if (target == row.live) return RowKind::kAll;
  return RowKind::kOrdinary;
}

template <class Real>
struct BasicTilt {
  Real target = 0;  // live items to choose
  Real live = 0;
  Real target_logit = 0;
  Real lower = 0;
  Real upper = 0;
  Real value = 0;
};
using Tilt = BasicTilt<double>;

// The bracket holds because every sigmoid is on one side of target / live at its ends. The first
// guess treats the logits as normal: E sigmoid(m + sqrt(v) Z) ~= sigmoid(m / sqrt(1 + pi v / 8)).
template <class Real>
DG_INLINE BasicTilt<Real> tilt_start(const BasicRowSummary<Real>& row, int64_t target) {
  BasicTilt<Real> tilt;
  tilt.target = static_cast<Real>(target);
  tilt.live = static_cast<Real>(row.live);
  tilt.target_logit = std::log(tilt.target / (tilt.live - tilt.target));
  tilt.lower = tilt.target_logit - row.largest;
  tilt.upper = tilt.target_logit - row.smallest;
  const Real widening = std::sqrt(Real(1) + row.variance * Real(0.39269908169872414));
  tilt.value = tilt.target_logit * widening - row.mean;
  if (!(tilt.value >= tilt.lower)) tilt.value = tilt.lower;
  if (!(tilt.value <= tilt.upper)) tilt.value = tilt.upper;
  return tilt;
}

// One safeguarded Newton step from the sums at tilt.value: `excess` = sum q - k, V = sum q (1 - q).
template <class Real>
DG_INLINE void tilt_step(BasicTilt<Real>& tilt, Real excess, Real variance) {
  if (excess > Real(0)) {
    tilt.upper = tilt.value;
  } else {
    tilt.lower = tilt.value;
  }
  const Real sum = tilt.target + excess;
  const Real rest = tilt.live - sum;
  Real next = tilt.lower + Real(0.5) * (tilt.upper - tilt.lower);
  if (variance > Real(0) && sum > Real(0) && rest > Real(0)) {
    const Real slope = variance * tilt.live / (sum * rest);
    const Real newton = tilt.value - (std::log(sum / rest) - tilt.target_logit) / slope;
    if (newton > tilt.lower && newton < tilt.upper) next = newton;
  }
  tilt.value = next;
}

template <class Real>
DG_INLINE bool tilt_is_good(Real excess, Real variance, Real tolerance) {
  const Real deviation = std::sqrt(variance);
  return std::fabs(excess) <= tolerance * (deviation > Real(1) ? deviation : Real(1));
}

// How close the sum must come to k, in units of max(1, sqrt(V)). The contour is exact for any tilt;
// a sampler's draws are compared with q itself, so that backends agree only if they agree on q.
constexpr double kContourTilt = 0.3;
constexpr double kSamplingTilt = 1e-3;
// Bisection of the whole range of a double ends before that.
constexpr int kMaxTiltSteps = 1100;

}  // namespace dg
