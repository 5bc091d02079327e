// SPDX-License-Identifier: Apache-2.0
//
// Native-width vectors through the compiler's vector extensions, one spelling for every SIMD level.
//
// The file is compiled once per level (CPU_CAPABILITY = DEFAULT, AVX2, AVX512); the namespace keeps
// the copies apart. Comparisons yield integer masks (0 or -1 per lane); `mask ? a : b` selects.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/platform.h"

#ifndef CPU_CAPABILITY
#define CPU_CAPABILITY DEFAULT
#endif

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace dg {
inline namespace CPU_CAPABILITY {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float FloatVec __attribute__((vector_size(kVectorBytes)));
typedef double DoubleVec __attribute__((vector_size(kVectorBytes)));
typedef int32_t Int32Vec __attribute__((vector_size(kVectorBytes)));
typedef int64_t Int64Vec __attribute__((vector_size(kVectorBytes)));
typedef uint64_t UInt64Vec __attribute__((vector_size(kVectorBytes)));

// Scalar type -> vector, its integer mask, and the number of lanes. `Single` is the same interface
// for one lane, so that code written for lanes also serves one row at a time.
template <class T>
struct Wide;
template <>
struct Wide<float> {
  using Scalar = float;
  using Real = FloatVec;
  using Int = Int32Vec;
  using IntScalar = int32_t;
  static constexpr int kLanes = kVectorBytes / 4;
};
template <>
struct Wide<double> {
  using Scalar = double;
  using Real = DoubleVec;
  using Int = Int64Vec;
  using IntScalar = int64_t;
  static constexpr int kLanes = kVectorBytes / 8;
};

template <class T>
struct Single;
template <>
struct Single<float> {
  using Scalar = float;
  using Real = float;
  using Int = int32_t;
  using IntScalar = int32_t;
  static constexpr int kLanes = 1;
};
template <>
struct Single<double> {
  using Scalar = double;
  using Real = double;
  using Int = int64_t;
  using IntScalar = int64_t;
  static constexpr int kLanes = 1;
};

template <class Lanes>
DG_INLINE typename Lanes::Real load(const typename Lanes::Scalar* from) {
  typename Lanes::Real value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class Lanes>
DG_INLINE void store(typename Lanes::Scalar* to, typename Lanes::Real value) {
  std::memcpy(to, &value, sizeof(value));
}

template <class Lanes>
DG_INLINE typename Lanes::Real load_first(const typename Lanes::Scalar* from, int count,
                                          typename Lanes::Scalar fill) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (std::is_same_v<typename Lanes::Real, FloatVec>) {
    const __mmask16 first = static_cast<__mmask16>((1u << count) - 1);
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first, from);
  } else if constexpr (std::is_same_v<typename Lanes::Real, DoubleVec>) {
    const __mmask8 first = static_cast<__mmask8>((1u << count) - 1);
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), first, from);
  }
#endif
  typename Lanes::Scalar lane[Lanes::kLanes];
  for (int l = 0; l < Lanes::kLanes; ++l) lane[l] = fill;
  for (int l = 0; l < count; ++l) lane[l] = from[l];
  return load<Lanes>(lane);
}

template <class Lanes>
DG_INLINE void store_first(typename Lanes::Scalar* to, typename Lanes::Real value, int count) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (std::is_same_v<typename Lanes::Real, FloatVec>) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), value);
    return;
  } else if constexpr (std::is_same_v<typename Lanes::Real, DoubleVec>) {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), value);
    return;
  }
#endif
  typename Lanes::Scalar lane[Lanes::kLanes];
  store<Lanes>(lane, value);
  for (int l = 0; l < count; ++l) to[l] = lane[l];
}

template <class Lanes>
DG_INLINE typename Lanes::Real splat(typename Lanes::Scalar value) {
  return value + typename Lanes::Real{};
}

