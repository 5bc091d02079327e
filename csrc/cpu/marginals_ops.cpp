// SPDX-License-Identifier: Apache-2.0
//
// The CPU kernels of the differentiable ops: marginals, their derivatives, and count_log_prob.
#include "cpu/rows.h"

namespace dg {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor> subset_marginals(
    const at::Tensor& logits, int64_t k, const std::optional<at::Tensor>& row_k,
    c10::string_view method_name) {
  check_problem(logits, row_k);
  const Method method = parse_method(method_name);
  const auto type = compute_type(logits.scalar_type());
  const auto options = logits.options().dtype(type);
  const auto batch = logits.sizes().slice(0, logits.dim() - 1);
  at::Tensor marginals = at::empty(logits.sizes(), options);
  at::Tensor log_partition = at::empty(batch, options);
  std::vector<int64_t> state_shape = batch.vec();
  const bool has_state = method == Method::kContour;
  state_shape.push_back(!has_state           ? 0
                        : type == at::kFloat ? contour_state_width<float>()
                                             : contour_state_width<double>());
  at::Tensor state = at::empty(state_shape, options);
  if (logits.size(-1) == 0) {
    log_partition_of_no_items(log_partition, k, row_k);
    state.zero_();
  } else {
    AT_DISPATCH_FLOATING_TYPES(type, "subset_marginals", [&] {
      using T = scalar_t;
      const Problem<T> problem(logits, k, row_k);
      T* mu = marginals.mutable_data_ptr<T>();
      T* log_z = log_partition.mutable_data_ptr<T>();
      T* saved = state.mutable_data_ptr<T>();
      const int64_t group = has_state ? 1 : lanes_of(sizeof(T));
      serve_rows(problem.rows.rows, problem.rows.n, group,
                 [&](int64_t begin, int64_t end, const Executor& executor) {
                   if (has_state) {
                     kernels<T>().contour_forward(problem.rows, begin, end, mu, log_z, saved,
                                                  executor);
                   } else {
                     const auto algebra =
                         method == Method::kLinear ? TreeAlgebra::kLinear : TreeAlgebra::kLog;
                     kernels<T>().tree_forward(problem.rows, algebra, begin, end, mu, log_z);
                   }
                 });
    });
  }
  const auto dtype = logits.scalar_type();
  return {marginals.to(dtype), log_partition.to(dtype), state};
}

at::Tensor subset_marginals_vjp(const at::Tensor& logits, int64_t k,
                                const std::optional<at::Tensor>& row_k,
                                c10::string_view method_name,
                                const std::optional<at::Tensor>& state,
                                const std::optional<at::Tensor>& grad_marginals,
                                const std::optional<at::Tensor>& grad_log_partition) {
  check_problem(logits, row_k);
  const Method method = parse_method(method_name);
  const auto type = compute_type(logits.scalar_type());
  const at::Tensor g = rows_or_undefined(grad_marginals, type);
  const at::Tensor scale = rows_or_undefined(grad_log_partition, type);
  at::Tensor grad_logits = at::empty(logits.sizes(), logits.options().dtype(type));
  if (logits.numel() == 0) return grad_logits.to(logits.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(type, "subset_marginals_vjp", [&] {
    using T = scalar_t;
    const Problem<T> problem(logits, k, row_k);
    const bool linear = method == Method::kLinear;
    const bool has_state = state.has_value() && state->size(-1) == contour_state_width<T>();
    const at::Tensor saved = has_state ? state->contiguous() : at::Tensor();
    T* out = grad_logits.mutable_data_ptr<T>();
    serve_rows(problem.rows.rows, problem.rows.n, linear ? lanes_of(sizeof(T)) : 1,
               [&](int64_t begin, int64_t end, const Executor& executor) {
                 if (linear) {
                   kernels<T>().linear_vjp(problem.rows, begin, end, data_or_null<T>(g),
                                           data_or_null<T>(scale), out);
                 } else {
                   kernels<T>().contour_vjp(problem.rows, begin, end, data_or_null<T>(saved),
                                            data_or_null<T>(g), data_or_null<T>(scale), out,
                                            executor);
                 }
               });
  });
  return grad_logits.to(logits.scalar_type());
}

at::Tensor subset_third_cumulant(const at::Tensor& logits, int64_t k,
                                 const std::optional<at::Tensor>& row_k, const at::Tensor& a,
                                 const at::Tensor& b) {
  check_problem(logits, row_k);
  const auto type = compute_type(logits.scalar_type());
  const at::Tensor left = as_rows(a, type), right = as_rows(b, type);
  at::Tensor out = at::empty(logits.sizes(), logits.options().dtype(type));
  if (logits.numel() == 0) return out.to(logits.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(type, "subset_third_cumulant", [&] {
    using T = scalar_t;
    const Problem<T> problem(logits, k, row_k);
    serve_rows(problem.rows.rows, problem.rows.n, 1,
               [&](int64_t begin, int64_t end, const Executor& executor) {
                 kernels<T>().third_cumulant(problem.rows, begin, end, left.const_data_ptr<T>(),
                                             right.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                                             executor);
               });
  });
  return out.to(logits.scalar_type());
}

at::Tensor count_log_prob(const at::Tensor& logits, int64_t max_count) {
  check_problem(logits, std::nullopt);
  TORCH_CHECK_VALUE(max_count >= 0, "max_count must not be negative, got ", max_count);
  const auto type = compute_type(logits.scalar_type());
  at::Tensor log_prob = at::empty(count_shape(logits, max_count), logits.options().dtype(type));
  if (logits.size(-1) == 0) {
    log_prob.fill_(-INFINITY).select(-1, 0).zero_();
    return log_prob.to(logits.scalar_type());
  }
  AT_DISPATCH_FLOATING_TYPES(type, "count_log_prob", [&] {
    using T = scalar_t;
    const Problem<T> problem(logits, max_count, std::nullopt);
    serve_rows(problem.rows.rows, problem.rows.n, lanes_of(sizeof(T)),
               [&](int64_t begin, int64_t end, const Executor&) {
                 kernels<T>().count_log_prob(problem.rows, begin, end,
                                             log_prob.mutable_data_ptr<T>());
               });
  });
  return log_prob.to(logits.scalar_type());
}

at::Tensor count_log_prob_vjp(const at::Tensor& logits, int64_t max_count, const at::Tensor& grad) {
  check_problem(logits, std::nullopt);
  const auto type = compute_type(logits.scalar_type());
  const at::Tensor upstream = as_rows(grad, type);
  at::Tensor out = at::empty(logits.sizes(), logits.options().dtype(type));
  if (logits.numel() == 0) return out.to(logits.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(type, "count_log_prob_vjp", [&] {
    using T = scalar_t;
    const Problem<T> problem(logits, max_count, std::nullopt);
    serve_rows(problem.rows.rows, problem.rows.n, lanes_of(sizeof(T)),
               [&](int64_t begin, int64_t end, const Executor&) {
                 kernels<T>().count_log_prob_vjp(problem.rows, begin, end,
                                                 upstream.const_data_ptr<T>(),
                                                 out.mutable_data_ptr<T>());
               });
  });
  return out.to(logits.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> count_log_prob_vjp_backward(const at::Tensor& logits,
                                                               int64_t max_count,
                                                               const at::Tensor& grad,
                                                               const at::Tensor& tangent) {
  check_problem(logits, std::nullopt);
  const auto type = compute_type(logits.scalar_type());
  const at::Tensor upstream = as_rows(grad, type), direction = as_rows(tangent, type);
  at::Tensor grad_grad = at::empty(upstream.sizes(), upstream.options());
  at::Tensor grad_logits = at::empty(logits.sizes(), logits.options().dtype(type));
  if (logits.numel() == 0) {
    return {grad_grad.zero_().to(logits.scalar_type()), grad_logits.to(logits.scalar_type())};
  }
  AT_DISPATCH_FLOATING_TYPES(type, "count_log_prob_vjp_backward", [&] {
    using T = scalar_t;
    const Problem<T> problem(logits, max_count, std::nullopt);
    serve_rows(problem.rows.rows, problem.rows.n, lanes_of(sizeof(T)),
               [&](int64_t begin, int64_t end, const Executor&) {
                 kernels<T>().count_log_prob_vjp_backward(
                     problem.rows, begin, end, upstream.const_data_ptr<T>(),
                     direction.const_data_ptr<T>(), grad_grad.mutable_data_ptr<T>(),
                     grad_logits.mutable_data_ptr<T>());
               });
  });
  return {grad_grad.to(logits.scalar_type()), grad_logits.to(logits.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(discrete_grad, CPU, m) {
  m.impl("subset_marginals", TORCH_FN(subset_marginals));
  m.impl("subset_marginals_vjp", TORCH_FN(subset_marginals_vjp));
  m.impl("subset_third_cumulant", TORCH_FN(subset_third_cumulant));
  m.impl("count_log_prob", TORCH_FN(count_log_prob));
  m.impl("count_log_prob_vjp", TORCH_FN(count_log_prob_vjp));
  m.impl("count_log_prob_vjp_backward", TORCH_FN(count_log_prob_vjp_backward));
}

}  // namespace dg
