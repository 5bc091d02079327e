# SPDX-License-Identifier: Apache-2.0
"""The launchers of the log recursion, of the law of the count and of the samplers in the emulation,
on tensors.

Scratch memory has exactly the size that is asked for, holds NaN at first, and a zone behind it must
stay as it was; results start as NaN too.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from tests.cuda.emulation.build import compile_cuda, load
from tests.packaging.builds import ROOT

__all__ = [
    "count_law",
    "count_law_second",
    "count_law_vjp",
    "library",
    "recursion",
    "sample",
    "sample_indices",
    "uses_scratch",
]

_NAMES = (
    "tree_marginals.cu",
    "tree_counts.cu",
    "sample.cu",
    "sample_tree.cu",
    "sample_halving.cu",
)
_SHIM = r"""
#include "cuda/launchers.h"
using namespace dg::cuda;

#define EXPORT_ALL(T, name)                                                                       \
  EXPORT size_t recursion_scratch_##name(const Rows<T>* rows) {                                   \
    return recursion_scratch_bytes(*rows);                                                        \
  }                                                                                               \
  EXPORT size_t count_scratch_##name(const Rows<T>* rows, int64_t order) {                        \
    return count_scratch_bytes(*rows, static_cast<CountOrder>(order));                            \
  }                                                                                               \
  EXPORT size_t sample_scratch_##name(const Rows<T>* rows, int64_t num_samples) {                 \
    return sample_scratch_bytes(*rows, num_samples);                                              \
  }                                                                                               \
  EXPORT int recursion_##name(const Rows<T>* rows, T* mu, T* log_z, void* scratch) {              \
    return launch_recursion(*rows, mu, log_z, scratch, nullptr);                                  \
  }                                                                                               \
  EXPORT int law_##name(const Rows<T>* rows, T* out, void* scratch) {                             \
    return launch_count_log_prob(*rows, out, scratch, nullptr);                                   \
  }                                                                                               \
  EXPORT int vjp_##name(const Rows<T>* rows, const T* grad, T* out, void* scratch) {              \
    return launch_count_log_prob_vjp(*rows, grad, out, scratch, nullptr);                         \
  }                                                                                               \
  EXPORT int second_##name(const Rows<T>* rows, const T* grad, const T* tangent, T* grad_grad,    \
                           T* grad_logits, void* scratch) {                                       \
    return launch_count_log_prob_vjp_backward(*rows, grad, tangent, grad_grad, grad_logits,       \
                                              scratch, nullptr);                                  \
  }                                                                                               \
  EXPORT int sample_##name(const Rows<T>* rows, int64_t num_samples, const int64_t* seed,         \
                           int64_t bytes, uint64_t chosen, uint64_t invalid, void* out,           \
                           void* scratch) {                                                       \
    return launch_sample(*rows, num_samples, seed, {static_cast<int>(bytes), chosen, invalid},    \
                         out, scratch, nullptr);                                                  \
  }                                                                                               \
  EXPORT int indices_##name(const Rows<T>* rows, int64_t num_samples, const int64_t* seed,        \
                            int64_t* out, void* scratch) {                                        \
    return launch_sample_indices(*rows, num_samples, seed, out, scratch, nullptr);                \
  }
