// SPDX-License-Identifier: Apache-2.0
//
// Qualifiers for code that is compiled for more than one target.
//
// Everything under core/ is plain arithmetic on scalars: no framework, no allocation, no container.
// The same headers are compiled once for each SIMD level of the CPU (and can be compiled for a
// GPU), so no function may leave a weak symbol behind: the linker would keep one copy, perhaps one
// that an older CPU cannot run. DG_INLINE therefore forces inlining and gives internal linkage.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define DG_INLINE static __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
#define DG_INLINE static inline __attribute__((always_inline))
#else
#define DG_INLINE static inline
#endif
