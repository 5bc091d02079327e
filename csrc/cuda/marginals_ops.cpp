// SPDX-License-Identifier: Apache-2.0
//
// The differentiable ops on CUDA tensors: marginals, their derivatives, and count_log_prob.
#include <ATen/Dispatch.h>

#include "cuda/device.h"
#include "cuda/ops.h"

namespace dg {
namespace cuda {

std::tuple<at::Tensor, at::Tensor, at::Tensor> subset_marginals(
    const at::Tensor& logits, int64_t k, const std::optional<at::Tensor>& row_k,
    c10::string_view method_name) {
  check_problem(logits, row_k);
  check_same_device(logits, {row_k});
  const Method method = parse_method(method_name);
  const auto type = compute_type(logits.scalar_type());
  const auto options = logits.options().dtype(type);
  const auto batch = logits.sizes().slice(0, logits.dim() - 1);
  at::Tensor marginals = at::empty(logits.sizes(), options);
  at::Tensor log_partition = at::empty(batch, options);
  std::vector<int64_t> state_shape = batch.vec();
  state_shape.push_back(method != Method::kContour ? 0
                        : type == at::kFloat       ? kContourStateWidth<float>
                                                   : kContourStateWidth<double>);
  at::Tensor state = at::empty(state_shape, options);
  if (logits.size(-1) == 0) {
    log_partition_of_no_items(log_partition, k, row_k);
    state.zero_();
  } else {
    AT_DISPATCH_FLOATING_TYPES(type, "subset_marginals", [&] {
      using T = scalar_t;
      Device device("subset_marginals", logits);
      const Problem<T> problem(logits, k, row_k);
      const Rows<T>& rows = problem.rows;
      T* const mu = marginals.mutable_data_ptr<T>();
      T* const log_z = log_partition.mutable_data_ptr<T>();
      if (method == Method::kContour) {
        void* const scratch = device.scratch(contour_forward_scratch_bytes<T>(rows.rows, rows.n));
        device.check(launch_contour_forward(rows, mu, log_z, state.mutable_data_ptr<T>(), scratch,
                                            device.stream()));
      } else if (method == Method::kLinear) {
        void* const scratch = device.scratch(linear_forward_scratch_bytes(rows));
        device.check(launch_linear_forward(rows, mu, log_z, scratch, device.stream()));
      } else {
        void* const scratch = device.scratch(recursion_scratch_bytes(rows));
        device.check(launch_recursion(rows, mu, log_z, scratch, device.stream()));
      }
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
  check_same_device(logits, {row_k, state, grad_marginals, grad_log_partition});
  const Method method = parse_method(method_name);
  const auto type = compute_type(logits.scalar_type());
  const at::Tensor g = rows_or_undefined(grad_marginals, type);
  const at::Tensor scale = rows_or_undefined(grad_log_partition, type);
  at::Tensor grad_logits = at::empty(logits.sizes(), logits.options().dtype(type));
  if (logits.numel() == 0) return grad_logits.to(logits.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(type, "subset_marginals_vjp", [&] {
    using T = scalar_t;
    Device device("subset_marginals_vjp", logits);
    const Problem<T> problem(logits, k, row_k);
    const Rows<T>& rows = problem.rows;
    T* const out = grad_logits.mutable_data_ptr<T>();
    if (method == Method::kLinear) {
      void* const scratch = device.scratch(linear_vjp_scratch_bytes(rows));
      device.check(launch_linear_vjp(rows, data_or_null<T>(g), data_or_null<T>(scale), out, scratch,
                                     device.stream()));
    } else {
      const bool has_state = state.has_value() && state->size(-1) == kContourStateWidth<T>;
      const at::Tensor saved = has_state ? state->contiguous() : at::Tensor();
      void* const scratch =
          device.scratch(contour_vjp_scratch_bytes<T>(rows.rows, rows.n, has_state));
      device.check(launch_contour_vjp(rows, data_or_null<T>(saved), data_or_null<T>(g),
                                      data_or_null<T>(scale), out, scratch, device.stream()));
    }
  });
  return grad_logits.to(logits.scalar_type());
}

at::Tensor subset_third_cumulant(const at::Tensor& logits, int64_t k,
                                 const std::optional<at::Tensor>& row_k, const at::Tensor& a,
                                 const at::Tensor& b) {
  check_problem(logits, row_k);
  check_same_device(logits, {row_k, a, b});
  at::Tensor out = at::empty(logits.sizes(), logits.options().dtype(at::kDouble));
  if (logits.numel() > 0) {
    Device device("subset_third_cumulant", logits);
    const at::Tensor left = as_rows(a, at::kDouble), right = as_rows(b, at::kDouble);
    const Problem<double> problem(logits, k, row_k);
    void* const scratch =
        device.scratch(third_cumulant_scratch_bytes(problem.rows.rows, problem.rows.n));
    device.check(launch_third_cumulant(problem.rows, left.const_data_ptr<double>(),
                                       right.const_data_ptr<double>(),
                                       out.mutable_data_ptr<double>(), scratch, device.stream()));
  }
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
    Device device("count_log_prob", logits);
    const Problem<T> problem(logits, max_count, std::nullopt);
    void* const scratch = device.scratch(count_scratch_bytes(problem.rows, CountOrder::kLaw));
    device.check(launch_count_log_prob(problem.rows, log_prob.mutable_data_ptr<T>(), scratch,
                                       device.stream()));
  });
  return log_prob.to(logits.scalar_type());
}

at::Tensor count_log_prob_vjp(const at::Tensor& logits, int64_t max_count, const at::Tensor& grad) {
  check_problem(logits, std::nullopt);
  check_same_device(logits, {grad});
  const auto type = compute_type(logits.scalar_type());
  const at::Tensor upstream = as_rows(grad, type);
  at::Tensor out = at::empty(logits.sizes(), logits.options().dtype(type));
  if (logits.numel() == 0) return out.to(logits.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(type, "count_log_prob_vjp", [&] {
    using T = scalar_t;
    Device device("count_log_prob_vjp", logits);
    const Problem<T> problem(logits, max_count, std::nullopt);
    void* const scratch = device.scratch(count_scratch_bytes(problem.rows, CountOrder::kVjp));
    device.check(launch_count_log_prob_vjp(problem.rows, upstream.const_data_ptr<T>(),
                                           out.mutable_data_ptr<T>(), scratch, device.stream()));
  });
  return out.to(logits.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> count_log_prob_vjp_backward(const at::Tensor& logits,
                                                               int64_t max_count,
                                                               const at::Tensor& grad,
                                                               const at::Tensor& tangent) {
  check_problem(logits, std::nullopt);
  check_same_device(logits, {grad, tangent});
  const auto type = compute_type(logits.scalar_type()), dtype = logits.scalar_type();
  const at::Tensor upstream = as_rows(grad, type), direction = as_rows(tangent, type);
  at::Tensor grad_grad = at::empty(upstream.sizes(), upstream.options());
  at::Tensor grad_logits = at::empty(logits.sizes(), logits.options().dtype(type));
  if (logits.numel() == 0) return {grad_grad.zero_().to(dtype), grad_logits.to(dtype)};
  AT_DISPATCH_FLOATING_TYPES(type, "count_log_prob_vjp_backward", [&] {
    using T = scalar_t;
    Device device("count_log_prob_vjp_backward", logits);
    const Problem<T> problem(logits, max_count, std::nullopt);
    void* const scratch =
        device.scratch(count_scratch_bytes(problem.rows, CountOrder::kVjpBackward));
    device.check(launch_count_log_prob_vjp_backward(
        problem.rows, upstream.const_data_ptr<T>(), direction.const_data_ptr<T>(),
        grad_grad.mutable_data_ptr<T>(), grad_logits.mutable_data_ptr<T>(), scratch,
        device.stream()));
  });
  return {grad_grad.to(dtype), grad_logits.to(dtype)};
}

}  // namespace cuda
}  // namespace dg
