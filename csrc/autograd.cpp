// SPDX-License-Identifier: Apache-2.0
//
// Derivatives of the ops, for every device: each backward pass is an op again.
//
//   marginals --> vjp (Cov g) --> third cumulant        count_log_prob --> vjp --> its backward
//
// The last op of each chain has no derivative and says so.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops.h"

namespace dg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

std::optional<at::Tensor> as_optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

at::Tensor as_tensor(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() ? *tensor : at::Tensor();
}

struct MarginalsFunction : Function<MarginalsFunction> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const at::Tensor& logits, c10::SymInt k,
                               const std::optional<at::Tensor>& row_k, std::string method) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [marginals, log_partition, state] = ops::subset_marginals(logits, k, row_k, method);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({logits, as_tensor(row_k), state});
    ctx->saved_data["k"] = k;
    ctx->saved_data["method"] = method;
    ctx->mark_non_differentiable({state});
    return {marginals, log_partition, state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined() && !grads[1].defined()) return {{}, {}, {}, {}};
    const auto saved = ctx->get_saved_variables();
    const at::Tensor grad_logits =
        ops::subset_marginals_vjp(saved[0], ctx->saved_data["k"].toSymInt(), as_optional(saved[1]),
                                  ctx->saved_data["method"].toStringRef(), as_optional(saved[2]),
                                  as_optional(grads[0]), as_optional(grads[1]));
    return {grad_logits, {}, {}, {}};
  }
};

// out = Cov g + c mu. With an upstream v: Cov v for g, <mu, v> for c, and for the logits the third
// cumulant K(g, v) + c Cov v.
struct MarginalsVjpFunction : Function<MarginalsVjpFunction> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& logits, c10::SymInt k,
                            const std::optional<at::Tensor>& row_k, std::string method,
                            const std::optional<at::Tensor>& state,
                            const std::optional<at::Tensor>& grad_marginals,
                            const std::optional<at::Tensor>& grad_log_partition) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({logits, as_tensor(row_k), as_tensor(state), as_tensor(grad_marginals),
                            as_tensor(grad_log_partition)});
    ctx->saved_data["k"] = k;
    ctx->saved_data["method"] = method;
    return ops::subset_marginals_vjp(logits, k, row_k, method, state, grad_marginals,
                                     grad_log_partition);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& logits = saved[0];
    const auto row_k = as_optional(saved[1]), state = as_optional(saved[2]);
    const at::Tensor &g = saved[3], &c = saved[4];
    const c10::SymInt k = ctx->saved_data["k"].toSymInt();
    const std::string& method = ctx->saved_data["method"].toStringRef();
    const at::Tensor& v = grads[0];

    at::Tensor grad_g, grad_c, grad_logits;
    if (g.defined() || (c.defined() && ctx->needs_input_grad(0))) {
      grad_g = ops::subset_marginals_vjp(logits, k, row_k, method, state, v, std::nullopt);
    }
    if (c.defined()) {
      const at::Tensor of_log_partition = ops::subset_marginals_vjp(logits, k, row_k, method, state,
                                                                    std::nullopt, at::ones_like(c));
      grad_c = (of_log_partition * v).sum(-1);
    }
    if (ctx->needs_input_grad(0)) {
      if (g.defined()) grad_logits = ops::subset_third_cumulant(logits, k, row_k, g, v);
      if (c.defined()) {
        const at::Tensor part = c.unsqueeze(-1) * grad_g;
        grad_logits = grad_logits.defined() ? grad_logits + part : part;
      }
    }
    return {grad_logits, {}, {}, {}, {}, g.defined() ? grad_g : at::Tensor(), grad_c};
  }
};

// Over the first dimension; of a single sample, the most usual case, without another tensor of its
// size. A symbolic number is not looked at, since that would fix it in a compiled graph.
at::Tensor sum_of_samples(const at::Tensor& samples) {
  return samples.sym_size(0).maybe_as_int() == 1 ? samples.select(0, 0) : samples.sum(0);
}

struct SimpleFunction : Function<SimpleFunction> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& logits, c10::SymInt k,
                            const std::optional<at::Tensor>& row_k, c10::SymInt num_samples,
                            c10::string_view method, const at::Tensor& seed) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({logits, as_tensor(row_k)});
    ctx->saved_data["k"] = k;
    ctx->saved_data["method"] = std::string(method);
    return ops::simple(logits, k, row_k, std::move(num_samples), method, seed);
  }

  // The samples share their logits, and the product is linear: sum first, then one product.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor grad_logits =
        ops::subset_marginals_vjp(saved[0], ctx->saved_data["k"].toSymInt(), as_optional(saved[1]),
                                  ctx->saved_data["method"].toStringRef(), std::nullopt,
                                  sum_of_samples(grads[0]), std::nullopt);
    return {grad_logits, {}, {}, {}, {}, {}};
  }
};

struct CountLogProbFunction : Function<CountLogProbFunction> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& logits, c10::SymInt max_count) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({logits});
    ctx->saved_data["max_count"] = max_count;
    return ops::count_log_prob(logits, max_count);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {ops::count_log_prob_vjp(saved[0], ctx->saved_data["max_count"].toSymInt(), grads[0]),
            {}};
  }
};

