// SPDX-License-Identifier: Apache-2.0
//
// The CPU kernels of the random ops. Every draw is a function of (seed, sample, row) alone.
#include "cpu/rows.h"

namespace dg {
namespace {

// Draws all rows and hands each to write(row, sample, chosen).
template <class Write>
void draw_rows(const at::Tensor& logits, int64_t k, const std::optional<at::Tensor>& row_k,
               int64_t num_samples, const at::Tensor& seed, Write&& write) {
  AT_DISPATCH_FLOATING_TYPES(compute_type(logits.scalar_type()), "subset_sample", [&] {
    using T = scalar_t;
    const Problem<T> problem(logits, k, row_k);
    const uint64_t key = read_seed(seed);
    const SampleSink sink{[](void* context, int64_t row, int64_t sample, const uint8_t* chosen) {
                            (*static_cast<std::remove_reference_t<Write>*>(context))(row, sample,
                                                                                     chosen);
                          },
                          &write};
    serve_rows(problem.rows.rows, problem.rows.n, lanes_of(sizeof(T)),
               [&](int64_t begin, int64_t end, const Executor& executor) {
                 kernels<T>().sample(problem.rows, begin, end, num_samples, key, sink, executor);
               });
  });
}

at::Tensor subset_sample(const at::Tensor& logits, int64_t k,
                         const std::optional<at::Tensor>& row_k, int64_t num_samples,
                         const at::Tensor& seed) {
  check_problem(logits, row_k);
  const int64_t n = logits.size(-1), rows = row_total(logits);
  at::Tensor result = at::empty(sample_shape(logits, num_samples, n), logits.options());
  if (result.numel() == 0) return result;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, logits.scalar_type(), "subset_sample", [&] {
        scalar_t* out = result.mutable_data_ptr<scalar_t>();
        const scalar_t invalid = std::numeric_limits<scalar_t>::quiet_NaN();
        draw_rows(logits, k, row_k, num_samples, seed,
                  [=](int64_t row, int64_t sample, const uint8_t* chosen) {
                    scalar_t* to = out + (sample * rows + row) * n;
                    for (int64_t i = 0; i < n; ++i) {
                      to[i] = chosen == nullptr ? invalid : static_cast<scalar_t>(chosen[i]);
                    }
                  });
      });
  return result;
}

at::Tensor subset_sample_indices(const at::Tensor& logits, int64_t k, int64_t num_samples,
                                 const at::Tensor& seed) {
  check_problem(logits, std::nullopt);
  const int64_t n = logits.size(-1), rows = row_total(logits);
  at::Tensor result =
      at::empty(sample_shape(logits, num_samples, k), logits.options().dtype(at::kLong));
  if (result.numel() == 0) return result;
  check_size(logits, k);
  int64_t* out = result.mutable_data_ptr<int64_t>();
  draw_rows(logits, k, std::nullopt, num_samples, seed,
            [=](int64_t row, int64_t sample, const uint8_t* chosen) {
              int64_t* to = out + (sample * rows + row) * k;
              if (chosen == nullptr) {
                std::fill(to, to + k, int64_t{-1});
                return;
              }
              for (int64_t i = 0; i < n; ++i) {
                if (chosen[i] != 0) *to++ = i;
              }
            });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(discrete_grad, CPU, m) {
  m.impl("subset_sample", TORCH_FN(subset_sample));
  m.impl("subset_sample_indices", TORCH_FN(subset_sample_indices));
}

}  // namespace dg
