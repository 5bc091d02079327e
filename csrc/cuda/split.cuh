// SPDX-License-Identifier: Apache-2.0
//
// The part of a long row that a block has, and loops over its items.
#pragma once

#include "cuda/contour_items.cuh"
#include "cuda/split.h"

namespace dg {
namespace cuda {

using SplitTeam = Team<kSplitThreads, /*kMarch=*/true>;
// Items of a block that are in registers at a time.
using SplitTile = FusedShape<kSplitThreads, 4>;
constexpr int64_t kSplitTileItems = kSplitThreads * SplitTile::kItems;

// A thread sums at most this many terms before it goes on in double.
constexpr int kFold = 64;

struct Part {
  int64_t block;  // its multiples are offsets: 64 bits
  int64_t row, number, begin, end;

  DG_DEVICE Part(Split split, int64_t n)
      : block(blockIdx.x),
        row(block / split.parts),
        number(block % split.parts),
        begin(number * split.span),
        end(begin + split.span < n ? begin + split.span : n) {}
};

// body(i) for the items begin .. end - 1 that this thread has; fold() after every kFold of them.
template <class Body, class Fold>
DG_DEVICE void for_items(int64_t begin, int64_t end, Body&& body, Fold&& fold) {
  for (int64_t i = begin + threadIdx.x; i < end;) {
    for (int many = 0; many < kFold && i < end; ++many, i += kSplitThreads) body(i);
    fold();
  }
}

// The sums of a row's parts, put together; records of `width` numbers.
template <int kCount>
DG_DEVICE Sums<double, kCount> sum_of_parts(SplitTeam& team, const double* partial, int64_t parts,
                                            int64_t width) {
  Sums<double, kCount> sums = {};
  for (int64_t part = team.rank(); part < parts; part += kSplitThreads) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) sums.of[j] += partial[part * width + j];
  }
  return team.reduce(sums, Add());
}

}  // namespace cuda
}  // namespace dg
