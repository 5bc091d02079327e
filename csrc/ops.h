// SPDX-License-Identifier: Apache-2.0
//
// The registered ops as C++ functions: each call goes through PyTorch's dispatcher, so autograd,
// vmap and the device's backend all apply. The schemas are in discrete_grad/ops/schemas.def.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/util/string_view.h>

#include <optional>
#include <tuple>

namespace dg::ops {

// Inclusion probabilities [..., n], log-partition [...] and what the backward pass needs.
std::tuple<at::Tensor, at::Tensor, at::Tensor> subset_marginals(
    const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
    c10::string_view method);

// Cov(z) grad_marginals + grad_log_partition * marginals.
at::Tensor subset_marginals_vjp(const at::Tensor& logits, c10::SymInt k,
                                const std::optional<at::Tensor>& row_k, c10::string_view method,
                                const std::optional<at::Tensor>& state,
                                const std::optional<at::Tensor>& grad_marginals,
                                const std::optional<at::Tensor>& grad_log_partition);

// The third cumulant contracted with two vectors.
at::Tensor subset_third_cumulant(const at::Tensor& logits, c10::SymInt k,
                                 const std::optional<at::Tensor>& row_k, const at::Tensor& a,
                                 const at::Tensor& b);

// Exact k-hot samples [num_samples, ..., n].
at::Tensor subset_sample(const at::Tensor& logits, c10::SymInt k,
                         const std::optional<at::Tensor>& row_k, c10::SymInt num_samples,
                         const at::Tensor& seed);

// Their indices [num_samples, ..., k], ascending.
at::Tensor subset_sample_indices(const at::Tensor& logits, c10::SymInt k, c10::SymInt num_samples,
                                 const at::Tensor& seed);

// Exact samples whose gradient is that of the marginals.
at::Tensor simple(const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
                  c10::SymInt num_samples, c10::string_view method, const at::Tensor& seed);

// log P(sum X_i = j), j = 0 .. max_count, X_i ~ Bernoulli(sigmoid(logits_i)), and its derivatives.
at::Tensor count_log_prob(const at::Tensor& logits, c10::SymInt max_count);
at::Tensor count_log_prob_vjp(const at::Tensor& logits, c10::SymInt max_count,
                              const at::Tensor& grad);
std::tuple<at::Tensor, at::Tensor> count_log_prob_vjp_backward(const at::Tensor& logits,
                                                               c10::SymInt max_count,
                                                               const at::Tensor& grad,
                                                               const at::Tensor& tangent);

// The noise of `rows` rows of n items, [rows, n]; without quantiles Gumbel.
at::Tensor perturbation_noise(c10::SymInt rows, c10::SymInt n,
                              const std::optional<at::Tensor>& quantiles, const at::Tensor& seed,
                              at::ScalarType dtype);

// The k largest of logits + temperature * noise, k-hot [num_samples, ..., n].
at::Tensor perturbed_topk(const at::Tensor& logits, c10::SymInt k,
                          const std::optional<at::Tensor>& row_k, c10::SymInt num_samples,
                          const std::optional<at::Tensor>& quantiles, double temperature,
                          const at::Tensor& seed);

// Their indices [num_samples, ..., k], ascending.
at::Tensor perturbed_topk_indices(const at::Tensor& logits, c10::SymInt k, c10::SymInt num_samples,
                                  const std::optional<at::Tensor>& quantiles, double temperature,
                                  const at::Tensor& seed);

// The mean over samples of the difference between two perturbed selections (the gradient of I-MLE),
// [..., n], and how many entries differ in all samples, [...].
std::tuple<at::Tensor, at::Tensor> perturbed_topk_difference(
    const at::Tensor& logits, const at::Tensor& grad, c10::SymInt k,
    const std::optional<at::Tensor>& row_k, const std::optional<at::Tensor>& quantiles,
    const at::Tensor& step, double left_alpha, double left_temperature, double right_alpha,
    double right_temperature, bool symmetric, const at::Tensor& seed);

}  // namespace dg::ops
