// SPDX-License-Identifier: Apache-2.0
//
// From tensors to rows, for every backend: the type that is computed in, the shapes of results, and
// the checks of what an op is given.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "core/quantiles.h"

namespace dg {

inline at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type;
}

// The number as it stands in memory.
template <class T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}

inline at::Tensor as_rows(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.to(type).contiguous();
}

inline int64_t row_total(const at::Tensor& logits) {
  int64_t rows = 1;
  for (const int64_t size : logits.sizes().slice(0, logits.dim() - 1)) rows *= size;
  return rows;
}

inline std::vector<int64_t> sample_shape(const at::Tensor& logits, int64_t num_samples,
                                         int64_t last) {
  std::vector<int64_t> shape = logits.sizes().vec();
  shape.back() = last;
  shape.insert(shape.begin(), num_samples);
  return shape;
}

// How marginals are computed.
enum class Method { kContour, kLinear, kRecursion };

inline Method parse_method(c10::string_view name) {
  if (name == "contour") return Method::kContour;
  if (name == "linear") return Method::kLinear;
  if (name == "recursion") return Method::kRecursion;
  TORCH_CHECK_VALUE(false, "method must be 'contour', 'linear' or 'recursion', got '",
                    std::string(name), "'");
}

template <class T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

inline at::Tensor rows_or_undefined(const std::optional<at::Tensor>& tensor, at::ScalarType type) {
  return tensor.has_value() && tensor->defined() ? as_rows(*tensor, type) : at::Tensor();
}

// Rows without items: the empty subset is certain, and nothing else is possible.
inline void log_partition_of_no_items(const at::Tensor& log_partition, int64_t k,
                                      const std::optional<at::Tensor>& row_k) {
  if (row_k.has_value()) {
    log_partition.zero_().masked_fill_(row_k->ne(0), NAN);
  } else {
    log_partition.fill_(k == 0 ? 0.0 : NAN);
  }
}

inline std::vector<int64_t> count_shape(const at::Tensor& logits, int64_t max_count) {
  std::vector<int64_t> shape = logits.sizes().vec();
  shape.back() = max_count + 1;
  return shape;
}

inline void check_problem(const at::Tensor& logits, const std::optional<at::Tensor>& row_k) {
  TORCH_CHECK_VALUE(logits.dim() >= 1, "logits must have at least one dimension (the items)");
  TORCH_CHECK_TYPE(at::isFloatingType(logits.scalar_type()),
                   "logits must be a floating-point tensor, got ", logits.scalar_type());
  if (row_k.has_value()) {
    TORCH_CHECK_TYPE(row_k->scalar_type() == at::kLong, "row_k must be an int64 tensor, got ",
                     row_k->scalar_type());
    TORCH_CHECK_VALUE(row_k->sizes() == logits.sizes().slice(0, logits.dim() - 1),
                      "row_k must have the batch shape of logits, got ", row_k->sizes(), " for ",
                      logits.sizes());
  }
}

inline void check_seed(const at::Tensor& seed) {
  TORCH_CHECK_VALUE(seed.scalar_type() == at::kLong && seed.numel() == 1,
                    "seed must be an int64 tensor with one element, got ", seed.scalar_type(), " ",
                    seed.sizes());
}

// Of the indices of subsets, all of one size.
inline void check_size(const at::Tensor& logits, int64_t k) {
  TORCH_CHECK_VALUE(k <= logits.size(-1), "k must be at most the number of items ", logits.size(-1),
                    ", got ", k);
}

inline void check_temperature(double temperature, const char* name) {
  TORCH_CHECK_VALUE(temperature >= 0.0 && std::isfinite(temperature), name,
                    " must be finite and at least 0, got ", temperature);
}

inline void check_quantiles(const at::Tensor& table, at::ScalarType type) {
  const std::vector<int64_t> shape{kQuantilePieces, kQuantileCoefficients};
  TORCH_CHECK_VALUE(table.sizes() == shape && table.scalar_type() == type, "quantiles must be a ",
                    type, " tensor of shape ", c10::IntArrayRef(shape), ", got ",
                    table.scalar_type(), " ", table.sizes());
}

// The size and the type of perturbation_noise.
inline void check_noise(int64_t rows, int64_t n, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(rows >= 0 && n >= 0, "rows and n must be at least 0, got ", rows, " and ", n);
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble,
                   "dtype must be float32 or float64, got ", dtype);
}

// What perturbed_topk_difference is given beside the problem.
inline void check_difference(const at::Tensor& logits, const at::Tensor& grad,
                             const at::Tensor& step) {
  TORCH_CHECK_TYPE(at::isFloatingType(grad.scalar_type()),
                   "grad must be a floating-point tensor, got ", grad.scalar_type());
  TORCH_CHECK_VALUE(grad.dim() > 0 && grad.sizes().slice(1) == logits.sizes(),
                    "grad must be of shape [samples, *logits.shape], got ", grad.sizes(), " for ",
                    logits.sizes());
  TORCH_CHECK_VALUE(step.dim() == 0 || step.sizes() == logits.sizes().slice(0, logits.dim() - 1),
                    "step must be one number or have the batch shape of logits, got ", step.sizes(),
                    " for ", logits.sizes());
}

}  // namespace dg
