// SPDX-License-Identifier: Apache-2.0
//
// Philox (core/philox.h) for several blocks at once: a lane holds one 32-bit word in 64 bits.
#pragma once

#include <utility>

#include "core/philox.h"
#include "cpu/simd/vec.h"

namespace dg {
inline namespace CPU_CAPABILITY {

constexpr int kBlocksTogether = kVectorBytes / 8;

struct PhiloxLanes {
  UInt64Vec word[4];  // the low 32 bits of each lane
};

// Blocks c0[0 .. kSets - 1] of the same stream or streams: side by side, since each round waits for
// the one before, and the keys are the same.
template <int kSets>
DG_INLINE void philox_sets(const UInt64Vec* c0, UInt64Vec c1, UInt64Vec c2, uint32_t c3,
                           uint64_t seed, PhiloxLanes* to) {
  const UInt64Vec zero{};
  UInt64Vec x0[kSets], x1[kSets], x2[kSets], x3[kSets];
  for (int set = 0; set < kSets; ++set) {
    x0[set] = c0[set];
    x1[set] = c1;
    x2[set] = c2;
    x3[set] = zero + c3;
  }
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int set = 0; set < kSets; ++set) {
      const UInt64Vec product0 = multiply_low_words(x0[set], zero + kPhiloxMultiplier0);
      const UInt64Vec product1 = multiply_low_words(x2[set], zero + kPhiloxMultiplier1);
      // The high halves of x1 and x3 carry rubbish that no product reads.
      x0[set] = (product1 >> 32) ^ x1[set] ^ key0;
      x2[set] = (product0 >> 32) ^ x3[set] ^ key1;
      x1[set] = product1;
      x3[set] = product0;
    }
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  constexpr uint64_t kLow = 0xFFFFFFFFull;
  for (int set = 0; set < kSets; ++set) {
    to[set] = {{x0[set] & kLow, x1[set] & kLow, x2[set] & kLow, x3[set] & kLow}};
  }
}

DG_INLINE PhiloxLanes philox_lanes(UInt64Vec c0, UInt64Vec c1, UInt64Vec c2, uint32_t c3,
                                   uint64_t seed) {
  PhiloxLanes lanes;
  philox_sets<1>(&c0, c1, c2, c3, seed, &lanes);
  return lanes;
}

// to = a[0], b[0], a[1], b[1], ...
template <int... lane>
DG_INLINE void interleave(UInt64Vec a, UInt64Vec b, uint64_t* to,
                          std::integer_sequence<int, lane...>) {
  constexpr int kHalf = kBlocksTogether / 2;
  const UInt64Vec first =
      __builtin_shufflevector(a, b, ((lane / 2) + (lane % 2) * kBlocksTogether)...);
  const UInt64Vec second =
      __builtin_shufflevector(a, b, ((lane / 2) + kHalf + (lane % 2) * kBlocksTogether)...);
  std::memcpy(to, &first, sizeof(first));
  std::memcpy(to + kBlocksTogether, &second, sizeof(second));
}

// The words of all lanes, block after block.
DG_INLINE void store_blocks(const PhiloxLanes& lanes, uint32_t* words) {
  // Word pairs (0, 1) and (2, 3) of each block, as 64-bit numbers, in turn.
  const UInt64Vec low = lanes.word[0] | (lanes.word[1] << 32);
  const UInt64Vec high = lanes.word[2] | (lanes.word[3] << 32);
  uint64_t* pairs = reinterpret_cast<uint64_t*>(words);
  interleave(low, high, pairs, std::make_integer_sequence<int, kBlocksTogether>{});
}

// Of one stream, so many words at once.
constexpr int kStreamSets = 2;
constexpr int kStreamWords = 4 * kBlocksTogether * kStreamSets;

// The words of positions [4 block, 4 block + kStreamWords) of one stream, in order.
DG_INLINE void stream_words(const PhiloxStream& stream, int64_t block, uint32_t* words) {
  const UInt64Vec zero{};
  UInt64Vec c0[kStreamSets];
  for (int set = 0; set < kStreamSets; ++set) {
    c0[set] = count_up<UInt64Vec>() + static_cast<uint64_t>(block + set * kBlocksTogether);
  }
  PhiloxLanes lanes[kStreamSets];
  philox_sets<kStreamSets>(c0, zero + (stream.row & 0xFFFFFFFFull), zero + (stream.row >> 32),
                           stream.tag, stream.seed, lanes);
  for (int set = 0; set < kStreamSets; ++set) {
    store_blocks(lanes[set], words + 4 * kBlocksTogether * set);
  }
}

// The words of `count` blocks, the first at `block` of stream `row`, which has `blocks_per_row` of
// them and is followed by the streams row + step, ... Writes whole vectors, so up to
// 4 (kBlocksTogether - 1) words too many.
DG_INLINE void rows_words(const PhiloxStream& stream, uint64_t step, int64_t blocks_per_row,
                          int64_t block, int64_t count, uint32_t* words) {
  uint64_t block_of[kBlocksTogether], row_of[kBlocksTogether];
  for (int64_t b = 0; b < kBlocksTogether; ++b) {
    block_of[b] = static_cast<uint64_t>((block + b) % blocks_per_row);
    row_of[b] = stream.row + step * static_cast<uint64_t>((block + b) / blocks_per_row);
  }
  Int64Vec c0, row;
  std::memcpy(&c0, block_of, sizeof(c0));
  std::memcpy(&row, row_of, sizeof(row));
  const int64_t block_advance = kBlocksTogether % blocks_per_row;
  const int64_t row_advance = static_cast<int64_t>(step) * (kBlocksTogether / blocks_per_row);
  for (int64_t done = 0; done < count; done += kBlocksTogether) {
    const UInt64Vec c1 = reinterpret_cast<UInt64Vec>(row);
    store_blocks(
        philox_lanes(reinterpret_cast<UInt64Vec>(c0), c1, c1 >> 32, stream.tag, stream.seed),
        words + 4 * done);
    c0 += block_advance;
    const Int64Vec wraps = c0 >= blocks_per_row;
    c0 -= wraps & blocks_per_row;
    row += row_advance + (wraps & static_cast<int64_t>(step));
  }
}

// uniform_from_bits of the word in each 64-bit lane.
DG_INLINE DoubleVec uniform_lanes(UInt64Vec word) {
  // Behind the leading bits of 2^52 the word is an integer number of units of the last place.
  const UInt64Vec zero{};
  const DoubleVec number = bit_cast<DoubleVec>(word | (zero + 0x4330000000000000ull)) - 0x1p52;
  const DoubleVec v = (number + 0.5) * 0x1p-32;
  const DoubleVec largest = splat<Wide<double>>(1.0 - 0x1p-24);
  return select(v < largest, v, largest);
}

// The uniforms of positions 4 block .. 4 block + 3, each for one row per lane.
template <class Lanes>
DG_INLINE void row_uniforms(uint64_t seed, const uint64_t* rows, uint32_t tag, uint32_t block,
                            typename Lanes::Real* uniforms) {
  using Scalar = typename Lanes::Scalar;
  constexpr int kLanes = Lanes::kLanes;
  Scalar value[4][kLanes];
  if constexpr (kLanes < kBlocksTogether) {
    for (int l = 0; l < kLanes; ++l) {
      const PhiloxBlock one = philox_block(PhiloxStream{seed, rows[l], tag}, block);
      for (int w = 0; w < 4; ++w) value[w][l] = static_cast<Scalar>(uniform_from_bits(one.word[w]));
    }
  } else {
    const UInt64Vec zero{};
    for (int first = 0; first < kLanes; first += kBlocksTogether) {
      UInt64Vec row;
      std::memcpy(&row, rows + first, sizeof(row));
      const PhiloxLanes lanes =
          philox_lanes(zero + block, row & 0xFFFFFFFFull, row >> 32, tag, seed);
      for (int w = 0; w < 4; ++w) {
        const DoubleVec uniform = uniform_lanes(lanes.word[w]);
        for (int l = 0; l < kBlocksTogether; ++l) {
          value[w][first + l] = static_cast<Scalar>(uniform[l]);
        }
      }
    }
  }
  for (int w = 0; w < 4; ++w) uniforms[w] = load<Lanes>(value[w]);
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
