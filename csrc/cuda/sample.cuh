// SPDX-License-Identifier: Apache-2.0
//
// The two samplers behind the launchers: by the tree for rows of at most 64 items, by halving for
// longer ones.
#pragma once

#include "cuda/sample_output.cuh"

namespace dg {
namespace cuda {

// num_samples samples of each row, from the stream of the number at `seed`.
struct SampleRequest {
  int64_t num_samples;
  const int64_t* seed;
  SampleOutput output;
};

template <class T>
int launch_short_samples(const Rows<T>& problem, const SampleRequest& request, void* stream);

template <class T>
size_t long_samples_scratch_bytes(const Rows<T>& problem, int64_t num_samples);
template <class T>
int launch_long_samples(const Rows<T>& problem, const SampleRequest& request, void* scratch,
                        void* stream);

}  // namespace cuda
}  // namespace dg
