// SPDX-License-Identifier: Apache-2.0
//
// Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and the layout of its counter.
//
//   key     = the 64-bit seed
//   counter = (position / 4, row low, row high, purpose | round << 8)
//
// `row` is the index of the (sample, row) pair. Word (position mod 4) of the block belongs to
// `position`. Two draws with different (row, purpose, round, position) never share a word, so a
// result does not depend on how the work was split over threads.
#pragma once

#include <cstdint>

#include "core/platform.h"

namespace dg {

// What a random word is used for: the low 8 bits of the last counter word.
enum class Purpose : uint32_t { kTreeSplit = 0, kItemDraw = 1, kAcceptance = 2, kPerturbation = 3 };

struct PhiloxBlock {
  uint32_t word[4];
};

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// One stream of words: everything of the counter but the position.
struct PhiloxStream {
  uint64_t seed;
  uint64_t row;
  uint32_t tag;  // purpose | round << 8
};

DG_INLINE PhiloxStream philox_stream(uint64_t seed, uint64_t row, Purpose purpose, uint32_t round) {
  return PhiloxStream{seed, row, static_cast<uint32_t>(purpose) | (round << 8)};
}

DG_INLINE PhiloxBlock philox_block(const PhiloxStream& stream, uint32_t block) {
  uint32_t x0 = block;
  uint32_t x1 = static_cast<uint32_t>(stream.row);
  uint32_t x2 = static_cast<uint32_t>(stream.row >> 32);
  uint32_t x3 = stream.tag;
  uint32_t key0 = static_cast<uint32_t>(stream.seed);
  uint32_t key1 = static_cast<uint32_t>(stream.seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(x0) * kPhiloxMultiplier0;
    const uint64_t product1 = static_cast<uint64_t>(x2) * kPhiloxMultiplier1;
    x0 = static_cast<uint32_t>(product1 >> 32) ^ x1 ^ key0;
    x1 = static_cast<uint32_t>(product1);
    x2 = static_cast<uint32_t>(product0 >> 32) ^ x3 ^ key1;
    x3 = static_cast<uint32_t>(product0);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return PhiloxBlock{{x0, x1, x2, x3}};
}

// A uniform in the open interval (0, 1): its fine end, in steps of 2^-32, is at 0.
DG_INLINE double uniform_from_bits(uint32_t bits) {
  const double v = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  const double largest = 1.0 - 0x1p-24;
  return v < largest ? v : largest;
}

DG_INLINE double philox_uniform(const PhiloxStream& stream, uint32_t position) {
  const PhiloxBlock block = philox_block(stream, position / 4);
  return uniform_from_bits(block.word[position % 4]);
}

}  // namespace dg
