# SPDX-License-Identifier: Apache-2.0
"""The launchers of the contour and of the linear recursion in the emulation, on NumPy arrays.

Scratch memory has exactly the size that is asked for, holds NaN at first, and a zone behind it must
stay as it was; results start as NaN too.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np

from tests.cuda.emulation.build import compile_cuda, load
from tests.packaging.builds import ROOT

CUDA = ROOT / "csrc" / "cuda"
SOURCES = sorted(
    path
    for pattern in ("contour*.cu", "split_*.cu", "third_cumulant.cu", "linear*.cu")
    for path in CUDA.glob(pattern)
)
STATE_WIDTH = {np.dtype(np.float32): 24, np.dtype(np.float64): 46}

_SHIM = r"""
#include "cuda/contour.h"
#include "cuda/split.h"
using namespace dg::cuda;

template <class T>
Rows<T> rows_of(const void* logits, const int64_t* row_k, int64_t k, int64_t rows, int64_t n) {
  return Rows<T>{static_cast<const T*>(logits), row_k, k, rows, n};
}
// parts = 0: as the launchers choose; otherwise the split path with so many parts of `span` items.
template <class T>
int64_t forward(Rows<T> rows, int64_t parts, int64_t span, void* mu, void* log_z, void* state,
                void* scratch) {
  T* const m = static_cast<T*>(mu);
  T* const l = static_cast<T*>(log_z);
  T* const s = static_cast<T*>(state);
  if (parts > 0) {
    const Split split = {parts, span};
    if (scratch == nullptr) return split_forward_scratch_bytes<T>(rows.rows, split);
    return split_forward(rows, split, m, l, s, scratch, nullptr);
  }
  if (scratch == nullptr) return contour_forward_scratch_bytes<T>(rows.rows, rows.n);
  return launch_contour_forward(rows, m, l, s, scratch, nullptr);
}
template <class T>
int64_t vjp(Rows<T> rows, int64_t parts, int64_t span, const void* state, const void* grad,
            const void* grad_log_z, void* out, void* scratch) {
  const T* const s = static_cast<const T*>(state);
  const T* const g = static_cast<const T*>(grad);
  const T* const c = static_cast<const T*>(grad_log_z);
  if (parts > 0) {
    const Split split = {parts, span};
    if (scratch == nullptr) return split_vjp_scratch_bytes<T>(rows.rows, split);
    return split_vjp(rows, split, s, g, c, static_cast<T*>(out), scratch, nullptr);
  }
  if (scratch == nullptr) return contour_vjp_scratch_bytes<T>(rows.rows, rows.n, s != nullptr);
  return launch_contour_vjp(rows, s, g, c, static_cast<T*>(out), scratch, nullptr);
}
template <class T>
int64_t linear_forward(Rows<T> rows, void* mu, void* log_z, void* scratch) {
  if (scratch == nullptr) return linear_forward_scratch_bytes(rows);
  return launch_linear_forward(rows, static_cast<T*>(mu), static_cast<T*>(log_z), scratch, nullptr);
}
template <class T>
int64_t linear_vjp(Rows<T> rows, const void* grad, const void* grad_log_z, void* out,
                   void* scratch) {
  if (scratch == nullptr) return linear_vjp_scratch_bytes(rows);
  return launch_linear_vjp(rows, static_cast<const T*>(grad), static_cast<const T*>(grad_log_z),
                           static_cast<T*>(out), scratch, nullptr);
}

#define PROBLEM const void *logits, const int64_t *row_k, int64_t k, int64_t r, int64_t n
#define EXPORT_ALL(T)                                                                            \
  EXPORT int64_t forward_##T(PROBLEM, int64_t parts, int64_t span, void* mu, void* log_z,        \
                             void* state, void* scratch) {                                       \
    return forward(rows_of<T>(logits, row_k, k, r, n), parts, span, mu, log_z, state, scratch);  \
  }                                                                                              \
  EXPORT int64_t vjp_##T(PROBLEM, int64_t parts, int64_t span, const void* state,                \
                         const void* grad, const void* grad_log_z, void* out, void* scratch) {   \
    return vjp(rows_of<T>(logits, row_k, k, r, n), parts, span, state, grad, grad_log_z, out,    \
               scratch);                                                                         \
  }                                                                                              \
  EXPORT int64_t linear_forward_##T(PROBLEM, void* mu, void* log_z, void* scratch) {             \
    return linear_forward(rows_of<T>(logits, row_k, k, r, n), mu, log_z, scratch);               \
  }                                                                                              \
  EXPORT int64_t linear_vjp_##T(PROBLEM, const void* grad, const void* grad_log_z, void* out,    \
                                void* scratch) {                                                 \
    return linear_vjp(rows_of<T>(logits, row_k, k, r, n), grad, grad_log_z, out, scratch);       \
  }
