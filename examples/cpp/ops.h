// SPDX-License-Identifier: Apache-2.0
//
// Calls of the registered ops from C++, by their schemas (discrete_grad/ops/schemas.def). They go
// through PyTorch's dispatcher, so autograd works as it does in Python.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dg_ops {

// Calls discrete_grad::<name> with these arguments, returns its results.
template <class... Args>
std::vector<c10::IValue> call(const std::string& name, Args&&... args) {
  const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow(("discrete_grad::" + name).c_str(), "");
  std::vector<c10::IValue> stack{c10::IValue(std::forward<Args>(args))...};
  op.callBoxed(stack);
  return stack;
}

struct Marginals {
  torch::Tensor marginals;      // [..., n]
  torch::Tensor log_partition;  // [...]
};

// P(i in S) and log Z_k; every row of `logits` [..., n] chooses k items.
inline Marginals marginals(const torch::Tensor& logits, int64_t k,
                           const std::string& method = "contour") {
  const auto results = call("subset_marginals", logits, k, c10::IValue(), method);
  return {results[0].toTensor(), results[1].toTensor()};
}

// Exact k-hot samples [num_samples, ..., n]; `seed` is an int64 tensor with one element.
inline torch::Tensor sample(const torch::Tensor& logits, int64_t k, int64_t num_samples,
                            const torch::Tensor& seed) {
  return call("subset_sample", logits, k, c10::IValue(), num_samples, seed)[0].toTensor();
}

// The same as indices, int64 [num_samples, ..., k], ascending.
inline torch::Tensor sample_indices(const torch::Tensor& logits, int64_t k, int64_t num_samples,
                                    const torch::Tensor& seed) {
  return call("subset_sample_indices", logits, k, num_samples, seed)[0].toTensor();
}

// sample() forward, the vector-Jacobian product of the marginals backward, by `method`.
inline torch::Tensor simple(const torch::Tensor& logits, int64_t k, int64_t num_samples,
                            const torch::Tensor& seed, const std::string& method = "contour") {
  return call("simple", logits, k, c10::IValue(), num_samples, method, seed)[0].toTensor();
}

// log P(sum_i X_i = j) for j = 0 .. max_count, X_i ~ Bernoulli(sigmoid(logits_i)).
inline torch::Tensor count_log_prob(const torch::Tensor& logits, int64_t max_count) {
  return call("count_log_prob", logits, max_count)[0].toTensor();
}

}  // namespace dg_ops
