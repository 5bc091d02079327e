// SPDX-License-Identifier: Apache-2.0
//
// Perturbation noise: Philox words, uniform survival probabilities, quantiles (core/quantiles.h).
#pragma once

#include "core/philox.h"
#include "core/quantiles.h"
#include "cuda/launchers.h"
#include "cuda/math.cuh"

namespace dg {
namespace cuda {

// min((bits + 1/2) 2^-32, 1 - 2^-24), each operation rounded once.
template <class T>
DG_DEVICE T survival_of(uint32_t bits) {
  const T v = (static_cast<T>(bits) + T(0.5)) * T(0x1p-32);
  const T largest = T(1.0 - 0x1p-24);
  return v < largest ? v : largest;
}

DG_DEVICE int32_t bits_of_number(float x) { return __float_as_int(x); }
DG_DEVICE int64_t bits_of_number(double x) { return __double_as_longlong(x); }

// The noise at the survival probability v.
template <class T>
DG_DEVICE T quantile_at(const T* quantiles, T v) {
  if (quantiles == nullptr) return -std::log(-std::log1p(-v));
  using Grid = QuantileGrid<T>;
  const bool is_low = v < T(0.5);
  const auto bits = bits_of_number(is_low ? v : T(1) - v);
  const int piece =
      static_cast<int>((bits >> Grid::kShift) - (is_low ? Grid::kFirstOfV : Grid::kFirstOfRest));
  const T t = static_cast<T>(bits & Grid::kPlaceMask) * Grid::kPlaceUnit;
  const T* c = quantiles + kQuantileCoefficients * piece;
  // Rounded products: every kernel that makes this noise again makes the same bits.
  const T slope = c[1] + rounded_product(t, c[2] + rounded_product(t, c[3]));
  return c[0] + rounded_product(t, slope);
}

// Of four items that share a Philox block.
constexpr int kBlockItems = 4;
template <class T>
struct BlockNoise {
  T of[kBlockItems];
};

// `draw`: index of the (sample, row) pair.
template <class T>
DG_DEVICE PhiloxStream noise_stream(const NoiseLaw<T>& law, int64_t draw) {
  return philox_stream(static_cast<uint64_t>(*law.seed), static_cast<uint64_t>(draw),
                       Purpose::kPerturbation, 0);
}

template <class T>
DG_DEVICE BlockNoise<T> noise_of_block(const NoiseLaw<T>& law, const PhiloxStream& stream,
                                       int64_t block) {
  const PhiloxBlock words = philox_block(stream, static_cast<uint32_t>(block));
  BlockNoise<T> noise;
#pragma unroll
  for (int c = 0; c < kBlockItems; ++c) {
    noise.of[c] = quantile_at(law.quantiles, survival_of<T>(words.word[c]));
  }
  return noise;
}

// That of one item.
template <class T>
DG_DEVICE T noise_of_item(const NoiseLaw<T>& law, const PhiloxStream& stream, int64_t i) {
  const PhiloxBlock words = philox_block(stream, static_cast<uint32_t>(i / kBlockItems));
  const int c = static_cast<int>(i % kBlockItems);
  const uint32_t low = c == 0 ? words.word[0] : words.word[1];
  const uint32_t high = c == 2 ? words.word[2] : words.word[3];
  return quantile_at(law.quantiles, survival_of<T>(c < 2 ? low : high));
}

}  // namespace cuda
}  // namespace dg
