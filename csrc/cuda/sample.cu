// SPDX-License-Identifier: Apache-2.0
//
// Exact samples: the choice of the sampler, which is a part of the canonical algorithm.
#include "cuda/sample.cuh"

#include "cuda/sample_tree.cuh"

namespace dg {
namespace cuda {
namespace {

template <class T>
int launch(const Rows<T>& problem, const SampleRequest& request, void* scratch, void* stream) {
  if (problem.rows == 0 || request.num_samples == 0) return 0;
  return problem.n <= kTreeItems ? launch_short_samples(problem, request, stream)
                                 : launch_long_samples(problem, request, scratch, stream);
}

}  // namespace

template <class T>
size_t sample_scratch_bytes(const Rows<T>& problem, int64_t num_samples) {
  return problem.n <= kTreeItems ? 0 : long_samples_scratch_bytes(problem, num_samples);
}

template <class T>
int launch_sample(const Rows<T>& problem, int64_t num_samples, const int64_t* seed,
                  const SampleFormat& format, void* samples, void* scratch, void* stream) {
  const SampleOutput output = {samples, nullptr, format, problem.n, problem.k};
  return launch(problem, {num_samples, seed, output}, scratch, stream);
}

template <class T>
int launch_sample_indices(const Rows<T>& problem, int64_t num_samples, const int64_t* seed,
                          int64_t* indices, void* scratch, void* stream) {
  const SampleOutput output = {nullptr, indices, SampleFormat{}, problem.n, problem.k};
  return launch(problem, {num_samples, seed, output}, scratch, stream);
}

#define DG_INSTANTIATE(T)                                                                         \
  template size_t sample_scratch_bytes<T>(const Rows<T>&, int64_t);                               \
  template int launch_sample<T>(const Rows<T>&, int64_t, const int64_t*, const SampleFormat&,     \
                                void*, void*, void*);                                             \
  template int launch_sample_indices<T>(const Rows<T>&, int64_t, const int64_t*, int64_t*, void*, \
                                        void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)

}  // namespace cuda
}  // namespace dg
