// SPDX-License-Identifier: Apache-2.0
//
// Drawn subsets as the caller wants them: k-hot numbers of any width, or indices.
#pragma once

#include "cpu/simd/buffer.h"
#include "cpu/simd/row.h"

namespace dg {
inline namespace CPU_CAPABILITY {

template <class Word>
void write_words(const uint8_t* chosen, int64_t n, const SubsetOutput& out, int64_t p) {
  Word* to = static_cast<Word*>(out.data) + p * n;
  const Word one = static_cast<Word>(out.one), invalid = static_cast<Word>(out.invalid);
  if (chosen == nullptr) {
    for (int64_t i = 0; i < n; ++i) to[i] = invalid;
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = chosen[i] != 0 ? one : Word(0);
  }
}

// Row p of `out` from one byte for each of n items, 1 if chosen; null: an invalid row. k: how many
// are chosen, which is the width of a row of indices.
inline void write_subset(const SubsetOutput& out, int64_t p, int64_t n, int64_t k,
                         const uint8_t* chosen) {
  if (out.form == SubsetOutput::Form::kIndices) {
    int64_t* to = static_cast<int64_t*>(out.data) + p * k;
    if (chosen == nullptr) {
      for (int64_t j = 0; j < k; ++j) to[j] = -1;
      return;
    }
    for (int64_t i = 0; i < n; ++i) {
      if (chosen[i] != 0) *to++ = i;
    }
  } else if (out.width == 2) {
    write_words<uint16_t>(chosen, n, out, p);
  } else if (out.width == 4) {
    write_words<uint32_t>(chosen, n, out, p);
  } else {
    write_words<uint64_t>(chosen, n, out, p);
  }
}

// The subset of a row that is certain: the forced items, or all but the excluded ones.
template <class T>
void mark_certain(const T* row, int64_t n, RowKind kind, uint8_t* chosen) {
  for (int64_t i = 0; i < n; ++i) {
    chosen[i] = kind == RowKind::kNone ? row[i] == T(INFINITY) : row[i] > -T(INFINITY);
  }
}

// Row p of `out` for a row of the problem that leaves no choice.
template <class T>
void write_certain(const SubsetOutput& out, int64_t p, const Rows<T>& problem, int64_t row,
                   RowKind kind) {
  const int64_t n = problem.n, k = problem.row_count(row);
  if (kind == RowKind::kInvalid) {
    write_subset(out, p, n, k, nullptr);
    return;
  }
  Buffer<uint8_t> chosen(n);
  mark_certain<T>(problem.logits + row * n, n, kind, chosen.get());
  write_subset(out, p, n, k, chosen.get());
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
