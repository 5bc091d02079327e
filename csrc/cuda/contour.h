// SPDX-License-Identifier: Apache-2.0
//
// The two ways of the contour: a row in the registers of a team of threads ("fused", one launch),
// or shared out over several blocks ("split", a fixed sequence of launches). launchers.h says what
// the arguments are.
#pragma once

#include "cuda/launchers.h"

namespace dg {
namespace cuda {

struct Split;  // split.h

// The longest rows that a team holds in its registers.
template <class T>
constexpr int64_t longest_fused_row() {
  return sizeof(T) == sizeof(float) ? 8192 : 2048;
}

// kItems of every member of a team of kThreads; short rows share a block.
template <int kTeam, int kOfEach>
struct FusedShape {
  static constexpr int kThreads = kTeam;
  static constexpr int kItems = kOfEach;
  static constexpr int kTeams = kTeam >= 128 ? 1 : (kTeam <= 8 ? 64 : 128) / kTeam;
  static constexpr int kBlockThreads = kTeams * kTeam;
};

// use(FusedShape) with the smallest shape that has room for a row of n items.
template <class T, class Use>
int with_fused_shape(int64_t n, Use&& use) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (n <= 16) return use(FusedShape<4, 4>());
    if (n <= 64) return use(FusedShape<8, 8>());
    if (n <= 256) return use(FusedShape<32, 8>());
    if (n <= 1024) return use(FusedShape<128, 8>());
    if (n <= 4096) return use(FusedShape<512, 8>());
    return use(FusedShape<512, 16>());
  } else {
    if (n <= 16) return use(FusedShape<4, 4>());
    if (n <= 64) return use(FusedShape<16, 4>());
    if (n <= 128) return use(FusedShape<32, 4>());
    if (n <= 512) return use(FusedShape<128, 4>());
    return use(FusedShape<256, 8>());
  }
}

template <class T>
int fused_forward(const Rows<T>& problem, T* marginals, T* log_partition, T* state, void* stream);

template <class T>
int fused_vjp(const Rows<T>& problem, const T* state, const T* grad_marginals,
              const T* grad_log_partition, T* grad_logits, void* stream);

template <class T>
size_t split_forward_scratch_bytes(int64_t rows, Split split);

template <class T>
int split_forward(const Rows<T>& problem, Split split, T* marginals, T* log_partition, T* state,
                  void* scratch, void* stream);

template <class T>
size_t split_vjp_scratch_bytes(int64_t rows, Split split);

template <class T>
int split_vjp(const Rows<T>& problem, Split split, const T* state, const T* grad_marginals,
              const T* grad_log_partition, T* grad_logits, void* scratch, void* stream);

}  // namespace cuda
}  // namespace dg
