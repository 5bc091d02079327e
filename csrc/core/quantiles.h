// SPDX-License-Identifier: Apache-2.0
//
// The table of a noise law: its upper quantile function Q(v), v a survival probability, as cubic
// pieces on a grid that is logarithmic in both tails, 16 pieces to each octave of v (below 1/2) or
// of 1 - v. The piece and the place in it are bits of the floating-point number itself.
//
//   v < 1/2:  x = v,      piece = (bits(x) >> kShift) - kFirstOfV
//   v >= 1/2: x = 1 - v,  piece = (bits(x) >> kShift) - kFirstOfRest
//   t = (bits(x) mod 2^kShift) 2^-kShift,   Q = c0 + t (c1 + t (c2 + t c3))
//
// discrete_grad/quantiles.py makes the tables.
#pragma once

#include <cstdint>

namespace dg {

constexpr int64_t kQuantilePieces = 881;
constexpr int kQuantileCoefficients = 4;

template <class Scalar>
struct QuantileGrid;
template <>
struct QuantileGrid<float> {
  static constexpr int kShift = 19;
  static constexpr int32_t kFirstOfV = (127 - 33) << 4;
  static constexpr int32_t kFirstOfRest = ((127 - 24) << 4) - 512;
  static constexpr int32_t kPlaceMask = 0x7FFFF;
  static constexpr float kPlaceUnit = 0x1p-19f;
};
template <>
struct QuantileGrid<double> {
  static constexpr int kShift = 48;
  static constexpr int64_t kFirstOfV = (1023 - 33) << 4;
  static constexpr int64_t kFirstOfRest = ((1023 - 24) << 4) - 512;
  static constexpr int64_t kPlaceMask = 0xFFFFFFFFFFFF;
  static constexpr double kPlaceUnit = 0x1p-48;
};

}  // namespace dg
