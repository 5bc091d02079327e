// SPDX-License-Identifier: Apache-2.0
//
// method="linear": the tree over tilted items in probabilities, without a log or an exp on the way.
// Short rows go through it in the registers of one thread each, others in memory.
#pragma once

#include "cuda/launchers.h"

namespace dg {
namespace cuda {

// What is asked of the rows: of the forward pass the first two, of the backward pass the others, of
// which the gradients may each be null.
template <class T>
struct LinearRequest {
  T* marginals;
  T* log_partition;
  const T* grad_marginals;
  const T* grad_log_partition;
  T* grad_logits;
};

// The longest rows that a thread holds in its registers.
template <class T, bool kBackward>
constexpr int64_t kLongestThreadRow = (kBackward ? 8 : 16) * sizeof(float) / sizeof(T);

template <class T, bool kBackward>
int linear_by_threads(const Rows<T>& problem, const LinearRequest<T>& request, void* stream);

template <class T, bool kBackward>
size_t linear_tree_scratch_bytes(const Rows<T>& problem);

template <class T, bool kBackward>
int linear_by_tree(const Rows<T>& problem, const LinearRequest<T>& request, void* scratch,
                   void* stream);

}  // namespace cuda
}  // namespace dg