EXPORT_ALL(float, float32)
EXPORT_ALL(double, float64)
"""


class _Rows(ctypes.Structure):
    """dg::cuda::Rows<T>."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("row_k", ctypes.c_void_p),
        ("k", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("n", ctypes.c_int64),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The launchers, compiled once."""
    return load(compile_cuda([ROOT / "csrc" / "cuda" / name for name in _NAMES], _SHIM))


def _rows(logits: Tensor, k: int | Tensor) -> _Rows:
    assert logits.is_contiguous()
    if isinstance(k, int):
        return _Rows(logits.data_ptr(), None, k, *logits.shape)
    return _Rows(logits.data_ptr(), k.data_ptr(), int(k.max()), *logits.shape)


def _argument(value: int | Tensor) -> ctypes.c_uint64 | ctypes.c_void_p:
    if isinstance(value, int):
        return ctypes.c_uint64(value & (2**64 - 1))
    return ctypes.c_void_p(value.data_ptr())


def _scratch_size(name: str, logits: Tensor, k: int | Tensor, *sizes: int) -> int:
    dtype = str(logits.dtype).removeprefix("torch.")
    function = getattr(library(), f"{name}_scratch_{dtype}")
    function.restype = ctypes.c_size_t
    return int(function(ctypes.byref(_rows(logits, k)), *map(_argument, sizes)))


def _launch(name: str, logits: Tensor, k: int | Tensor, size: int, *args: int | Tensor) -> None:
    scratch = torch.full((size + 64,), 255, dtype=torch.uint8)
    function = getattr(library(), f"{name}_{str(logits.dtype).removeprefix('torch.')}")
    status = function(ctypes.byref(_rows(logits, k)), *map(_argument, args), _argument(scratch))
    assert status == 0, library().cuda_emulation_error().decode()
    assert bool((scratch[size:] == 255).all()), f"{name} writes beyond its scratch memory"


def _result(like: Tensor, *shape: int) -> Tensor:
    return torch.full(shape, torch.nan, dtype=like.dtype)


def uses_scratch(logits: Tensor, k: int | Tensor, order: int | None = None) -> bool:
    """Whether the trees lie in memory: for marginals, or a derivative of the law of the count."""
    if order is None:
        return _scratch_size("recursion", logits, k) > 0
    return _scratch_size("count", logits, k, order) > 0


def recursion(logits: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
    """(marginals, log-partition); k: of all rows, or int64 [rows]."""
    mu, log_z = _result(logits, *logits.shape), _result(logits, logits.shape[0])
    _launch("recursion", logits, k, _scratch_size("recursion", logits, k), mu, log_z)
    return mu, log_z


def count_law(logits: Tensor, max_count: int) -> Tensor:
    """[rows, max_count + 1]."""
    out = _result(logits, logits.shape[0], max_count + 1)
    _launch("law", logits, max_count, _scratch_size("count", logits, max_count, 0), out)
    return out


def count_law_vjp(logits: Tensor, max_count: int, grad: Tensor) -> Tensor:
    """[rows, n]."""
    out = _result(logits, *logits.shape)
    _launch("vjp", logits, max_count, _scratch_size("count", logits, max_count, 1), grad, out)
    return out


def count_law_second(
    logits: Tensor, max_count: int, grad: Tensor, tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """The derivatives of <tangent, count_law_vjp>: in grad and in logits."""
    grad_grad, grad_logits = _result(logits, *grad.shape), _result(logits, *logits.shape)
    size = _scratch_size("count", logits, max_count, 2)
    _launch("second", logits, max_count, size, grad, tangent, grad_grad, grad_logits)
    return grad_grad, grad_logits


def _bits(value: float, dtype: torch.dtype) -> int:
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    number = int(torch.tensor(value, dtype=dtype).view(integer).item())
    return number & (2 ** (8 * dtype.itemsize) - 1)


def sample(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int,
    seed: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """k-hot samples [num_samples, rows, n] in ``dtype``; invalid rows hold NaN, or 2 in bytes."""
    dtype = logits.dtype if dtype is None else dtype
    bits = (_bits(1, dtype), _bits(torch.nan if dtype.is_floating_point else 2, dtype))
    out = torch.full((num_samples, *logits.shape), 3, dtype=dtype)
    size = _scratch_size("sample", logits, k, num_samples)
    _launch("sample", logits, k, size, num_samples, seed, dtype.itemsize, *bits, out)
    return out


def sample_indices(logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Tensor:
    """The same subsets as indices, [num_samples, rows, k]."""
    out = torch.full((num_samples, logits.shape[0], k), -7, dtype=torch.int64)
    size = _scratch_size("sample", logits, k, num_samples)
    _launch("indices", logits, k, size, num_samples, seed, out)
    return out
