// SPDX-License-Identifier: Apache-2.0
//
// How kernels are started, and where the CUDA runtime comes from: the one place that knows of the
// emulation that tests use on a machine without a GPU.
#pragma once

#include <cstdint>

#if defined(DG_CUDA_EMULATION)
#include "cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

#define DG_DEVICE __device__ __forceinline__

namespace dg {
namespace cuda {

constexpr int64_t kMostBlocks = 2147483647;  // of a grid's x dimension
constexpr int kInvalidConfiguration = 9;     // cudaErrorInvalidConfiguration

}  // namespace cuda
}  // namespace dg

// Starts `blocks` (int64) blocks of `threads` threads on a stream (void*); the value is a
// cudaError_t as an int. A grid without blocks is nothing to do. A kernel whose template arguments
// hold a comma goes in parentheses.
#if defined(DG_CUDA_EMULATION)
#define DG_START(kernel, blocks, threads, shared_bytes, stream, ...)            \
  ((void)(stream),                                                              \
   ::cuda_emulation::launch(dim3(static_cast<unsigned>(blocks)), dim3(threads), \
                            static_cast<size_t>(shared_bytes), [&] { (kernel)(__VA_ARGS__); }))
// Shared memory whose size the launch gives, as bytes.
#define DG_DYNAMIC_SHARED(name) unsigned char* const name = ::cuda_emulation::dynamic_shared()
#else
// clang-format off
#define DG_START(kernel, blocks, threads, shared_bytes, stream, ...)                           \
  ((kernel)<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads),                   \
              static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__), \
   static_cast<int>(cudaGetLastError()))
// clang-format on
#define DG_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#define DG_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  ((blocks) == 0 ? 0                                                  \
   : (blocks) > ::dg::cuda::kMostBlocks                               \
       ? ::dg::cuda::kInvalidConfiguration                            \
       : DG_START(kernel, blocks, threads, shared_bytes, stream, __VA_ARGS__))
