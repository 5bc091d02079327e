# SPDX-License-Identifier: Apache-2.0
"""The emulation that the CUDA kernels are tested in: it computes what a GPU would, and sees what
must not happen.
"""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import pytest

from tests.cuda.emulation.build import compile_cuda, load

KERNELS = r"""
#include "cuda/team.cuh"

__global__ void reverse_kernel(const int* in, int* out, bool with_barrier) {
  __shared__ int value[64];
  value[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  if (with_barrier) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = value[63 - threadIdx.x];
}
EXPORT int reverse(const int* in, int* out, int64_t blocks, bool with_barrier) {
  return DG_LAUNCH(reverse_kernel, blocks, 64, 0, nullptr, in, out, with_barrier);
}

__global__ void divergent_kernel(int how) {
  if (how == 0 && threadIdx.x < 5) return;
  if (how == 1 && threadIdx.x == 7) {
    __syncthreads();
  } else if (how == 2 && threadIdx.x % 32 == 3) {
    __syncwarp(0xFu);
  } else if (how == 3) {
    __shfl_sync(0xFFFFu, 1, 20);
  }
  __syncthreads();
}
EXPORT int divergent(int how) {
  return DG_LAUNCH(divergent_kernel, int64_t{2}, 64, 0, nullptr, how);
}

__global__ void shuffles_kernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_sync(0xFFFFFFFFu, lane, 3);
  out[32 + lane] = __shfl_xor_sync(0xFFFFFFFFu, lane, 5);
  out[64 + lane] = __shfl_down_sync(0xFFFFFFFFu, lane, 2, 8);
  out[96 + lane] = __shfl_up_sync(0xFFFFFFFFu, lane, 1, 4);
  out[128 + lane] = static_cast<int>(__ballot_sync(0xFFFFFFFFu, lane % 3 == 0));
  out[160 + lane] = __any_sync(0xFFFFFFFFu, lane == 31) + 2 * __all_sync(0xFFFFFFFFu, lane < 31);
  out[192 + lane] = lane < 8 ? __shfl_xor_sync(0xFFu, lane, 7) : -1;
}
EXPORT int shuffles(int* out) {
  return DG_LAUNCH(shuffles_kernel, int64_t{1}, 32, 0, nullptr, out);
}

template <int kThreads>
__global__ void sums_kernel(const double* in, double* out) {
  dg::cuda::Team<kThreads> team;
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  double sum = 0;
  for (int round = 0; round < 3; ++round) {
    const dg::cuda::Sums<double, 2> mine = {{in[at], round == 0 ? 1.0 : 0.5}};
    const auto all = team.reduce(mine, dg::cuda::Add());
    sum += all.of[0] * all.of[1];
  }
  out[at] = sum;
}
EXPORT int sums(int threads, const double* in, double* out) {
  if (threads == 4) return DG_LAUNCH(sums_kernel<4>, int64_t{2}, 256, 0, nullptr, in, out);
  if (threads == 32) return DG_LAUNCH(sums_kernel<32>, int64_t{2}, 256, 0, nullptr, in, out);
  return DG_LAUNCH(sums_kernel<256>, int64_t{2}, 256, 0, nullptr, in, out);
}

__global__ void dynamic_kernel(int* out) {
  DG_DYNAMIC_SHARED(bytes);
  int* shared = reinterpret_cast<int*>(bytes);
  out[threadIdx.x] = shared[threadIdx.x];
  shared[threadIdx.x] = threadIdx.x;
}
// A warp that runs ahead writes what another has not read yet.
__global__ void reused_kernel(int* out, bool with_barrier) {
  __shared__ int of_warp[2];
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = round;
    __syncthreads();
    out[64 * round + threadIdx.x] = of_warp[1 - threadIdx.x / 32];
    if (with_barrier) __syncthreads();
  }
}
EXPORT int reused(int* out, bool with_barrier) {
  return DG_LAUNCH(reused_kernel, int64_t{1}, 64, 0, nullptr, out, with_barrier);
}

EXPORT int dynamic(int64_t blocks, int64_t bytes, int* out) {
  return DG_LAUNCH(dynamic_kernel, blocks, 32, bytes, nullptr, out);
}
"""

BEYOND = r"""
#include <cstdlib>
#include "cuda/launch.cuh"

__global__ void beyond_kernel(float* out, int n) {
  if (static_cast<int>(threadIdx.x) < n) out[threadIdx.x] = 1.0f;
}
int main(int, char** arguments) {
  float* out = static_cast<float*>(std::malloc(48 * sizeof(float)));
  const int n = std::atoi(arguments[1]);
  const int result = DG_LAUNCH(beyond_kernel, int64_t{3}, 64, 0, nullptr, out, n);
  std::free(out);
  return result;
}
"""


