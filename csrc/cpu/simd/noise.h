// SPDX-License-Identifier: Apache-2.0
//
// Perturbation noise: Philox words, uniform survival probabilities, quantiles. By tiles that stay
// in the first cache, one loop for each step, so that each keeps its constants in registers.
#pragma once

#include "core/philox.h"
#include "core/quantiles.h"
#include "cpu/kernels.h"
#include "cpu/simd/math.h"
#include "cpu/simd/random.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Items of a tile, and room for the vectors that reach beyond its end.
constexpr int64_t kNoiseTile = 1024;
constexpr int64_t kNoiseRoom = kNoiseTile + 4 * kBlocksTogether;

DG_INLINE int64_t blocks_of(int64_t n) { return (n + 3) / 4; }

// min((bits + 1/2) 2^-32, 1 - 2^-24), each operation rounded once as in any other float arithmetic.
template <class Lanes>
DG_INLINE typename Lanes::Real load_uniform(const uint32_t* words) {
  using Scalar = typename Lanes::Scalar;
  using Real = typename Lanes::Real;
  Real bits;
  if constexpr (sizeof(Scalar) == 4) {
    Int32Vec word;
    std::memcpy(&word, words, sizeof(word));
    // Without a conversion of unsigned numbers: the halves are exact, and so is the scaled one.
    bits = convert<Real>((word >> 16) & 0xFFFF) * 65536.0f + convert<Real>(word & 0xFFFF);
  } else {
    typedef uint32_t Words __attribute__((vector_size(kVectorBytes / 2)));
    Words word;
    std::memcpy(&word, words, sizeof(word));
    // 2^52 + bits, by putting the word into the fraction.
    constexpr int64_t kBitsOfTwo52 = 0x4330000000000000;
    bits = bit_cast<Real>(__builtin_convertvector(word, Int64Vec) | kBitsOfTwo52) - 0x1p52;
  }
  const Real v = (bits + Scalar(0.5)) * Scalar(0x1p-32);
  return smaller(v, splat<Lanes>(Scalar(1.0 - 0x1p-24)));
}

// The scalars at 4 index[l], 4 index[l] + 1, ... for each lane l: one vector for each of the four.
DG_INLINE void load_fours(const double* from, Int64Vec index, DoubleVec* result) {
  constexpr int kLanes = Wide<double>::kLanes;
  double lane[4][kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const double* four = from + 4 * index[l];
    for (int c = 0; c < 4; ++c) lane[c][l] = four[c];
  }
  for (int c = 0; c < 4; ++c) result[c] = load<Wide<double>>(lane[c]);
}

typedef float FloatFour __attribute__((vector_size(16)));

template <class Half, int... lane>
DG_INLINE auto concatenate(Half low, Half high, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(low, high, lane...);
}

// The four floats at from + 4 index[0], those at from + 4 index[4], ... side by side.
template <int lanes>
DG_INLINE auto join_fours(const float* from, const int32_t* index) {
  if constexpr (lanes == 4) {
    FloatFour four;
    std::memcpy(&four, from + 4 * index[0], sizeof(four));
    return four;
  } else {
    const auto low = join_fours<lanes / 2>(from, index);
    const auto high = join_fours<lanes / 2>(from, index + lanes / 2);
    return concatenate(low, high, std::make_integer_sequence<int, lanes>{});
  }
}

// The transposition of four by four floats in each 128-bit part.
template <int... lane>
DG_INLINE void transpose_fours(const FloatVec* row, FloatVec* result,
                               std::integer_sequence<int, lane...>) {
  constexpr int kLanes = Wide<float>::kLanes;
  // Lane l of the interleaving of the low halves of each part of a and b, then of pairs of lanes.
  const auto low = [](FloatVec a, FloatVec b) {
    return __builtin_shufflevector(a, b,
                                   (lane / 4 * 4 + lane % 4 / 2 + (lane % 2 == 0 ? 0 : kLanes))...);
  };
  const auto high = [](FloatVec a, FloatVec b) {
    return __builtin_shufflevector(
        a, b, (lane / 4 * 4 + 2 + lane % 4 / 2 + (lane % 2 == 0 ? 0 : kLanes))...);
  };
  const FloatVec a = low(row[0], row[2]), b = low(row[1], row[3]);
  const FloatVec c = high(row[0], row[2]), d = high(row[1], row[3]);
  result[0] = low(a, b);
  result[1] = high(a, b);
  result[2] = low(c, d);
  result[3] = high(c, d);
}

DG_INLINE void load_fours(const float* from, Int32Vec index, FloatVec* result) {
  constexpr int kLanes = Wide<float>::kLanes;
  int32_t lane[kLanes];
  std::memcpy(lane, &index, sizeof(lane));
  FloatVec row[4];
  for (int r = 0; r < 4; ++r) row[r] = join_fours<kLanes>(from, lane + r);
  transpose_fours(row, result, std::make_integer_sequence<int, kLanes>{});
}

template <class Lanes>
DG_INLINE typename Lanes::Real table_quantile(const typename Lanes::Scalar* quantiles,
                                              typename Lanes::Real v) {
  using Scalar = typename Lanes::Scalar;
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using Grid = QuantileGrid<Scalar>;
  const Int is_low = v < Scalar(0.5);
  const Int bits = bit_cast<Int>(select(is_low, v, Scalar(1) - v));
  const Int first = is_low ? Int{} + Grid::kFirstOfV : Int{} + Grid::kFirstOfRest;
  const Real t = convert<Real>(bits & Grid::kPlaceMask) * Grid::kPlaceUnit;
  Real c[kQuantileCoefficients];
  load_fours(quantiles, (bits >> Grid::kShift) - first, c);
  return c[0] + t * (c[1] + t * (c[2] + t * c[3]));
}

template <class T>
DG_INLINE void words_to_noise(const uint32_t* words, int64_t count, const T* quantiles, T* noise) {
  using Lanes = Wide<T>;
  if (quantiles == nullptr) {
    for (int64_t i = 0; i < count; i += Lanes::kLanes) {
      const auto v = load_uniform<Lanes>(words + i);
      store<Lanes>(noise + i, -log_normal<Lanes>(-log1m<Lanes>(v)));
    }
  } else {
    for (int64_t i = 0; i < count; i += Lanes::kLanes) {
      store<Lanes>(noise + i, table_quantile<Lanes>(quantiles, load_uniform<Lanes>(words + i)));
    }
  }
}

// The noise of `count` blocks of four items, the first at `block` of row `row`, whose n items are
// followed by the rows row + step, ..., each from a multiple of four on. At most a tile; `noise`
// has kNoiseRoom scalars.
template <class T>
void make_noise(const NoiseLaw<T>& law, uint64_t row, uint64_t step, int64_t n, int64_t block,
                int64_t count, T* noise) {
  alignas(kVectorBytes) uint32_t words[kNoiseRoom];
  const PhiloxStream stream = philox_stream(law.seed, row, Purpose::kPerturbation, /*round=*/0);
  rows_words(stream, step, blocks_of(n), block, count, words);
  words_to_noise<T>(words, 4 * count, law.quantiles, noise);
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
