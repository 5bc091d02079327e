// SPDX-License-Identifier: Apache-2.0
//
// The CPU kernels of perturb-and-MAP for the k largest. The noise is a function of (seed, sample,
// row, item) alone, so the difference makes that of the forward pass again.
#include <algorithm>

#include "cpu/outputs.h"

namespace dg {
namespace {

// Owns what the pointer of a NoiseLaw points to.
template <class T>
struct Noise {
  at::Tensor quantiles;
  NoiseLaw<T> law;

  Noise(const std::optional<at::Tensor>& table, const at::Tensor& seed) {
    law = {nullptr, read_seed(seed)};
    if (!table.has_value()) return;
    check_quantiles(*table, c10::CppTypeToScalarType<T>::value);
    quantiles = table->contiguous();
    law.quantiles = quantiles.const_data_ptr<T>();
  }
};

at::Tensor perturbation_noise(int64_t rows, int64_t n, const std::optional<at::Tensor>& quantiles,
                              const at::Tensor& seed, at::ScalarType dtype) {
  check_noise(rows, n, dtype);
  at::Tensor result = at::empty({rows, n}, seed.options().dtype(dtype));
  AT_DISPATCH_FLOATING_TYPES(dtype, "perturbation_noise", [&] {
    using T = scalar_t;
    const Noise<T> noise(quantiles, seed);
    if (result.numel() == 0) return;
    T* out = result.mutable_data_ptr<T>();
    serve_rows(rows, n, 1, [&](int64_t begin, int64_t end, const Executor& executor) {
      kernels<T>().perturbation_noise(noise.law, begin, end, n, out, executor);
    });
  });
  return result;
}

void select_rows(const at::Tensor& logits, int64_t k, const std::optional<at::Tensor>& row_k,
                 int64_t num_samples, const std::optional<at::Tensor>& quantiles,
                 double temperature, const at::Tensor& seed, const SubsetOutput& out) {
  AT_DISPATCH_FLOATING_TYPES(compute_type(logits.scalar_type()), "perturbed_topk", [&] {
    using T = scalar_t;
    const Noise<T> noise(quantiles, seed);
    const Problem<T> problem(logits, k, row_k);
    serve_rows(num_samples * problem.rows.rows, problem.rows.n, 1,
               [&](int64_t begin, int64_t end, const Executor& executor) {
                 kernels<T>().perturbed_topk(problem.rows, noise.law, static_cast<T>(temperature),
                                             begin, end, out, executor);
               });
  });
}

at::Tensor perturbed_topk(const at::Tensor& logits, int64_t k,
                          const std::optional<at::Tensor>& row_k, int64_t num_samples,
                          const std::optional<at::Tensor>& quantiles, double temperature,
                          const at::Tensor& seed) {
  check_problem(logits, row_k);
  check_temperature(temperature, "temperature");
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, logits.size(-1)), logits.options());
  if (result.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "perturbed_topk",
                                  [&] {
                                    select_rows(logits, k, row_k, num_samples, quantiles,
                                                temperature, seed, hot_output<scalar_t>(result));
                                  });
  return result;
}

at::Tensor perturbed_topk_indices(const at::Tensor& logits, int64_t k, int64_t num_samples,
                                  const std::optional<at::Tensor>& quantiles, double temperature,
                                  const at::Tensor& seed) {
  check_problem(logits, std::nullopt);
  check_temperature(temperature, "temperature");
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, k), logits.options().dtype(at::kLong));
  if (result.numel() == 0) return result;
  check_size(logits, k);
  select_rows(logits, k, std::nullopt, num_samples, quantiles, temperature, seed,
              index_output(result));
  return result;
}

// The rows of a gradient [samples, ..., n] of any strides and dtype, one at a time: it is often
// expanded, and a copy of it would be as large as all the samples.
template <class T>
class GradientRows {
 public:
  explicit GradientRows(const at::Tensor& grad)
      : grad_(grad),
        data_(static_cast<const char*>(grad.const_data_ptr())),
        type_(grad.scalar_type()),
        sizes_(grad.sizes()),
        strides_(grad.strides()),
        item_bytes_(static_cast<int64_t>(grad.element_size())),
        is_ready_(type_ == c10::CppTypeToScalarType<T>::value && strides_.back() == 1) {}

