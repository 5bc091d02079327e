// SPDX-License-Identifier: Apache-2.0
//
// From tensors to rows: contiguous copies where needed, 16-bit logits as float32, and the division
// of the work over threads.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "cpu/kernels.h"
#include "tensors.h"

namespace dg {

inline uint64_t read_seed(const at::Tensor& seed) {
  check_seed(seed);
  return static_cast<uint64_t>(seed.item<int64_t>());
}

// Owns what the raw pointers of Rows point to.
template <class T>
struct Problem {
  at::Tensor logits;
  at::Tensor row_k;
  Rows<T> rows;

  Problem(const at::Tensor& from, int64_t k, const std::optional<at::Tensor>& from_row_k)
      : logits(as_rows(from, c10::CppTypeToScalarType<T>::value)) {
    const int64_t* row_counts = nullptr;
    if (from_row_k.has_value()) {
      row_k = from_row_k->contiguous();
      row_counts = row_k.const_data_ptr<int64_t>();
    }
    rows = {logits.const_data_ptr<T>(), row_counts, k, row_total(logits), logits.size(-1)};
  }
};

inline void run_serially(int64_t count, void (*task)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < count; ++i) task(context, i);
}

inline void run_in_parallel(int64_t count, void (*task)(void*, int64_t), void* context) {
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(context, i);
  });
}

// Items that are worth a thread of their own.
constexpr int64_t kGrainItems = 4096;

// serve(begin, end, executor): rows over threads where there are many, otherwise the items of one
// row after the other. `group` rows are kept together.
template <class Serve>
void serve_rows(int64_t rows, int64_t n, int64_t group, Serve&& serve) {
  if (rows == 0) return;
  const bool few_long_rows = rows < at::get_num_threads() && n >= 4 * kGrainItems;
  if (few_long_rows) {
    serve(int64_t{0}, rows, Executor{run_in_parallel});
    return;
  }
  const int64_t groups = (rows + group - 1) / group;
  const int64_t grain = kGrainItems / (n * group) + 1;
  at::parallel_for(0, groups, grain, [&](int64_t begin, int64_t end) {
    const int64_t last = end * group < rows ? end * group : rows;
    serve(begin * group, last, Executor{run_serially});
  });
}

}  // namespace dg
