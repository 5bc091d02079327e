// SPDX-License-Identifier: Apache-2.0
//
// exp, log and log1p on vectors, from their series after an exact range reduction.
//
// Error below 2 ulp (tests/cpp/test_simd_math.cpp). Infinities are exact; rows with NaN never reach
// these functions.
#pragma once

#include <cmath>

#include "cpu/simd/vec.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Layout of the floating-point formats; (e^r - 1 - r) / r^2 for |r| <= log(2) / 2, from r^0 up, the
// best of its degree in the relative error of e^r (3e-9 and 4e-18); and enough terms for
// |f| <= 0.172 (log).
template <class Scalar>
struct Format;
template <>
struct Format<float> {
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr float kExpSeries[] = {0.49999993414687388f, 0.16666520444423417f,
                                         0.041668387421586111f, 0.0083687350008963244f,
                                         0.0013814911737877990f};
  static constexpr int kLogTerms = 5;
  static constexpr float kRounder = 12582912.0f;     // 1.5 * 2^23
  static constexpr float kSmallestExp = -87.33654f;  // log of the smallest normal number
  static constexpr float kLog2High = 0.693359375f;   // 9 bits: its multiples are exact
  static constexpr float kLog2Low = -2.12194440e-4f;
  static constexpr int32_t kHalfRootBits = 0x3F3504F3;  // sqrt(1/2)
};
template <>
struct Format<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kExpSeries[] = {
      0.50000000000000106,   0.16666666666666408,    0.041666666666530085,  0.0083333333334969836,
      0.0013888888943690445, 0.00019841269502158442, 2.4801493007162651e-5, 2.7557589516520904e-6,
      2.7630288584536052e-7, 2.4999287243233761e-8};
  static constexpr int kLogTerms = 10;
  static constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kSmallestExp = -708.3964185322641;
  static constexpr double kLog2High = 0.693147180369123816490;  // 33 bits
  static constexpr double kLog2Low = 1.90821492927058770002e-10;
  static constexpr int64_t kHalfRootBits = 0x3FE6A09E667F3BCD;
};

// exp(x) for x <= 0 (rounding may leave it a little above); results below the normal range are 0.
template <class Lanes>
DG_INLINE typename Lanes::Real exp_nonpositive(typename Lanes::Real x) {
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using Scalar = typename Lanes::Scalar;
  using F = Format<Scalar>;
  // The nearest whole number of log 2, which stands in the low bits of `shifted` as it is.
  const Real shifted = x * Scalar(1.44269504088896340736) + F::kRounder;
  const Real whole = shifted - F::kRounder;
  const Real r = (x - whole * F::kLog2High) - whole * F::kLog2Low;
  constexpr int kTerms = sizeof(F::kExpSeries) / sizeof(Scalar);
  Real series = splat<Lanes>(F::kExpSeries[kTerms - 1]);
#pragma GCC unroll 16
  for (int j = kTerms - 2; j >= 0; --j) series = F::kExpSeries[j] + r * series;
  series = Scalar(1) + r * (Scalar(1) + r * series);
  // Times 2^whole; far below 0 that is no number, and not looked at.
  const Int power = bit_cast<Int>(shifted) << F::kMantissaBits;
  const Real result = bit_cast<Real>(bit_cast<Int>(series) + power);
  return select(x < F::kSmallestExp, Real{}, result);
}

// log(x) for x positive and normal; log(0) = -inf.
template <class Lanes>
DG_INLINE typename Lanes::Real log_positive(typename Lanes::Real x) {
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using Scalar = typename Lanes::Scalar;
  using F = Format<Scalar>;
  const Int bits = bit_cast<Int>(x);
  const Int exponent = (bits - F::kHalfRootBits) >> F::kMantissaBits;
  const Real mantissa = bit_cast<Real>(bits - (exponent << F::kMantissaBits));
  // log m = 2 artanh f with f = (m - 1) / (m + 1); m - 1 is exact.
  const Real f = (mantissa - Scalar(1)) / (mantissa + Scalar(1));
  const Real square = f * f;
  Real series = splat<Lanes>(Scalar(1.0 / (2 * F::kLogTerms + 1)));
#pragma GCC unroll 16
  for (int j = F::kLogTerms - 1; j >= 1; --j) {
    series = Scalar(1.0 / (2 * j + 1)) + square * series;
  }
  const Real power = convert<Real>(exponent);
  const Real fraction = Scalar(2) * f;
  const Real low = power * F::kLog2Low + fraction * (square * series);
  const Real result = power * F::kLog2High + (fraction + low);
  return select(x == Real{}, splat<Lanes>(Scalar(-INFINITY)), result);
}

