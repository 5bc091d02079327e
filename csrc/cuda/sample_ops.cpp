// SPDX-License-Identifier: Apache-2.0
//
// Exact samples on CUDA tensors.
#include "cuda/device.h"
#include "cuda/ops.h"
#include "cuda/sample_format.h"

namespace dg {
namespace cuda {

at::Tensor subset_sample(const at::Tensor& logits, int64_t k,
                         const std::optional<at::Tensor>& row_k, int64_t num_samples,
                         const at::Tensor& seed) {
  check_problem(logits, row_k);
  check_seed(seed);
  check_same_device(logits, {row_k, seed});
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, logits.size(-1)), logits.options());
  if (result.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES(compute_type(logits.scalar_type()), "subset_sample", [&] {
    using T = scalar_t;
    Device device("subset_sample", logits);
    const Problem<T> problem(logits, k, row_k);
    void* const scratch = device.scratch(sample_scratch_bytes(problem.rows, num_samples));
    device.check(launch_sample(problem.rows, num_samples, seed.const_data_ptr<int64_t>(),
                               sample_format(logits.scalar_type()), result.mutable_data_ptr(),
                               scratch, device.stream()));
  });
  return result;
}

at::Tensor subset_sample_indices(const at::Tensor& logits, int64_t k, int64_t num_samples,
                                 const at::Tensor& seed) {
  check_problem(logits, std::nullopt);
  check_seed(seed);
  check_same_device(logits, {seed});
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, k), logits.options().dtype(at::kLong));
  if (result.numel() == 0) return result;
  check_size(logits, k);
  AT_DISPATCH_FLOATING_TYPES(compute_type(logits.scalar_type()), "subset_sample_indices", [&] {
    using T = scalar_t;
    Device device("subset_sample_indices", logits);
    const Problem<T> problem(logits, k, std::nullopt);
    void* const scratch = device.scratch(sample_scratch_bytes(problem.rows, num_samples));
    device.check(launch_sample_indices(problem.rows, num_samples, seed.const_data_ptr<int64_t>(),
                                       result.mutable_data_ptr<int64_t>(), scratch,
                                       device.stream()));
  });
  return result;
}

}  // namespace cuda
}  // namespace dg
