// SPDX-License-Identifier: Apache-2.0
//
// The launchers of perturbed top-k: which way a row goes.
#include "cuda/topk.h"

#include "cuda/contour.h"

namespace dg {
namespace cuda {
namespace {

template <class T>
int launch(const Rows<T>& problem, const TopkRequest<T>& request, void* stream) {
  return problem.n <= longest_fused_row<T>() ? launch_short_topk(problem, request, stream)
                                             : launch_long_topk(problem, request, stream);
}

}  // namespace

template <class T>
int launch_perturbed_topk(const Rows<T>& problem, const NoiseLaw<T>& law, T temperature,
                          int64_t num_samples, const SampleFormat& format, void* samples,
                          void* stream) {
  const SampleOutput output = {samples, nullptr, format, problem.n, problem.k};
  return launch<T>(problem, {law, temperature, num_samples, output}, stream);
}

template <class T>
int launch_perturbed_topk_indices(const Rows<T>& problem, const NoiseLaw<T>& law, T temperature,
                                  int64_t num_samples, int64_t* indices, void* stream) {
  const SampleOutput output = {nullptr, indices, SampleFormat{}, problem.n, problem.k};
  return launch<T>(problem, {law, temperature, num_samples, output}, stream);
}

#define DG_INSTANTIATE(T)                                                                       \
  template int launch_perturbed_topk<T>(const Rows<T>&, const NoiseLaw<T>&, T, int64_t,         \
                                        const SampleFormat&, void*, void*);                     \
  template int launch_perturbed_topk_indices<T>(const Rows<T>&, const NoiseLaw<T>&, T, int64_t, \
                                                int64_t*, void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)
#undef DG_INSTANTIATE

}  // namespace cuda
}  // namespace dg