struct CountLogProbVjpFunction : Function<CountLogProbVjpFunction> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& logits, c10::SymInt max_count,
                            const at::Tensor& grad) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({logits, grad});
    ctx->saved_data["max_count"] = max_count;
    return ops::count_log_prob_vjp(logits, max_count, grad);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto [grad_grad, grad_logits] = ops::count_log_prob_vjp_backward(
        saved[0], ctx->saved_data["max_count"].toSymInt(), saved[1], grads[0]);
    return {grad_logits, {}, grad_grad};
  }
};

const char* const kNoThirdDerivative =
    ": this op is the last derivative that the compiled backends have; for derivatives of a higher "
    "order use the reference (dg.backend(\"reference\"))";

struct ThirdCumulantFunction : Function<ThirdCumulantFunction> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& logits, c10::SymInt k,
                            const std::optional<at::Tensor>& row_k, const at::Tensor& a,
                            const at::Tensor& b) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return ops::subset_third_cumulant(logits, std::move(k), row_k, a, b);
  }
  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "subset_third_cumulant", kNoThirdDerivative);
  }
};

struct CountLogProbVjpBackwardFunction : Function<CountLogProbVjpBackwardFunction> {
  static variable_list forward(AutogradContext*, const at::Tensor& logits, c10::SymInt max_count,
                               const at::Tensor& grad, const at::Tensor& tangent) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [grad_grad, grad_logits] =
        ops::count_log_prob_vjp_backward(logits, std::move(max_count), grad, tangent);
    return {grad_grad, grad_logits};
  }
  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "count_log_prob_vjp_backward", kNoThirdDerivative);
  }
};

struct PerturbedTopkDifferenceFunction : Function<PerturbedTopkDifferenceFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& logits,
                               const at::Tensor& grad, c10::SymInt k,
                               const std::optional<at::Tensor>& row_k,
                               const std::optional<at::Tensor>& quantiles, const at::Tensor& step,
                               double left_alpha, double left_temperature, double right_alpha,
                               double right_temperature, bool symmetric, const at::Tensor& seed) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [difference, nonzeros] = ops::perturbed_topk_difference(
        logits, grad, std::move(k), row_k, quantiles, step, left_alpha, left_temperature,
        right_alpha, right_temperature, symmetric, seed);
    ctx->mark_non_differentiable({nonzeros});
    return {difference, nonzeros};
  }
  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK_NOT_IMPLEMENTED(false,
                                "perturbed_topk_difference is piecewise constant in its arguments: "
                                "the estimators of perturb-and-MAP have no second derivative");
  }
};

// Whether something will be differentiated through these: only then is a node of the graph made,
// which takes as long as a small op. A backward pass without a graph of its own makes none.
bool is_tracked(const at::Tensor& tensor) {
  if (!tensor.defined()) return false;
  const bool has_tangent = tensor._fw_grad(/*level=*/0).defined();
  return has_tangent || (at::GradMode::is_enabled() && tensor.requires_grad());
}
bool is_tracked(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && is_tracked(*tensor);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> subset_marginals(
    const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
    c10::string_view method) {
  if (!is_tracked(logits)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return ops::subset_marginals(logits, std::move(k), row_k, method);
  }
  auto results = MarginalsFunction::apply(logits, std::move(k), row_k, std::string(method));
  return {results[0], results[1], results[2]};
}

at::Tensor subset_marginals_vjp(const at::Tensor& logits, c10::SymInt k,
                                const std::optional<at::Tensor>& row_k, c10::string_view method,
                                const std::optional<at::Tensor>& state,
                                const std::optional<at::Tensor>& grad_marginals,
                                const std::optional<at::Tensor>& grad_log_partition) {
  if (!is_tracked(logits) && !is_tracked(grad_marginals) && !is_tracked(grad_log_partition)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return ops::subset_marginals_vjp(logits, std::move(k), row_k, method, state, grad_marginals,
                                     grad_log_partition);
  }
  return MarginalsVjpFunction::apply(logits, std::move(k), row_k, std::string(method), state,
                                     grad_marginals, grad_log_partition);
}

at::Tensor subset_third_cumulant(const at::Tensor& logits, c10::SymInt k,
                                 const std::optional<at::Tensor>& row_k, const at::Tensor& a,
                                 const at::Tensor& b) {
  return ThirdCumulantFunction::apply(logits, std::move(k), row_k, a, b);
}

at::Tensor simple(const at::Tensor& logits, c10::SymInt k, const std::optional<at::Tensor>& row_k,
                  c10::SymInt num_samples, c10::string_view method, const at::Tensor& seed) {
  if (!is_tracked(logits)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return ops::simple(logits, std::move(k), row_k, std::move(num_samples), method, seed);
  }
  return SimpleFunction::apply(logits, std::move(k), row_k, std::move(num_samples), method, seed);
}

// Without a gradient estimator a subset, perturbed or exactly drawn, has no derivative.
at::Tensor subset_sample(const at::Tensor& logits, c10::SymInt k,
                         const std::optional<at::Tensor>& row_k, c10::SymInt num_samples,
                         const at::Tensor& seed) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return ops::subset_sample(logits, std::move(k), row_k, std::move(num_samples), seed);
}

