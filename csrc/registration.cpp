// SPDX-License-Identifier: Apache-2.0
//
// Declares the ops to PyTorch and gives them their C++ spelling.
#include "ops.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

TORCH_LIBRARY(discrete_grad, m) {
#define DG_OP(schema) m.def(schema, {at::Tag::pt2_compliant_tag});
#include "schemas.def"
#undef DG_OP
}

namespace dg::ops {
namespace {

template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

// The dispatcher looks a schema up by name once; every later call is direct.
#define DG_CALL(function, ...)                                                     \
  static const auto op = find_op<decltype(function)>("discrete_grad::" #function); \
  return op.call(__VA_ARGS__);

std::tuple<at::Tensor, at::Tensor, at::Tensor> subset_marginals(
    const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
    c10::string_view method){DG_CALL(subset_marginals, logits, std::move(k), row_k, method)}

at::Tensor subset_marginals_vjp(const at::Tensor& logits, c10::SymInt k,
                                const std::optional<at::Tensor>& row_k, c10::string_view method,
                                const std::optional<at::Tensor>& state,
                                const std::optional<at::Tensor>& grad_marginals,
                                const std::optional<at::Tensor>& grad_log_partition){
    DG_CALL(subset_marginals_vjp, logits, std::move(k), row_k, method, state, grad_marginals,
            grad_log_partition)}

at::Tensor subset_third_cumulant(const at::Tensor& logits, c10::SymInt k,
                                 const std::optional<at::Tensor>& row_k, const at::Tensor& a,
                                 const at::Tensor& b){
    DG_CALL(subset_third_cumulant, logits, std::move(k), row_k, a, b)}

at::Tensor
    subset_sample(const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
                  c10::SymInt num_samples, const at::Tensor& seed){
        DG_CALL(subset_sample, logits, std::move(k), row_k, std::move(num_samples), seed)}

at::Tensor subset_sample_indices(const at::Tensor& logits, c10::SymInt k, c10::SymInt num_samples,
                                 const at::Tensor& seed){
    DG_CALL(subset_sample_indices, logits, std::move(k), std::move(num_samples), seed)}

at::Tensor simple(const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
                  c10::SymInt num_samples, c10::string_view method, const at::Tensor& seed){
    DG_CALL(simple, logits, std::move(k), row_k, std::move(num_samples), method, seed)}

at::Tensor count_log_prob(const at::Tensor& logits, c10::SymInt max_count){
    DG_CALL(count_log_prob, logits, std::move(max_count))}

at::Tensor
    count_log_prob_vjp(const at::Tensor& logits, c10::SymInt max_count, const at::Tensor& grad){
        DG_CALL(count_log_prob_vjp, logits, std::move(max_count), grad)}

std::tuple<at::Tensor, at::Tensor> count_log_prob_vjp_backward(const at::Tensor& logits,
                                                               c10::SymInt max_count,
                                                               const at::Tensor& grad,
                                                               const at::Tensor& tangent){
    DG_CALL(count_log_prob_vjp_backward, logits, std::move(max_count), grad, tangent)}

at::Tensor
    perturbation_noise(c10::SymInt rows, c10::SymInt n, const std::optional<at::Tensor>& quantiles,
                       const at::Tensor& seed, at::ScalarType dtype){
        DG_CALL(perturbation_noise, std::move(rows), std::move(n), quantiles, seed, dtype)}

at::Tensor
    perturbed_topk(const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
                   c10::SymInt num_samples, const std::optional<at::Tensor>& quantiles,
                   double temperature, const at::Tensor& seed){
        DG_CALL(perturbed_topk, logits, std::move(k), row_k, std::move(num_samples), quantiles,
                temperature, seed)}

at::Tensor perturbed_topk_indices(const at::Tensor& logits, c10::SymInt k, c10::SymInt num_samples,
                                  const std::optional<at::Tensor>& quantiles, double temperature,
                                  const at::Tensor& seed){
    DG_CALL(perturbed_topk_indices, logits, std::move(k), std::move(num_samples), quantiles,
            temperature, seed)}

std::tuple<at::Tensor, at::Tensor> perturbed_topk_difference(
    const at::Tensor& logits, const at::Tensor& grad, c10::SymInt k,
    const std::optional<at::Tensor>& row_k, const std::optional<at::Tensor>& quantiles,
    const at::Tensor& step, double left_alpha, double left_temperature, double right_alpha,
    double right_temperature, bool symmetric, const at::Tensor& seed) {
  DG_CALL(perturbed_topk_difference, logits, grad, std::move(k), row_k, quantiles, step, left_alpha,
          left_temperature, right_alpha, right_temperature, symmetric, seed)
}

#undef DG_CALL

}  // namespace dg::ops
