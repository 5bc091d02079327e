// SPDX-License-Identifier: Apache-2.0
//
// Which way the linear recursion of a problem goes: by threads or by trees in memory.
#include "cuda/linear.h"

namespace dg {
namespace cuda {
namespace {

template <class T, bool kBackward>
bool fits_thread(const Rows<T>& problem) {
  return problem.n <= kLongestThreadRow<T, kBackward>;
}

template <class T, bool kBackward>
size_t scratch_bytes(const Rows<T>& problem) {
  if (problem.rows == 0 || fits_thread<T, kBackward>(problem)) return 0;
  return linear_tree_scratch_bytes<T, kBackward>(problem);
}

template <class T, bool kBackward>
int launch(const Rows<T>& problem, const LinearRequest<T>& request, void* scratch, void* stream) {
  if (problem.rows == 0) return 0;
  if (fits_thread<T, kBackward>(problem)) {
    return linear_by_threads<T, kBackward>(problem, request, stream);
  }
  return linear_by_tree<T, kBackward>(problem, request, scratch, stream);
}

}  // namespace

template <class T>
size_t linear_forward_scratch_bytes(const Rows<T>& problem) {
  return scratch_bytes<T, false>(problem);
}

template <class T>
int launch_linear_forward(const Rows<T>& problem, T* marginals, T* log_partition, void* scratch,
                          void* stream) {
  const LinearRequest<T> request = {marginals, log_partition, nullptr, nullptr, nullptr};
  return launch<T, false>(problem, request, scratch, stream);
}

template <class T>
size_t linear_vjp_scratch_bytes(const Rows<T>& problem) {
  return scratch_bytes<T, true>(problem);
}

template <class T>
int launch_linear_vjp(const Rows<T>& problem, const T* grad_marginals, const T* grad_log_partition,
                      T* grad_logits, void* scratch, void* stream) {
  const LinearRequest<T> request = {nullptr, nullptr, grad_marginals, grad_log_partition,
                                    grad_logits};
  return launch<T, true>(problem, request, scratch, stream);
}

#define DG_INSTANTIATE(T)                                                      \
  template size_t linear_forward_scratch_bytes<T>(const Rows<T>&);             \
  template int launch_linear_forward<T>(const Rows<T>&, T*, T*, void*, void*); \
  template size_t linear_vjp_scratch_bytes<T>(const Rows<T>&);                 \
  template int launch_linear_vjp<T>(const Rows<T>&, const T*, const T*, T*, void*, void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)
#undef DG_INSTANTIATE

}  // namespace cuda
}  // namespace dg
