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

// Each vector is n blocks of kLanes / n lanes: block j of vector i <-> block i of vector j. The
// off-diagonal quarters are exchanged, then each quarter is transposed alike.
template <class Lanes, int n, int distance = n / 2>
DG_INLINE void transpose_vectors(typename Lanes::Real* vectors) {
  if constexpr (distance >= 1) {
    constexpr int kLanes = Lanes::kLanes;
    constexpr int kShift = distance * (kLanes / n);  // of lanes
    const auto lanes = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
      if ((i & distance) != 0) continue;
      const auto a = vectors[i], b = vectors[i + distance];
      vectors[i] = interleave_blocks<kShift, false>(a, b, lanes);
      vectors[i + distance] = interleave_blocks<kShift, true>(a, b, lanes);
    }
    transpose_vectors<Lanes, n, distance / 2>(vectors);
  }
}

// Rows of n < kLanes items, as many as there are lanes, are n whole vectors, and so are their
// columns. From one to the other: within each vector, which holds kLanes / n rows, then the
// vectors.
template <class Lanes, int n, int rows_in_one, class Vector, int... lane>
DG_INLINE Vector transpose_within(Vector value, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(value, value, (lane % rows_in_one * n + lane / rows_in_one)...);
}

template <class Lanes, int n>
DG_INLINE void read_narrow_columns(const typename Lanes::Scalar* rows,
                                   typename Lanes::Real* columns) {
  constexpr int kLanes = Lanes::kLanes;
  const auto lanes = std::make_integer_sequence<int, kLanes>{};
  typename Lanes::Real vectors[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    vectors[i] = transpose_within<Lanes, n, kLanes / n>(load<Lanes>(rows + i * kLanes), lanes);
  }
  transpose_vectors<Lanes, n>(vectors);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) columns[i] = vectors[i];
}

template <class Lanes, int n>
DG_INLINE void write_narrow_columns(const typename Lanes::Real* columns,
                                    typename Lanes::Scalar* rows) {
  constexpr int kLanes = Lanes::kLanes;
  const auto lanes = std::make_integer_sequence<int, kLanes>{};
  typename Lanes::Real vectors[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) vectors[i] = columns[i];
  transpose_vectors<Lanes, n>(vectors);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    store<Lanes>(rows + i * kLanes, transpose_within<Lanes, kLanes / n, n>(vectors[i], lanes));
  }
}

// body(n as a constant), if rows of n items have code of their own: those of N:M masks.
template <class Lanes, class Body>
DG_INLINE bool with_narrow_rows(int64_t n, Body&& body) {
  if constexpr (Lanes::kLanes > 4) {
    if (n == 4) {
      body(std::integral_constant<int, 4>());
      return true;
    }
  }
  if constexpr (Lanes::kLanes > 8) {
    if (n == 8) {
      body(std::integral_constant<int, 8>());
      return true;
    }
  }
  return false;
}

// Lane l of block[i] and lane i of block[l] change places; then each block is given to
// use(i, block[i]) in turn, i < count. A loop over a number that the compiler knows copies nothing.
template <class Lanes, class Use>
DG_INLINE void transpose_each(typename Lanes::Real* block, int count, Use&& use) {
  transpose_vectors<Lanes, Lanes::kLanes>(block);
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
  const bool done = count == kLanes && with_narrow_rows<Lanes>(n, [&](auto items) {
                      read_narrow_columns<Lanes, items()>(rows + first * n, columns);
                    });
  if (done) return;
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
  const bool done = count == kLanes && with_narrow_rows<Lanes>(n, [&](auto items) {
                      write_narrow_columns<Lanes, items()>(columns, rows + first * n);
                    });
  if (done) return;
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
