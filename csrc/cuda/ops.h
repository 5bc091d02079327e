// SPDX-License-Identifier: Apache-2.0
//
// The ops on CUDA tensors, with the signatures of discrete_grad/ops/schemas.def. None reads a
// device's memory on the host, so that a CUDA graph can capture them all.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <optional>
#include <tuple>

namespace dg {
namespace cuda {

std::tuple<at::Tensor, at::Tensor, at::Tensor> subset_marginals(
    const at::Tensor& logits, int64_t k, const std::optional<at::Tensor>& row_k,
    c10::string_view method);

at::Tensor subset_marginals_vjp(const at::Tensor& logits, int64_t k,
                                const std::optional<at::Tensor>& row_k, c10::string_view method,
                                const std::optional<at::Tensor>& state,
                                const std::optional<at::Tensor>& grad_marginals,
                                const std::optional<at::Tensor>& grad_log_partition);

at::Tensor subset_third_cumulant(const at::Tensor& logits, int64_t k,
                                 const std::optional<at::Tensor>& row_k, const at::Tensor& a,
                                 const at::Tensor& b);

at::Tensor count_log_prob(const at::Tensor& logits, int64_t max_count);

at::Tensor count_log_prob_vjp(const at::Tensor& logits, int64_t max_count, const at::Tensor& grad);

std::tuple<at::Tensor, at::Tensor> count_log_prob_vjp_backward(const at::Tensor& logits,
                                                               int64_t max_count,
                                                               const at::Tensor& grad,
                                                               const at::Tensor& tangent);

at::Tensor subset_sample(const at::Tensor& logits, int64_t k,
                         const std::optional<at::Tensor>& row_k, int64_t num_samples,
                         const at::Tensor& seed);

at::Tensor subset_sample_indices(const at::Tensor& logits, int64_t k, int64_t num_samples,
                                 const at::Tensor& seed);

at::Tensor perturbation_noise(int64_t rows, int64_t n, const std::optional<at::Tensor>& quantiles,
                              const at::Tensor& seed, at::ScalarType dtype);

at::Tensor perturbed_topk(const at::Tensor& logits, int64_t k,
                          const std::optional<at::Tensor>& row_k, int64_t num_samples,
                          const std::optional<at::Tensor>& quantiles, double temperature,
                          const at::Tensor& seed);

at::Tensor perturbed_topk_indices(const at::Tensor& logits, int64_t k, int64_t num_samples,
                                  const std::optional<at::Tensor>& quantiles, double temperature,
                                  const at::Tensor& seed);

std::tuple<at::Tensor, at::Tensor> perturbed_topk_difference(
    const at::Tensor& logits, const at::Tensor& grad, int64_t k,
    const std::optional<at::Tensor>& row_k, const std::optional<at::Tensor>& quantiles,
    const at::Tensor& step, double left_alpha, double left_temperature, double right_alpha,
    double right_temperature, bool symmetric, const at::Tensor& seed);

}  // namespace cuda
}  // namespace dg
