// SPDX-License-Identifier: Apache-2.0
//
// What the CUDA kernels offer to the ops: functions on raw device pointers that start kernels on a
// stream and return a cudaError_t as an int (0: started). They neither allocate nor synchronise, so
// a CUDA graph can capture them; what they need beside their results is `scratch`, device memory of
// as many bytes as the function named *_scratch_bytes says, 16-byte aligned. T is float or double.
//
// No CUDA header is needed to include this file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dg {
namespace cuda {

const char* error_text(int error);

// The problem: `rows` contiguous rows of `n` > 0 logits, and how many items each row chooses.
template <class T>
struct Rows {
  const T* logits;
  const int64_t* row_k;  // null: every row chooses k
  int64_t k;             // with row_k: an upper bound
  int64_t rows;
  int64_t n;
};

// Scalars saved per row for the backward pass: s, M, then (Re W, Im W) of each node.
template <class T>
constexpr int kContourStateWidth = sizeof(T) == sizeof(float) ? 2 + 2 * 11 : 2 + 2 * 22;

// --- method "contour" -------------------------------------------------------------------------

template <class T>
size_t contour_forward_scratch_bytes(int64_t rows, int64_t n);

// marginals [rows, n], log_partition [rows]: each may be null. state [rows, width].
template <class T>
int launch_contour_forward(const Rows<T>& problem, T* marginals, T* log_partition, T* state,
                           void* scratch, void* stream);

// `has_state`: whether a state will be given.
template <class T>
size_t contour_vjp_scratch_bytes(int64_t rows, int64_t n, bool has_state);

// grad_logits [rows, n] = Cov g + c mu. state, grad_marginals (g) and grad_log_partition (c) may
// each be null.
template <class T>
int launch_contour_vjp(const Rows<T>& problem, const T* state, const T* grad_marginals,
                       const T* grad_log_partition, T* grad_logits, void* scratch, void* stream);

size_t third_cumulant_scratch_bytes(int64_t rows, int64_t n);

// out [rows, n] = sum_jl kappa_ijl a_j b_l, in double: it serves second derivatives.
int launch_third_cumulant(const Rows<double>& problem, const double* a, const double* b,
                          double* out, void* scratch, void* stream);

// --- method "linear" --------------------------------------------------------------------------

template <class T>
size_t linear_forward_scratch_bytes(const Rows<T>& problem);

template <class T>
int launch_linear_forward(const Rows<T>& problem, T* marginals, T* log_partition, void* scratch,
                          void* stream);

template <class T>
size_t linear_vjp_scratch_bytes(const Rows<T>& problem);

// grad_marginals and grad_log_partition may each be null.
template <class T>
int launch_linear_vjp(const Rows<T>& problem, const T* grad_marginals, const T* grad_log_partition,
                      T* grad_logits, void* scratch, void* stream);

// --- method "recursion" and the law of the count ----------------------------------------------

template <class T>
size_t recursion_scratch_bytes(const Rows<T>& problem);

// marginals [rows, n], log_partition [rows].
template <class T>
int launch_recursion(const Rows<T>& problem, T* marginals, T* log_partition, void* scratch,
                     void* stream);

// How many arrays of trees a derivative of the count law needs.
enum class CountOrder { kLaw, kVjp, kVjpBackward };

// Of each of the three below; Rows::k is the largest count.
template <class T>
size_t count_scratch_bytes(const Rows<T>& problem, CountOrder order);

// log_prob [rows, k + 1]: of k + 1 counts, -inf beyond n.
template <class T>
int launch_count_log_prob(const Rows<T>& problem, T* log_prob, void* scratch, void* stream);

// grad [rows, k + 1], grad_logits [rows, n].
template <class T>
int launch_count_log_prob_vjp(const Rows<T>& problem, const T* grad, T* grad_logits, void* scratch,
                              void* stream);

// The derivative of <tangent, vjp(logits, grad)>: in grad (the JVP) [rows, k + 1] and in logits.
template <class T>
int launch_count_log_prob_vjp_backward(const Rows<T>& problem, const T* grad, const T* tangent,
                                       T* grad_grad, T* grad_logits, void* scratch, void* stream);

// --- exact samples ----------------------------------------------------------------------------

// Numbers of 1, 2, 4 or 8 bytes by their bits: that of a chosen item (others: 0), and that which
// fills an invalid row.
struct SampleFormat {
  int bytes;
  uint64_t chosen;
  uint64_t invalid;
};

template <class T>
size_t sample_scratch_bytes(const Rows<T>& problem, int64_t num_samples);

// samples [num_samples, rows, n], k-hot. seed: one number in device memory.
template <class T>
int launch_sample(const Rows<T>& problem, int64_t num_samples, const int64_t* seed,
                  const SampleFormat& format, void* samples, void* scratch, void* stream);

// indices [num_samples, rows, k], ascending; -1 in an invalid row. Every row chooses k <= n.
template <class T>
int launch_sample_indices(const Rows<T>& problem, int64_t num_samples, const int64_t* seed,
                          int64_t* indices, void* scratch, void* stream);

// --- perturb-and-MAP --------------------------------------------------------------------------

// The law of the noise. seed: one number in device memory.
template <class T>
struct NoiseLaw {
  const T* quantiles;  // the table (core/quantiles.h); null: Gumbel
  const int64_t* seed;
};

// noise [rows, n].
template <class T>
int launch_perturbation_noise(const NoiseLaw<T>& law, int64_t rows, int64_t n, T* noise,
                              void* stream);

// The k largest of logits + temperature * noise: samples [num_samples, rows, n], k-hot.
template <class T>
int launch_perturbed_topk(const Rows<T>& problem, const NoiseLaw<T>& law, T temperature,
                          int64_t num_samples, const SampleFormat& format, void* samples,
                          void* stream);

// indices [num_samples, rows, k], ascending; -1 in an invalid row. Every row chooses k <= n.
template <class T>
int launch_perturbed_topk_indices(const Rows<T>& problem, const NoiseLaw<T>& law, T temperature,
                                  int64_t num_samples, int64_t* indices, void* stream);

// The two sides of a difference of selections:
//   left_alpha theta + left_temperature eps (+ step g if symmetric)
//   (right_alpha theta - step g) + right_temperature eps
template <class T>
struct PerturbedPair {
  const T* grad;  // g [num_samples, rows, n], the samples `sample_stride` apart
  int64_t sample_stride;
  const T* step;  // [rows]
  T left_alpha, left_temperature, right_alpha, right_temperature;
  bool symmetric;
};

size_t perturbed_difference_scratch_bytes(int64_t rows, int64_t n);

// difference [rows, n]: the mean over num_samples > 0 samples of left minus right, halved if
// symmetric; nonzeros [rows]: how many entries differ in all samples.
template <class T>
int launch_perturbed_difference(const Rows<T>& problem, const NoiseLaw<T>& law,
                                const PerturbedPair<T>& pair, int64_t num_samples, T* difference,
                                int64_t* nonzeros, void* scratch, void* stream);

}  // namespace cuda
}  // namespace dg
