// SPDX-License-Identifier: Apache-2.0
//
// How the kernels of perturb-and-MAP go over the items of a row, with the noise of a draw.
#pragma once

#include "cuda/noise.cuh"
#include "cuda/selection.cuh"

namespace dg {
namespace cuda {

// Noise that is scaled by 0 is not made.
template <class T>
DG_DEVICE BlockNoise<T> noise_or_none(bool is_silent, const NoiseLaw<T>& law,
                                      const PhiloxStream& stream, int64_t block) {
  if (is_silent) return {};
  return noise_of_block(law, stream, block);
}

// body(j, i, noise) for a member's items j = 0 .. kItems - 1 that are in a row of n; i: the index.
template <int kItems, class T, class TeamType, class Body>
DG_DEVICE void for_own_items(const TeamType& team, int64_t n, bool is_silent,
                             const NoiseLaw<T>& law, const PhiloxStream& stream, Body&& body) {
  static_assert(kItems % kBlockItems == 0, "members take whole blocks");
#pragma unroll
  for (int j = 0; j < kItems; j += kBlockItems) {
    const int64_t first = item_of_member<TeamType::kThreads>(team.rank(), j);
    BlockNoise<T> noise = {};
    if (first < n) noise = noise_or_none(is_silent, law, stream, first / kBlockItems);
#pragma unroll
    for (int c = 0; c < kBlockItems; ++c) {
      if (first + c < n) body(j + c, first + c, noise.of[c]);
    }
  }
}

// body(i, noise) for this member's items of a row of any length.
template <class T, class TeamType, class Body>
DG_DEVICE void for_items_of_long(const TeamType& team, int64_t n, bool is_silent,
                                 const NoiseLaw<T>& law, const PhiloxStream& stream, Body&& body) {
  const int64_t blocks = (n + kBlockItems - 1) / kBlockItems;
  for (int64_t block = team.rank(); block < blocks; block += TeamType::kThreads) {
    const BlockNoise<T> noise = noise_or_none(is_silent, law, stream, block);
#pragma unroll
    for (int c = 0; c < kBlockItems; ++c) {
      const int64_t i = block * kBlockItems + c;
      if (i < n) body(i, noise.of[c]);
    }
  }
}

}  // namespace cuda
}  // namespace dg
