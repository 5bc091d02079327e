// SPDX-License-Identifier: Apache-2.0
//
// Where samples go: k-hot numbers of any format, or ascending indices.
#pragma once

#include "cuda/launchers.h"
#include "cuda/team.cuh"

namespace dg {
namespace cuda {

struct SampleOutput {
  void* numbers;     // [num_samples, rows, n]; null: indices are wanted
  int64_t* indices;  // [num_samples, rows, k]
  SampleFormat format;
  int64_t n, k;

  // Number `at` of the k-hot output.
  DG_DEVICE void store(int64_t at, uint64_t bits) const {
    switch (format.bytes) {
      case 1:
        static_cast<uint8_t*>(numbers)[at] = static_cast<uint8_t>(bits);
        break;
      case 2:
        static_cast<uint16_t*>(numbers)[at] = static_cast<uint16_t>(bits);
        break;
      case 4:
        static_cast<uint32_t*>(numbers)[at] = static_cast<uint32_t>(bits);
        break;
      default:
        static_cast<uint64_t*>(numbers)[at] = bits;
    }
  }

  template <int kThreads>
  DG_DEVICE void store_invalid(const Team<kThreads>& team, int64_t draw) const {
    const int64_t columns = numbers != nullptr ? n : k;
    for (int64_t i = team.rank(); i < columns; i += kThreads) {
      if (numbers != nullptr) {
        store(draw * n + i, format.invalid);
      } else {
        indices[draw * k + i] = -1;
      }
    }
  }

  // A subset of at most 64 items, as bits.
  template <int kThreads>
  DG_DEVICE void store_bits(const Team<kThreads>& team, int64_t draw, uint64_t chosen) const {
    for (int i = team.rank(); i < n; i += kThreads) {
      const bool hit = (chosen >> i & 1) != 0;
      if (numbers != nullptr) {
        store(draw * n + i, hit ? format.chosen : 0);
      } else if (hit) {
        indices[draw * k + __popcll(chosen & ((uint64_t{1} << i) - 1))] = i;
      }
    }
  }

  // A subset of any size: is_chosen(i) for items 0 .. n - 1, by a whole block. Each warp takes a
  // span of items; `warp_totals`: a number for each warp, in shared memory.
  template <int kThreads, class IsChosen>
  DG_DEVICE void store_items(const Team<kThreads>& team, int64_t draw, int64_t* warp_totals,
                             IsChosen&& is_chosen) const {
    if (numbers != nullptr) {
      for (int64_t i = team.rank(); i < n; i += kThreads) {
        store(draw * n + i, is_chosen(i) ? format.chosen : 0);
      }
      return;
    }
    constexpr int kWarps = kThreads / static_cast<int>(kWarpThreads);
    const int warp = team.rank() / static_cast<int>(kWarpThreads);
    const int lane = team.rank() % static_cast<int>(kWarpThreads);
    const int64_t words = (n + kWarpThreads - 1) / kWarpThreads;
    const int64_t span = (words + kWarps - 1) / kWarps * kWarpThreads;
    const int64_t begin = warp * span, end = begin + span < n ? begin + span : n;
    int64_t total = 0;
    for (int64_t first = begin; first < end; first += kWarpThreads) {
      const bool hit = first + lane < end && is_chosen(first + lane);
      total += __popc(__ballot_sync(0xFFFFFFFFu, hit));
    }
    if (lane == 0) warp_totals[warp] = total;
    team.sync();
    int64_t* to = indices + draw * k;
    for (int w = 0; w < warp; ++w) to += warp_totals[w];
    for (int64_t first = begin; first < end; first += kWarpThreads) {
      const bool hit = first + lane < end && is_chosen(first + lane);
      const unsigned hits = __ballot_sync(0xFFFFFFFFu, hit);
      if (hit) to[__popc(hits & ((1u << lane) - 1u))] = first + lane;
      to += __popc(hits);
    }
  }
};

}  // namespace cuda
}  // namespace dg