// The value as it stands: the compiler may not contract the product that made it with a sum.
template <class Real>
DG_INLINE Real rounded(Real value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__SSE2__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

// Lane masks: a vector of 0 / -1 for vectors, a bool for one lane.
template <class Mask, class Real>
DG_INLINE Real select(Mask mask, Real yes, Real no) {
  return mask ? yes : no;
}
template <class Mask>
DG_INLINE bool any_lane(Mask mask) {
  if constexpr (sizeof(Mask) < kVectorBytes) {
    return static_cast<bool>(mask);
  } else {
    int64_t word[kVectorBytes / 8];
    std::memcpy(word, &mask, kVectorBytes);
    int64_t all = 0;
    for (int w = 0; w < kVectorBytes / 8; ++w) all |= word[w];
    return all != 0;
  }
}

// Bit l: whether lane l of the mask is set.
template <class Int>
DG_INLINE uint32_t lane_bits(Int mask) {
  constexpr bool kFourBytes = sizeof(mask[0]) == 4;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const __m512i wide = reinterpret_cast<__m512i>(mask);
  return kFourBytes ? _mm512_movepi32_mask(wide) : _mm512_movepi64_mask(wide);
#elif defined(__AVX2__)
  const __m256i wide = reinterpret_cast<__m256i>(mask);
  return static_cast<uint32_t>(kFourBytes ? _mm256_movemask_ps(_mm256_castsi256_ps(wide))
                                          : _mm256_movemask_pd(_mm256_castsi256_pd(wide)));
#elif defined(__SSE2__)
  const __m128i wide = reinterpret_cast<__m128i>(mask);
  return static_cast<uint32_t>(kFourBytes ? _mm_movemask_ps(_mm_castsi128_ps(wide))
                                          : _mm_movemask_pd(_mm_castsi128_pd(wide)));
#else
  uint32_t bits = 0;
  for (uint32_t l = 0; l < kVectorBytes / sizeof(mask[0]); ++l) {
    bits |= (mask[l] != 0 ? 1u : 0u) << l;
  }
  return bits;
#endif
}

template <class Real>
DG_INLINE Real larger(Real a, Real b) {
  return select(a > b, a, b);
}
template <class Real>
DG_INLINE Real smaller(Real a, Real b) {
  return select(a < b, a, b);
}

// 0, 1, 2, ...
template <class Int>
DG_INLINE Int count_up() {
  Int value;
  for (size_t l = 0; l < kVectorBytes / sizeof(value[0]); ++l) value[l] = static_cast<int>(l);
  return value;
}

template <int distance, class Vector, int... lane>
DG_INLINE Vector rotate_lanes(Vector value, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(value, value, ((lane + distance) % int(sizeof...(lane)))...);
}

// combine(lane 0, combine(lane 1, ...)) for an operation whose order does not matter.
template <int distance = 1, class Vector, class Combine>
DG_INLINE auto fold_lanes(Vector value, Combine&& combine) {
  constexpr int kLanes = kVectorBytes / sizeof(value[0]);
  if constexpr (distance == kLanes) {
    return value[0];
  } else {
    const auto lanes = std::make_integer_sequence<int, kLanes>{};
    return fold_lanes<2 * distance>(combine(value, rotate_lanes<distance>(value, lanes)), combine);
  }
}

// A vector of reals as this many vectors of doubles.
template <class Lanes>
constexpr int kDoubleParts = sizeof(double) / sizeof(typename Lanes::Scalar);

template <class Lanes>
DG_INLINE DoubleVec double_part(typename Lanes::Real value, int part) {
  typedef typename Lanes::Scalar Part
      __attribute__((vector_size(kVectorBytes / kDoubleParts<Lanes>)));
  Part parts[kDoubleParts<Lanes>];
  std::memcpy(parts, &value, sizeof(value));
  return __builtin_convertvector(parts[part], DoubleVec);
}

// The sum of all lanes, in double.
template <class Lanes>
DG_INLINE double sum_lanes(typename Lanes::Real value) {
  if constexpr (Lanes::kLanes == 1) {
    return static_cast<double>(value);
  } else {
    DoubleVec sum = double_part<Lanes>(value, 0);
    for (int part = 1; part < kDoubleParts<Lanes>; ++part) {
      sum += double_part<Lanes>(value, part);
    }
    return fold_lanes(sum, [](DoubleVec a, DoubleVec b) { return a + b; });
  }
}

// A sum for each lane, in double.
template <class Lanes>
class LaneTotals {
 public:
  void add(typename Lanes::Real value) {
    if constexpr (Lanes::kLanes == 1) {
      total_[0] += static_cast<double>(value);
    } else {
      for (int part = 0; part < kParts; ++part) total_[part] += double_part<Lanes>(value, part);
    }
  }

  void add_to(double* result) const {
    double lane[Lanes::kLanes];
    std::memcpy(lane, total_, sizeof(lane));
    for (int l = 0; l < Lanes::kLanes; ++l) result[l] += lane[l];
  }

  double total() const {
    double lane[Lanes::kLanes] = {};
    add_to(lane);
    double sum = 0.0;
    for (double value : lane) sum += value;
    return sum;
  }

 private:
  static constexpr int kParts = Lanes::kLanes == 1 ? 1 : kDoubleParts<Lanes>;
  std::conditional_t<Lanes::kLanes == 1, double, DoubleVec> total_[kParts] = {};
};

template <class Int>
DG_INLINE int64_t add_lanes(Int value) {
  return fold_lanes(value, [](Int a, Int b) { return a + b; });
}
template <class Real>
DG_INLINE auto largest_lane(Real value) {
  if constexpr (sizeof(Real) < kVectorBytes) {
    return value;
  } else {
    return fold_lanes(value, [](Real a, Real b) { return larger(a, b); });
  }
}
template <class Real>
DG_INLINE auto smallest_lane(Real value) {
  if constexpr (sizeof(Real) < kVectorBytes) {
    return value;
  } else {
    return fold_lanes(value, [](Real a, Real b) { return smaller(a, b); });
  }
}

template <class To, class From>
DG_INLINE To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
}