// log(1 + f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1].
template <class Lanes>
DG_INLINE typename Lanes::Real log1p_beyond_linear(typename Lanes::Real f) {
  using Real = typename Lanes::Real;
  using Scalar = typename Lanes::Scalar;
  if constexpr (sizeof(Scalar) == 4) {
    // f^2 (-1/2 + f P(f)): P is the best approximation of its degree in the relative error of
    // log(1 + f), which it changes by 0.1 ulp. Dividing, as below, would take longer.
    constexpr Scalar kCoefficients[] = {
        0.3333333134651184f,  -0.25000807642936707f, 0.200012668967247f,   -0.16623802483081818f,
        0.14201368391513824f, -0.1315600872039795f,  0.12761931121349335f, -0.07644714415073395f};
    Real series = splat<Lanes>(kCoefficients[7]);
#pragma GCC unroll 8
    for (int j = 6; j >= 0; --j) series = kCoefficients[j] + f * series;
    return f * f * (f * series - Scalar(0.5));
  } else {
    // log(1 + f) = 2 artanh s with s = f / (2 + f), and 2 s = f - f^2 / 2 + s f^2 / 2.
    using F = Format<Scalar>;
    const Real s = f / (f + Scalar(2));
    const Real square = s * s;
    Real series = splat<Lanes>(Scalar(2.0 / (2 * F::kLogTerms + 1)));
#pragma GCC unroll 16
    for (int j = F::kLogTerms - 1; j >= 1; --j) {
      series = Scalar(2.0 / (2 * j + 1)) + square * series;
    }
    const Real half_square = Scalar(0.5) * f * f;
    return s * (half_square + square * series) - half_square;
  }
}

// exponent log 2 + log(1 + f).
template <class Lanes>
DG_INLINE typename Lanes::Real log_of_parts(typename Lanes::Real exponent, typename Lanes::Real f) {
  using F = Format<typename Lanes::Scalar>;
  const auto low = exponent * F::kLog2Low + log1p_beyond_linear<Lanes>(f);
  return exponent * F::kLog2High + (f + low);
}

// log(x) for x positive and normal.
template <class Lanes>
DG_INLINE typename Lanes::Real log_normal(typename Lanes::Real x) {
  using Int = typename Lanes::Int;
  using Scalar = typename Lanes::Scalar;
  using F = Format<Scalar>;
  const Int bits = bit_cast<Int>(x);
  const Int exponent = (bits - F::kHalfRootBits) >> F::kMantissaBits;
  const auto mantissa = bit_cast<typename Lanes::Real>(bits - (exponent << F::kMantissaBits));
  return log_of_parts<Lanes>(convert<typename Lanes::Real>(exponent), mantissa - Scalar(1));
}

// log(1 - v) for v in (0, 1 - 2^-24].
template <class Lanes>
DG_INLINE typename Lanes::Real log1m(typename Lanes::Real v) {
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using Scalar = typename Lanes::Scalar;
  using F = Format<Scalar>;
  // 1 - v = 2^e (1 + f). Only e comes from the rounded difference: (2^-e - 1) - 2^-e v is exact.
  const Int exponent = (bit_cast<Int>(Scalar(1) - v) - F::kHalfRootBits) >> F::kMantissaBits;
  const Real scale = bit_cast<Real>((F::kBias - exponent) << F::kMantissaBits);
  return log_of_parts<Lanes>(convert<Real>(exponent), (scale - Scalar(1)) - scale * v);
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
