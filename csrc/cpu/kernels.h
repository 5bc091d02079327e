// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels offer to the ops: a table of functions on raw pointers, one table per SIMD
// level and floating-point type. Rows are contiguous; each function serves rows [begin, end).
#pragma once

#include <cstdint>

namespace dg {

// The problem: `rows` of `n` logits, and how many items each row chooses.
template <class T>
struct Rows {
  const T* logits;
  const int64_t* row_k;  // null: every row chooses k
  int64_t k;             // with row_k: an upper bound
  int64_t rows;
  int64_t n;

  int64_t row_count(int64_t row) const { return row_k == nullptr ? k : row_k[row]; }
};

// Runs task(context, 0 .. count - 1), perhaps in parallel. One long row is cut into segments whose
// size is fixed, so results do not depend on the number of threads.
struct Executor {
  void (*run)(int64_t count, void (*task)(void* context, int64_t index), void* context);
};

// Rows of up to so many items are sampled a whole vector of rows at a time, which is the division
// of the work over threads; of longer ones each by itself.
constexpr int64_t kSampledTogether = 1024;

// What perturbation noise is drawn from.
template <class T>
struct NoiseLaw {
  const T* quantiles;  // core/quantiles.h; null: Gumbel
  uint64_t seed;
};

// Where drawn subsets go: row p = sample * rows + row holds n numbers of `width`
// bytes, each `one` or 0 (`invalid` throughout an invalid row), or k indices, -1 in an invalid row.
struct SubsetOutput {
  enum class Form { kHot, kIndices };
  Form form;
  void* data;
  int width;
  uint64_t one;
  uint64_t invalid;
};

// Two perturbations of the same rows with the same noise eps and a step along g:
//   left = left_alpha theta + left_temperature eps (+ step g if symmetric)
//   right = right_alpha theta - step g + right_temperature eps
template <class T>
struct PerturbedPair {
  const T* step;  // [rows]
  T left_alpha, left_temperature;
  T right_alpha, right_temperature;
  bool symmetric;
  // The n numbers g of a sample and row; they may be put into the buffer.
  const T* (*gradient)(const void* context, int64_t sample, int64_t row, T* buffer);
  const void* context;
};

// Which recursion over the balanced tree.
enum class TreeAlgebra { kLinear, kLog };

// Scalars saved per row for the backward pass: s, M, then (Re W, Im W) of each node.
template <class T>
constexpr int contour_state_width();
template <>
constexpr int contour_state_width<float>() {
  return 2 + 2 * 11;
}
template <>
constexpr int contour_state_width<double>() {
  return 2 + 2 * 22;
}

template <class T>
struct Kernels {
  void (*contour_forward)(const Rows<T>&, int64_t begin, int64_t end, T* marginals,
                          T* log_partition, T* state, const Executor&);
  // state, grad_marginals and grad_log_partition may each be null.
  void (*contour_vjp)(const Rows<T>&, int64_t begin, int64_t end, const T* state,
                      const T* grad_marginals, const T* grad_log_partition, T* grad_logits,
                      const Executor&);
  void (*third_cumulant)(const Rows<T>&, int64_t begin, int64_t end, const T* a, const T* b, T* out,
                         const Executor&);
  void (*tree_forward)(const Rows<T>&, TreeAlgebra, int64_t begin, int64_t end, T* marginals,
                       T* log_partition);
  void (*linear_vjp)(const Rows<T>&, int64_t begin, int64_t end, const T* grad_marginals,
                     const T* grad_log_partition, T* grad_logits);
  void (*sample)(const Rows<T>&, int64_t begin, int64_t end, int64_t num_samples, uint64_t seed,
                 const SubsetOutput&, const Executor&);
  void (*count_log_prob)(const Rows<T>&, int64_t begin, int64_t end, T* log_prob);
  void (*count_log_prob_vjp)(const Rows<T>&, int64_t begin, int64_t end, const T* grad,
                             T* grad_logits);
  // The derivative of <tangent, vjp(logits, grad)>: in grad (the JVP) and in logits.
  void (*count_log_prob_vjp_backward)(const Rows<T>&, int64_t begin, int64_t end, const T* grad,
                                      const T* tangent, T* grad_grad, T* grad_logits);
  // The noise of rows [begin, end) of n items: out [rows, n].
  void (*perturbation_noise)(const NoiseLaw<T>&, int64_t begin, int64_t end, int64_t n, T* out,
                             const Executor&);
  // Here [begin, end) counts samples too: p = sample * rows + row.
  void (*perturbed_topk)(const Rows<T>&, const NoiseLaw<T>&, T temperature, int64_t begin,
                         int64_t end, const SubsetOutput&, const Executor&);
  // Sums over the samples [first, last) of the left selection minus the right one, [rows, n], NaN
  // in an invalid row; and how many entries differ, [rows].
  void (*perturbed_difference)(const Rows<T>&, const NoiseLaw<T>&, const PerturbedPair<T>&,
                               int64_t begin, int64_t end, int64_t first, int64_t last, T* sums,
                               int64_t* nonzeros, const Executor&);
};

// The table for this machine (or for the level that ATEN_CPU_CAPABILITY asks for).
template <class T>
const Kernels<T>& kernels();

// Rows that one tree pass handles side by side at the chosen level: a good grain for threads.
int64_t lanes_of(int64_t scalar_bytes);

// "DEFAULT", "AVX2" or "AVX512".
const char* simd_level();

}  // namespace dg