template <class To, class From>
DG_INLINE To convert(From value) {
  if constexpr (sizeof(From) < kVectorBytes) {
    return static_cast<To>(value);
  } else {
    return __builtin_convertvector(value, To);
  }
}

template <class Lanes>
DG_INLINE typename Lanes::IntScalar lane_of(typename Lanes::Int value, int l) {
  typename Lanes::IntScalar lane[Lanes::kLanes];
  std::memcpy(lane, &value, sizeof(value));
  return lane[l];
}

// Lane l of the result is rows[index of lane l] lane l where the mask is set, 0 elsewhere.
template <class Lanes>
DG_INLINE typename Lanes::Real gather_rows(const typename Lanes::Real* rows,
                                           typename Lanes::Int index, typename Lanes::Int mask) {
  using Scalar = typename Lanes::Scalar;
  using Int = typename Lanes::Int;
  constexpr int kLanes = Lanes::kLanes;
  const Scalar* from = reinterpret_cast<const Scalar*>(rows);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const auto at = reinterpret_cast<__m512i>(index * kLanes + count_up<Int>());
  if constexpr (std::is_same_v<Lanes, Wide<float>>) {
    return _mm512_mask_i32gather_ps(FloatVec{}, static_cast<__mmask16>(lane_bits(mask)), at, from,
                                    sizeof(Scalar));
  } else if constexpr (std::is_same_v<Lanes, Wide<double>>) {
    return _mm512_mask_i64gather_pd(DoubleVec{}, static_cast<__mmask8>(lane_bits(mask)), at, from,
                                    sizeof(Scalar));
  }
#elif defined(__AVX2__)
  const auto at = reinterpret_cast<__m256i>(index * kLanes + count_up<Int>());
  if constexpr (std::is_same_v<Lanes, Wide<float>>) {
    return _mm256_mask_i32gather_ps(FloatVec{}, from, at, reinterpret_cast<__m256>(mask),
                                    sizeof(Scalar));
  } else if constexpr (std::is_same_v<Lanes, Wide<double>>) {
    return _mm256_mask_i64gather_pd(DoubleVec{}, from, at, reinterpret_cast<__m256d>(mask),
                                    sizeof(Scalar));
  }
#else
  typename Lanes::IntScalar row[kLanes];
  const Int inside = index & mask;
  std::memcpy(row, &inside, sizeof(row));
  Scalar lane[kLanes];
  for (int l = 0; l < kLanes; ++l) lane[l] = from[static_cast<int64_t>(row[l]) * kLanes + l];
  return select(mask, load<Lanes>(lane), typename Lanes::Real{});
#endif
}

// The full 64-bit products of the low 32 bits of each 64-bit lane.
DG_INLINE UInt64Vec multiply_low_words(UInt64Vec a, UInt64Vec b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return reinterpret_cast<UInt64Vec>(
      _mm512_maskz_mul_epu32(0xFF, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<UInt64Vec>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<UInt64Vec>(
      _mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xFFFFFFFFull) * (b & 0xFFFFFFFFull);
#endif
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