  const T* row(int64_t sample, int64_t row, T* buffer) const {
    int64_t offset = sample * strides_[0];
    for (size_t d = sizes_.size() - 2; d > 0; --d) {
      offset += row % sizes_[d] * strides_[d];
      row /= sizes_[d];
    }
    const char* from = data_ + offset * item_bytes_;
    if (is_ready_) return reinterpret_cast<const T*>(from);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type_, "perturbed_topk_difference",
                                    [&] {
                                      const auto* items = reinterpret_cast<const scalar_t*>(from);
                                      for (int64_t i = 0; i < sizes_.back(); ++i) {
                                        buffer[i] = static_cast<T>(items[i * strides_.back()]);
                                      }
                                    });
    return buffer;
  }

 private:
  at::Tensor grad_;  // keeps the data and the two arrays
  const char* data_;
  at::ScalarType type_;
  at::IntArrayRef sizes_, strides_;
  int64_t item_bytes_;
  bool is_ready_;
};

std::tuple<at::Tensor, at::Tensor> perturbed_topk_difference(
    const at::Tensor& logits, const at::Tensor& grad, int64_t k,
    const std::optional<at::Tensor>& row_k, const std::optional<at::Tensor>& quantiles,
    const at::Tensor& step, double left_alpha, double left_temperature, double right_alpha,
    double right_temperature, bool symmetric, const at::Tensor& seed) {
  check_problem(logits, row_k);
  check_temperature(left_temperature, "left_temperature");
  check_temperature(right_temperature, "right_temperature");
  check_difference(logits, grad, step);
  const at::IntArrayRef batch = logits.sizes().slice(0, logits.dim() - 1);
  const auto type = compute_type(logits.scalar_type());
  const int64_t n = logits.size(-1), rows = row_total(logits), samples = grad.size(0);
  // As many parts of the samples as threads would be idle: sums of -1, 0 and 1 are exact.
  const int64_t parts =
      rows < at::get_num_threads() ? std::clamp<int64_t>(samples, 1, at::get_num_threads()) : 1;
  at::Tensor sums = at::zeros({parts, rows, n}, logits.options().dtype(type));
  at::Tensor counts = at::zeros({parts, rows}, logits.options().dtype(at::kLong));
  if (sums.numel() > 0 && samples > 0) {
    AT_DISPATCH_FLOATING_TYPES(type, "perturbed_topk_difference", [&] {
      using T = scalar_t;
      const Noise<T> noise(quantiles, seed);
      const Problem<T> problem(logits, k, row_k);
      const at::Tensor steps = step.to(type).expand(batch).contiguous();
      const GradientRows<T> gradient(grad);
      const PerturbedPair<T> pair{steps.const_data_ptr<T>(),
                                  static_cast<T>(left_alpha),
                                  static_cast<T>(left_temperature),
                                  static_cast<T>(right_alpha),
                                  static_cast<T>(right_temperature),
                                  symmetric,
                                  [](const void* context, int64_t sample, int64_t row, T* buffer) {
                                    return static_cast<const GradientRows<T>*>(context)->row(
                                        sample, row, buffer);
                                  },
                                  &gradient};
      const auto serve = [&](int64_t part, int64_t begin, int64_t end, const Executor& executor) {
        kernels<T>().perturbed_difference(
            problem.rows, noise.law, pair, begin, end, part * samples / parts,
            (part + 1) * samples / parts, sums.mutable_data_ptr<T>() + part * rows * n,
            counts.mutable_data_ptr<int64_t>() + part * rows, executor);
      };
      if (parts == 1) {
        serve_rows(rows, n, 1, [&](int64_t begin, int64_t end, const Executor& executor) {
          serve(0, begin, end, executor);
        });
      } else {
        at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
          for (int64_t part = begin; part < end; ++part) {
            serve(part, 0, rows, Executor{run_serially});
          }
        });
      }
    });
  }
  at::Tensor difference = parts == 1 ? sums.squeeze(0) : sums.sum(0);
  at::Tensor nonzeros = parts == 1 ? counts.squeeze(0) : counts.sum(0);
  if (parts > 1 && n > 0) nonzeros.masked_fill_(difference.select(-1, 0).isnan(), 0);
  difference.div_(static_cast<double>((symmetric ? 2 : 1) * std::max<int64_t>(samples, 1)));
  return {difference.view(logits.sizes()), nonzeros.view(batch)};
}

}  // namespace

TORCH_LIBRARY_IMPL(discrete_grad, CPU, m) {
  m.impl("perturbation_noise", TORCH_FN(perturbation_noise));
  m.impl("perturbed_topk", TORCH_FN(perturbed_topk));
  m.impl("perturbed_topk_indices", TORCH_FN(perturbed_topk_indices));
  m.impl("perturbed_topk_difference", TORCH_FN(perturbed_topk_difference));
}

}  // namespace dg