@pytest.fixture(scope="module")
def kernels():
    return load(compile_cuda([], KERNELS))


@pytest.fixture(params=[0, 1, 5], ids=["forward", "reverse", "drawn"])
def schedule(request, kernels):
    kernels.cuda_emulation_schedule(request.param)
    yield request.param
    kernels.cuda_emulation_schedule(0)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_shared_memory_and_barriers(kernels, schedule):
    given = np.arange(3 * 64, dtype=np.int32)
    out = np.zeros_like(given)
    assert kernels.reverse(pointer(given), pointer(out), ctypes.c_int64(3), True) == 0
    assert (out.reshape(3, 64) == given.reshape(3, 64)[:, ::-1]).all()


def test_a_missing_barrier_shows(kernels, schedule):
    """What was not written yet is the poison, in every block."""
    given = np.arange(3 * 64, dtype=np.int32)
    out = np.zeros_like(given)
    assert kernels.reverse(pointer(given), pointer(out), ctypes.c_int64(3), False) == 0
    assert (out.reshape(3, 64) == -1).any(axis=1).all()


@pytest.mark.parametrize("with_barrier", [False, True])
def test_a_warp_runs_ahead(kernels, schedule, with_barrier):
    out = np.zeros((3, 64), dtype=np.int32)
    assert kernels.reused(pointer(out), with_barrier) == 0
    assert bool((out == np.arange(3)[:, None]).all()) == with_barrier


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (0, "a barrier that not all threads reach"),
        (1, "threads at different barriers"),
        (2, "at different collectives|not all threads reach"),
        (3, "a shuffle from a lane outside its mask|not in the mask"),
    ],
)
def test_divergence_is_an_error(kernels, schedule, how, words):
    assert kernels.divergent(how) == 719
    message = kernels.cuda_emulation_error().decode()
    assert any(word in message for word in words.split("|")), message
    assert "in block 0: thread" in message
    assert kernels.divergent(4) == 0


def test_warp_collectives(kernels, schedule):
    out = np.zeros(7 * 32, dtype=np.int32)
    assert kernels.shuffles(pointer(out)) == 0
    lane = np.arange(32)
    third = sum(1 << int(i) for i in lane[::3])
    down = np.where(lane % 8 < 6, lane + 2, lane)
    up = np.where(lane % 4 > 0, lane - 1, lane)
    some = np.where(lane < 8, lane ^ 7, -1)
    want = [0 * lane + 3, lane ^ 5, down, up, 0 * lane + third, 0 * lane + 1, some]
    assert (out.view(np.uint32) == np.concatenate(want).astype(np.int32).view(np.uint32)).all()


@pytest.mark.parametrize("threads", [4, 32, 256])
def test_reductions(kernels, schedule, threads):
    given = np.random.RandomState(1).randint(0, 1000, 512).astype(np.float64)
    out = np.zeros(512)
    assert kernels.sums(threads, pointer(given), pointer(out)) == 0
    rows = given.reshape(-1, threads).sum(axis=1, keepdims=True)
    assert (out.reshape(-1, threads) == 2 * threads * rows).all()


def test_dynamic_shared_memory_is_poisoned_for_each_block(kernels):
    out = np.zeros(32, dtype=np.int32)
    assert kernels.dynamic(ctypes.c_int64(2), ctypes.c_int64(128), pointer(out)) == 0
    assert (out == -1).all()


def test_launches_that_a_gpu_refuses(kernels):
    out = np.zeros(32, dtype=np.int32)
    assert kernels.dynamic(ctypes.c_int64(0), ctypes.c_int64(128), pointer(out)) == 0
    assert kernels.dynamic(ctypes.c_int64(2**31), ctypes.c_int64(128), pointer(out)) == 9
    assert kernels.dynamic(ctypes.c_int64(1), ctypes.c_int64(2**16), pointer(out)) == 9
    assert (out == 0).all()


def test_a_sanitizer_sees_a_kernel_leave_its_memory():
    program = compile_cuda([], BEYOND, program=True, flags=["-fsanitize=address"])
    run = lambda n: subprocess.run([program, n], capture_output=True, text=True)  # noqa: E731
    assert run("48").returncode == 0
    beyond = run("49")
    assert beyond.returncode != 0
    assert "heap-buffer-overflow" in beyond.stderr