at::Tensor subset_sample_indices(const at::Tensor& logits, c10::SymInt k, c10::SymInt num_samples,
                                 const at::Tensor& seed) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return ops::subset_sample_indices(logits, std::move(k), std::move(num_samples), seed);
}

at::Tensor perturbation_noise(c10::SymInt rows, c10::SymInt n,
                              const std::optional<at::Tensor>& quantiles, const at::Tensor& seed,
                              at::ScalarType dtype) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return ops::perturbation_noise(std::move(rows), std::move(n), quantiles, seed, dtype);
}

at::Tensor perturbed_topk(const at::Tensor& logits, c10::SymInt k,
                          const std::optional<at::Tensor>& row_k, c10::SymInt num_samples,
                          const std::optional<at::Tensor>& quantiles, double temperature,
                          const at::Tensor& seed) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return ops::perturbed_topk(logits, std::move(k), row_k, std::move(num_samples), quantiles,
                             temperature, seed);
}

at::Tensor perturbed_topk_indices(const at::Tensor& logits, c10::SymInt k, c10::SymInt num_samples,
                                  const std::optional<at::Tensor>& quantiles, double temperature,
                                  const at::Tensor& seed) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return ops::perturbed_topk_indices(logits, std::move(k), std::move(num_samples), quantiles,
                                     temperature, seed);
}

std::tuple<at::Tensor, at::Tensor> perturbed_topk_difference(
    const at::Tensor& logits, const at::Tensor& grad, c10::SymInt k,
    const std::optional<at::Tensor>& row_k, const std::optional<at::Tensor>& quantiles,
    const at::Tensor& step, double left_alpha, double left_temperature, double right_alpha,
    double right_temperature, bool symmetric, const at::Tensor& seed) {
  auto results = PerturbedTopkDifferenceFunction::apply(
      logits, grad, std::move(k), row_k, quantiles, step, left_alpha, left_temperature, right_alpha,
      right_temperature, symmetric, seed);
  return {results[0], results[1]};
}

at::Tensor count_log_prob(const at::Tensor& logits, c10::SymInt max_count) {
  if (!is_tracked(logits)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return ops::count_log_prob(logits, std::move(max_count));
  }
  return CountLogProbFunction::apply(logits, std::move(max_count));
}

at::Tensor count_log_prob_vjp(const at::Tensor& logits, c10::SymInt max_count,
                              const at::Tensor& grad) {
  if (!is_tracked(logits) && !is_tracked(grad)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return ops::count_log_prob_vjp(logits, std::move(max_count), grad);
  }
  return CountLogProbVjpFunction::apply(logits, std::move(max_count), grad);
}

std::tuple<at::Tensor, at::Tensor> count_log_prob_vjp_backward(const at::Tensor& logits,
                                                               c10::SymInt max_count,
                                                               const at::Tensor& grad,
                                                               const at::Tensor& tangent) {
  auto results =
      CountLogProbVjpBackwardFunction::apply(logits, std::move(max_count), grad, tangent);
  return {results[0], results[1]};
}

// The forward pass of `simple` is the sampler, on every device; the method is that of the gradient.
at::Tensor simple_forward(const at::Tensor& logits, c10::SymInt k,
                          const std::optional<at::Tensor>& row_k, c10::SymInt num_samples,
                          c10::string_view /*method*/, const at::Tensor& seed) {
  return ops::subset_sample(logits, std::move(k), row_k, std::move(num_samples), seed);
}

}  // namespace

TORCH_LIBRARY_IMPL(discrete_grad, Autograd, m) {
  m.impl("subset_marginals", TORCH_FN(subset_marginals));
  m.impl("subset_marginals_vjp", TORCH_FN(subset_marginals_vjp));
  m.impl("subset_third_cumulant", TORCH_FN(subset_third_cumulant));
  m.impl("subset_sample", TORCH_FN(subset_sample));
  m.impl("subset_sample_indices", TORCH_FN(subset_sample_indices));
  m.impl("simple", TORCH_FN(simple));
  m.impl("perturbation_noise", TORCH_FN(perturbation_noise));
  m.impl("perturbed_topk", TORCH_FN(perturbed_topk));
  m.impl("perturbed_topk_indices", TORCH_FN(perturbed_topk_indices));
  m.impl("perturbed_topk_difference", TORCH_FN(perturbed_topk_difference));
  m.impl("count_log_prob", TORCH_FN(count_log_prob));
  m.impl("count_log_prob_vjp", TORCH_FN(count_log_prob_vjp));
  m.impl("count_log_prob_vjp_backward", TORCH_FN(count_log_prob_vjp_backward));
}

TORCH_LIBRARY_IMPL(discrete_grad, CPU, m) { m.impl("simple", TORCH_FN(simple_forward)); }
TORCH_LIBRARY_IMPL(discrete_grad, CUDA, m) { m.impl("simple", TORCH_FN(simple_forward)); }

}  // namespace dg