EXPORT_ALL(float)
EXPORT_ALL(double)
EXPORT int64_t third_cumulant_double(PROBLEM, const void* a, const void* b, void* out,
                                     void* scratch) {
  if (scratch == nullptr) return third_cumulant_scratch_bytes(r, n);
  return launch_third_cumulant(rows_of<double>(logits, row_k, k, r, n),
                               static_cast<const double*>(a), static_cast<const double*>(b),
                               static_cast<double*>(out), scratch, nullptr);
}
"""


@functools.cache
def library() -> ctypes.CDLL:
    """The launchers, compiled once."""
    return load(compile_cuda(SOURCES, _SHIM))


class Problem(NamedTuple):
    """Rows [rows, n] and their k: an int, or int64 [rows]."""

    logits: np.ndarray
    k: int | np.ndarray


class Split(NamedTuple):
    """How the split path shares out a row, instead of the launchers' own rule."""

    parts: int
    span: int


def _address(array: np.ndarray | None) -> ctypes.c_void_p:
    if array is None:
        return ctypes.c_void_p()
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def _call(name: str, problem: Problem, *args: Any) -> None:
    logits = problem.logits
    function = getattr(library(), f"{name}_{'float' if logits.dtype == np.float32 else 'double'}")
    function.restype = ctypes.c_int64
    row_k = None if isinstance(problem.k, int) else np.ascontiguousarray(problem.k, np.int64)
    most = problem.k if isinstance(problem.k, int) else logits.shape[1]
    given: list[Any] = [_address(logits), _address(row_k), ctypes.c_int64(most)]
    given += [ctypes.c_int64(size) for size in logits.shape]
    given += [ctypes.c_int64(a) if isinstance(a, int) else _address(a) for a in args]
    size = function(*given, ctypes.c_void_p())
    scratch = np.full(size + 64, 0xFF, np.uint8)
    status = function(*given, _address(scratch))
    assert status == 0, library().cuda_emulation_error().decode()
    assert (scratch[size:] == 0xFF).all(), f"{name} writes beyond its scratch memory"


def _result(*shape: int, dtype: np.dtype) -> np.ndarray:
    return np.full(shape, np.nan, dtype)


def forward(
    problem: Problem, split: Split | None = None, *, only_state: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(marginals, log-partition, state)."""
    rows, n = problem.logits.shape
    dtype = problem.logits.dtype
    marginals, log_partition = _result(rows, n, dtype=dtype), _result(rows, dtype=dtype)
    state = _result(rows, STATE_WIDTH[dtype], dtype=dtype)
    outputs = (None, None) if only_state else (marginals, log_partition)
    _call("forward", problem, *(split or (0, 0)), *outputs, state)
    return marginals, log_partition, state


def vjp(
    problem: Problem,
    state: np.ndarray | None,
    grad_marginals: np.ndarray | None,
    grad_log_partition: np.ndarray | None,
    split: Split | None = None,
) -> np.ndarray:
    """The gradient of the logits."""
    out = _result(*problem.logits.shape, dtype=problem.logits.dtype)
    _call("vjp", problem, *(split or (0, 0)), state, grad_marginals, grad_log_partition, out)
    return out


def third_cumulant(problem: Problem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """sum_jl kappa_ijl a_j b_l, in float64."""
    out = _result(*problem.logits.shape, dtype=problem.logits.dtype)
    _call("third_cumulant", problem, a, b, out)
    return out


def linear_forward(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """(marginals, log-partition) by the linear recursion."""
    rows, n = problem.logits.shape
    dtype = problem.logits.dtype
    marginals, log_partition = _result(rows, n, dtype=dtype), _result(rows, dtype=dtype)
    _call("linear_forward", problem, marginals, log_partition)
    return marginals, log_partition


def linear_vjp(
    problem: Problem, grad_marginals: np.ndarray | None, grad_log_partition: np.ndarray | None
) -> np.ndarray:
    """The gradient of the logits by the linear recursion."""
    out = _result(*problem.logits.shape, dtype=problem.logits.dtype)
    _call("linear_vjp", problem, grad_marginals, grad_log_partition, out)
    return out
