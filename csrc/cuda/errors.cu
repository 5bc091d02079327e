// SPDX-License-Identifier: Apache-2.0
//
// What the number of an error means: the CUDA runtime knows, and the ops do not include it.
#include "cuda/launch.cuh"
#include "cuda/launchers.h"

namespace dg {
namespace cuda {

const char* error_text(int error) {
#if defined(DG_CUDA_EMULATION)
  (void)error;
  return ::cuda_emulation::machine().error.c_str();
#else
  return cudaGetErrorString(static_cast<cudaError_t>(error));
#endif
}

}  // namespace cuda
}  // namespace dg
