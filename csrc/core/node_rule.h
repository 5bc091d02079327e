// SPDX-License-Identifier: Apache-2.0
//
// How many nodes the contour needs (docs/mathematics.md, "The node rule").
//
// With S a sum of independent Bernoulli variables of total variance V, the trapezoid rule with M
// nodes errs by P(|S - k| >= M) (aliasing, Bennett's inequality) and a node at angle t weighs at
// most exp(-2 V sin^2(t/2)). Both are bounded from V alone.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/platform.h"

namespace dg {

constexpr double kPi = 3.14159265358979323846;

template <class T>
struct NodeRule;

template <>
struct NodeRule<float> {
  static constexpr double kSlope = 6.0;  // M >= kSlope sqrt(V) + kOffset
  static constexpr double kOffset = 4.0;
  static constexpr double kExponent = 18.0;  // a node is kept while 2 V sin^2(t/2) <= kExponent
  static constexpr int kMaxNodes = 11;       // the most that are ever kept, the node t = 0 aside
};

template <>
struct NodeRule<double> {
  static constexpr double kSlope = 8.0;
  static constexpr double kOffset = 9.0;
  static constexpr double kExponent = 37.0;
  static constexpr int kMaxNodes = 22;
};

// Room for the nodes of any rule, with a spread of up to three times the variance (34 at most).
constexpr int kMostNodes = 34;

// The nodes t_m = 2 pi m / total, m = 1 .. kept; the others follow by conjugate symmetry.
struct NodeCount {
  int64_t total;
  int kept;
};

DG_INLINE double node_angle(int64_t m, int64_t total) {
  return 2.0 * kPi * static_cast<double>(m) / static_cast<double>(total);
}

// `live`: the number of items that are neither excluded nor forced. M > live is exact, so no more
// are ever used; M is odd so that t = pi, where a factor may vanish, is never a node. `spread`: the
// variance that M follows, where the law is asked for counts further out than its own variance
// tells; at most three times the variance.
template <class Rule>
DG_INLINE NodeCount node_count(double variance, double spread, int64_t live) {
  const double wanted = std::ceil(Rule::kSlope * std::sqrt(spread) + Rule::kOffset);
  const int64_t exact = (live + 1) | 1;
  int64_t total = static_cast<int64_t>(wanted) | 1;
  if (total > exact) total = exact;
  const int most = spread > variance ? kMostNodes : Rule::kMaxNodes;
  int64_t kept = (total - 1) / 2;
  const double largest_sine = std::sqrt(Rule::kExponent / (2.0 * variance));
  if (largest_sine < 1.0) {
    const auto within =
        static_cast<int64_t>(static_cast<double>(total) / kPi * std::asin(largest_sine));
    if (kept > within) kept = within;
  }
  return {total, static_cast<int>(kept < most ? kept : most)};
}

// The angle of `factor` steps of 2 pi / total: reduced in integers, whatever the size of the
// factor.
DG_INLINE double reduced_angle(int64_t factor, int64_t total) {
  int64_t remainder = factor % total;
  if (remainder < 0) remainder += total;
  return node_angle(remainder, total);
}

}  // namespace dg
