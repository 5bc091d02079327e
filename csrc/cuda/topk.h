// SPDX-License-Identifier: Apache-2.0
//
// The two ways of perturbed top-k behind the launchers: rows in the registers of a team of threads,
// and longer rows by radix passes of a block.
#pragma once

#include "cuda/sample_output.cuh"

namespace dg {
namespace cuda {

// num_samples choices of each row.
template <class T>
struct TopkRequest {
  NoiseLaw<T> law;
  T temperature;
  int64_t num_samples;
  SampleOutput output;
};

template <class T>
int launch_short_topk(const Rows<T>& problem, const TopkRequest<T>& request, void* stream);

template <class T>
int launch_long_topk(const Rows<T>& problem, const TopkRequest<T>& request, void* stream);

}  // namespace cuda
}  // namespace dg
