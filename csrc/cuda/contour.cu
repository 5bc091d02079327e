// SPDX-License-Identifier: Apache-2.0
//
// Which way the contour of a problem goes: fused or split.
#include "cuda/contour.h"

#include "cuda/split.h"

namespace dg {
namespace cuda {
namespace {

// Scratch memory is handed out in pieces that any type may begin at.
size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

template <class T>
size_t state_bytes(int64_t rows) {
  return aligned(static_cast<size_t>(rows) * kContourStateWidth<T> * sizeof(T));
}

}  // namespace

template <class T>
size_t contour_forward_scratch_bytes(int64_t rows, int64_t n) {
  if (rows == 0 || n <= longest_fused_row<T>()) return 0;
  return aligned(split_forward_scratch_bytes<T>(rows, split_of_row(rows, n)));
}

template <class T>
int launch_contour_forward(const Rows<T>& problem, T* marginals, T* log_partition, T* state,
                           void* scratch, void* stream) {
  if (problem.rows == 0) return 0;
  if (problem.n <= longest_fused_row<T>()) {
    return fused_forward(problem, marginals, log_partition, state, stream);
  }
  return split_forward(problem, split_of_row(problem.rows, problem.n), marginals, log_partition,
                       state, scratch, stream);
}

template <class T>
size_t contour_vjp_scratch_bytes(int64_t rows, int64_t n, bool has_state) {
  if (rows == 0) return 0;
  const bool split = n > longest_fused_row<T>();
  size_t bytes = split ? aligned(split_vjp_scratch_bytes<T>(rows, split_of_row(rows, n))) : 0;
  if (has_state) return bytes;
  // The forward pass is over before the backward pass starts.
  const size_t forward = contour_forward_scratch_bytes<T>(rows, n);
  return state_bytes<T>(rows) + (forward > bytes ? forward : bytes);
}

template <class T>
int launch_contour_vjp(const Rows<T>& problem, const T* state, const T* grad_marginals,
                       const T* grad_log_partition, T* grad_logits, void* scratch, void* stream) {
  if (problem.rows == 0) return 0;
  if (state == nullptr) {
    T* const solved = static_cast<T*>(scratch);
    scratch = static_cast<unsigned char*>(scratch) + state_bytes<T>(problem.rows);
    const int error = launch_contour_forward<T>(problem, nullptr, nullptr, solved, scratch, stream);
    if (error != 0) return error;
    state = solved;
  }
  if (problem.n <= longest_fused_row<T>()) {
    return fused_vjp(problem, state, grad_marginals, grad_log_partition, grad_logits, stream);
  }
  return split_vjp(problem, split_of_row(problem.rows, problem.n), state, grad_marginals,
                   grad_log_partition, grad_logits, scratch, stream);
}

#define DG_INSTANTIATE(T)                                                                     \
  template size_t contour_forward_scratch_bytes<T>(int64_t, int64_t);                         \
  template int launch_contour_forward<T>(const Rows<T>&, T*, T*, T*, void*, void*);           \
  template size_t contour_vjp_scratch_bytes<T>(int64_t, int64_t, bool);                       \
  template int launch_contour_vjp<T>(const Rows<T>&, const T*, const T*, const T*, T*, void*, \
                                     void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)
#undef DG_INSTANTIATE

}  // namespace cuda
}  // namespace dg
