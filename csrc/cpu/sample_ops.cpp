// SPDX-License-Identifier: Apache-2.0
//
// The CPU kernels of the random ops. Every draw is a function of (seed, sample, row) alone.
#include "cpu/outputs.h"

namespace dg {
namespace {

void draw_rows(const at::Tensor& logits, int64_t k, const std::optional<at::Tensor>& row_k,
               int64_t num_samples, const at::Tensor& seed, const SubsetOutput& out) {
  AT_DISPATCH_FLOATING_TYPES(compute_type(logits.scalar_type()), "subset_sample", [&] {
    using T = scalar_t;
    const Problem<T> problem(logits, k, row_k);
    const uint64_t key = read_seed(seed);
    const int64_t group = problem.rows.n <= kSampledTogether ? lanes_of(sizeof(T)) : 1;
    serve_rows(problem.rows.rows, problem.rows.n, group,
               [&](int64_t begin, int64_t end, const Executor& executor) {
                 kernels<T>().sample(problem.rows, begin, end, num_samples, key, out, executor);
               });
  });
}

at::Tensor subset_sample(const at::Tensor& logits, int64_t k,
                         const std::optional<at::Tensor>& row_k, int64_t num_samples,
                         const at::Tensor& seed) {
  check_problem(logits, row_k);
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, logits.size(-1)), logits.options());
  if (result.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, logits.scalar_type(), "subset_sample",
      [&] { draw_rows(logits, k, row_k, num_samples, seed, hot_output<scalar_t>(result)); });
  return result;
}

at::Tensor subset_sample_indices(const at::Tensor& logits, int64_t k, int64_t num_samples,
                                 const at::Tensor& seed) {
  check_problem(logits, std::nullopt);
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, k), logits.options().dtype(at::kLong));
  if (result.numel() == 0) return result;
  check_size(logits, k);
  draw_rows(logits, k, std::nullopt, num_samples, seed, index_output(result));
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(discrete_grad, CPU, m) {
  m.impl("subset_sample", TORCH_FN(subset_sample));
  m.impl("subset_sample_indices", TORCH_FN(subset_sample_indices));
}

}  // namespace dg
