// SPDX-License-Identifier: Apache-2.0
//
// The noise itself, a thread for each block of four items.
#include "cuda/noise.cuh"

namespace dg {
namespace cuda {
namespace {

constexpr int kNoiseThreads = 256;

template <class T>
__global__ void __launch_bounds__(kNoiseThreads)
    noise_kernel(NoiseLaw<T> law, int64_t rows, int64_t n, T* noise) {
  const int64_t blocks = (n + kBlockItems - 1) / kBlockItems;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kNoiseThreads + threadIdx.x;
  if (unit >= rows * blocks) return;
  const int64_t row = unit / blocks, block = unit % blocks;
  const BlockNoise<T> of_block = noise_of_block(law, noise_stream(law, row), block);
#pragma unroll
  for (int c = 0; c < kBlockItems; ++c) {
    const int64_t i = block * kBlockItems + c;
    if (i < n) noise[row * n + i] = of_block.of[c];
  }
}

}  // namespace

template <class T>
int launch_perturbation_noise(const NoiseLaw<T>& law, int64_t rows, int64_t n, T* noise,
                              void* stream) {
  const int64_t units = rows * ((n + kBlockItems - 1) / kBlockItems);
  return DG_LAUNCH((noise_kernel<T>), (units + kNoiseThreads - 1) / kNoiseThreads, kNoiseThreads, 0,
                   stream, law, rows, n, noise);
}

template int launch_perturbation_noise<float>(const NoiseLaw<float>&, int64_t, int64_t, float*,
                                              void*);
template int launch_perturbation_noise<double>(const NoiseLaw<double>&, int64_t, int64_t, double*,
                                               void*);

}  // namespace cuda
}  // namespace dg
