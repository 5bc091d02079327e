// SPDX-License-Identifier: Apache-2.0
//
// Perturb-and-MAP for the k largest, on CUDA tensors.
#include "cuda/device.h"
#include "cuda/ops.h"
#include "cuda/sample_format.h"

namespace dg {
namespace cuda {
namespace {

// Owns what the pointers of a NoiseLaw point to.
template <class T>
struct Noise {
  at::Tensor quantiles;
  NoiseLaw<T> law;

  Noise(const std::optional<at::Tensor>& table, const at::Tensor& seed) {
    law = {nullptr, seed.const_data_ptr<int64_t>()};
    if (!table.has_value()) return;
    check_quantiles(*table, c10::CppTypeToScalarType<T>::value);
    quantiles = table->contiguous();
    law.quantiles = quantiles.const_data_ptr<T>();
  }
};

// Histograms count in 32 bits.
void check_length(int64_t n) {
  TORCH_CHECK_VALUE(n < int64_t{1} << 32,
                    "the CUDA kernels choose from at most 2^32 - 1 items, got ", n);
}

// [samples, rows, n] in `type`. Samples that all have the same gradient, as those of a loss that is
// a sum over them, share one copy.
struct Gradient {
  at::Tensor values;
  int64_t sample_stride;

  Gradient(const at::Tensor& grad, at::ScalarType type, int64_t row_items) {
    const bool is_shared = grad.stride(0) == 0;
    values = as_rows(is_shared ? grad.select(0, 0) : grad, type);
    sample_stride = is_shared ? 0 : row_items;
  }
};

}  // namespace

at::Tensor perturbation_noise(int64_t rows, int64_t n, const std::optional<at::Tensor>& quantiles,
                              const at::Tensor& seed, at::ScalarType dtype) {
  check_noise(rows, n, dtype);
  check_seed(seed);
  check_same_device(seed, {quantiles});
  at::Tensor result = at::empty({rows, n}, seed.options().dtype(dtype));
  AT_DISPATCH_FLOATING_TYPES(dtype, "perturbation_noise", [&] {
    using T = scalar_t;
    Device device("perturbation_noise", seed);
    const Noise<T> noise(quantiles, seed);
    device.check(launch_perturbation_noise(noise.law, rows, n, result.mutable_data_ptr<T>(),
                                           device.stream()));
  });
  return result;
}

at::Tensor perturbed_topk(const at::Tensor& logits, int64_t k,
                          const std::optional<at::Tensor>& row_k, int64_t num_samples,
                          const std::optional<at::Tensor>& quantiles, double temperature,
                          const at::Tensor& seed) {
  check_problem(logits, row_k);
  check_seed(seed);
  check_temperature(temperature, "temperature");
  check_same_device(logits, {row_k, quantiles, seed});
  check_length(logits.size(-1));
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, logits.size(-1)), logits.options());
  if (result.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES(compute_type(logits.scalar_type()), "perturbed_topk", [&] {
    using T = scalar_t;
    Device device("perturbed_topk", logits);
    const Noise<T> noise(quantiles, seed);
    const Problem<T> problem(logits, k, row_k);
    device.check(launch_perturbed_topk(problem.rows, noise.law, static_cast<T>(temperature),
                                       num_samples, sample_format(logits.scalar_type()),
                                       result.mutable_data_ptr(), device.stream()));
  });
  return result;
}

at::Tensor perturbed_topk_indices(const at::Tensor& logits, int64_t k, int64_t num_samples,
                                  const std::optional<at::Tensor>& quantiles, double temperature,
                                  const at::Tensor& seed) {
  check_problem(logits, std::nullopt);
  check_seed(seed);
  check_temperature(temperature, "temperature");
  check_same_device(logits, {quantiles, seed});
  check_length(logits.size(-1));
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, k), logits.options().dtype(at::kLong));
  if (result.numel() == 0) return result;
  check_size(logits, k);
  AT_DISPATCH_FLOATING_TYPES(compute_type(logits.scalar_type()), "perturbed_topk_indices", [&] {
    using T = scalar_t;
    Device device("perturbed_topk_indices", logits);
    const Noise<T> noise(quantiles, seed);
    const Problem<T> problem(logits, k, std::nullopt);
    device.check(launch_perturbed_topk_indices(problem.rows, noise.law, static_cast<T>(temperature),
                                               num_samples, result.mutable_data_ptr<int64_t>(),
                                               device.stream()));
  });
  return result;
}

std::tuple<at::Tensor, at::Tensor> perturbed_topk_difference(
    const at::Tensor& logits, const at::Tensor& grad, int64_t k,
    const std::optional<at::Tensor>& row_k, const std::optional<at::Tensor>& quantiles,
    const at::Tensor& step, double left_alpha, double left_temperature, double right_alpha,
    double right_temperature, bool symmetric, const at::Tensor& seed) {
  check_problem(logits, row_k);
  check_seed(seed);
  check_temperature(left_temperature, "left_temperature");
  check_temperature(right_temperature, "right_temperature");
  check_difference(logits, grad, step);
  check_same_device(logits, {row_k, quantiles, seed, grad, step});
  check_length(logits.size(-1));
  const auto type = compute_type(logits.scalar_type());
  const auto batch = logits.sizes().slice(0, logits.dim() - 1);
  const int64_t samples = grad.size(0);
  at::Tensor difference = at::empty(logits.sizes(), logits.options().dtype(type));
  at::Tensor nonzeros = at::empty(batch, logits.options().dtype(at::kLong));
  if (difference.numel() == 0 || samples == 0) return {difference.zero_(), nonzeros.zero_()};
  AT_DISPATCH_FLOATING_TYPES(type, "perturbed_topk_difference", [&] {
    using T = scalar_t;
    Device device("perturbed_topk_difference", logits);
    const Noise<T> noise(quantiles, seed);
    const Problem<T> problem(logits, k, row_k);
    const Rows<T>& rows = problem.rows;
    const Gradient gradient(grad, type, rows.rows * rows.n);
    const at::Tensor steps = step.to(type).expand(batch).contiguous();
    const PerturbedPair<T> pair = {gradient.values.const_data_ptr<T>(), gradient.sample_stride,
                                   steps.const_data_ptr<T>(),           static_cast<T>(left_alpha),
                                   static_cast<T>(left_temperature),    static_cast<T>(right_alpha),
                                   static_cast<T>(right_temperature),   symmetric};
    void* const scratch = device.scratch(perturbed_difference_scratch_bytes(rows.rows, rows.n));
    device.check(launch_perturbed_difference(
        rows, noise.law, pair, samples, difference.mutable_data_ptr<T>(),
        nonzeros.mutable_data_ptr<int64_t>(), scratch, device.stream()));
  });
  return {difference, nonzeros};
}

}  // namespace cuda
}  // namespace dg
