// SPDX-License-Identifier: Apache-2.0
//
// Between rows in memory and vectors that hold one row per lane.
#pragma once

#include "cpu/simd/row.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Of a pair of vectors, blocks of `distance` lanes: the even blocks of both, or the odd ones.
template <int distance, bool kOdd, class Vector, int... lane>
DG_INLINE Vector interleave_blocks(Vector a, Vector b, std::integer_sequence<int, lane...>) {
  constexpr int kLanes = sizeof...(lane);
  if constexpr (kOdd) {
    return __builtin_shufflevector(a, b,
                                   ((lane & distance) != 0 ? kLanes + lane : lane + distance)...);
  } else {
    return __builtin_shufflevector(a, b,
                                   ((lane & distance) != 0 ? kLanes + lane - distance : lane)...);
  }
}

// block[i] lane j <-> block[j] lane i: the off-diagonal quarters are exchanged, then each quarter
// is transposed alike.
template <class Lanes, int distance = Lanes::kLanes / 2>
DG_INLINE void transpose_block(typename Lanes::Real* block) {
  if constexpr (distance >= 1) {
    constexpr int kLanes = Lanes::kLanes;
    const auto lanes = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & distance) != 0) continue;
      const auto a = block[i], b = block[i + distance];
      block[i] = interleave_blocks<distance, false>(a, b, lanes);
      block[i + distance] = interleave_blocks<distance, true>(a, b, lanes);
    }
    transpose_block<Lanes, distance / 2>(block);
  }
}

// Lane l of block[i] and lane i of block[l] change places; then each block is given to
// use(i, block[i]) in turn, i < count. A loop over a number that the compiler knows copies nothing.
template <class Lanes, class Use>
DG_INLINE void transpose_each(typename Lanes::Real* block, int count, Use&& use) {
  transpose_block<Lanes>(block);
  if (count == Lanes::kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < Lanes::kLanes; ++i) use(i, block[i]);
  } else {
    for (int i = 0; i < count; ++i) use(i, block[i]);
  }
}

// columns[i] = item i of rows first .. first + count - 1, [rows, n]; unused lanes repeat the last.
template <class Lanes>
void read_columns(const typename Lanes::Scalar* rows, int64_t n, int64_t first, int count,
                  typename Lanes::Real* columns) {
  constexpr int kLanes = Lanes::kLanes;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int width = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    typename Lanes::Real block[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      block[l] = load_items<Lanes>(rows + (first + (l < count ? l : count - 1)) * n, i, width, 0);
    }
    transpose_each<Lanes>(block, width, [&](int j, auto column) { columns[i + j] = column; });
  }
}

// The inverse; unused lanes are left out.
template <class Lanes>
void write_columns(const typename Lanes::Real* columns, int64_t n, int64_t first, int count,
                   typename Lanes::Scalar* rows) {
  constexpr int kLanes = Lanes::kLanes;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int width = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    typename Lanes::Real block[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) block[j] = columns[i + (j < width ? j : 0)];
    transpose_each<Lanes>(block, count, [&](int l, auto row) {
      store_items<Lanes>(rows + (first + l) * n, i, width, row);
    });
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
