# SPDX-License-Identifier: Apache-2.0
"""From tensors to rows of items, as the kernels take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

__all__ = [
    "STATE_WIDTH",
    "TL_DTYPE",
    "Rows",
    "as_rows",
    "cdiv",
    "check_seed",
    "compute_dtype",
    "next_power_of_2",
]

# What the contour saves of a row: s, M and two numbers for each node that may be kept.
STATE_WIDTH = {torch.float32: 2 + 2 * 11, torch.float64: 2 + 2 * 22}

# What kernels compute in, as a constexpr.
TL_DTYPE: dict[torch.dtype, Any] = {torch.float32: tl.float32, torch.float64: tl.float64}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything else is computed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cdiv(a: int, b: int) -> int:
    """The quotient, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not less than n (1 for n = 0)."""
    return 1 << max(n - 1, 0).bit_length()


def check_seed(seed: Tensor) -> None:
    """Raises ValueError unless ``seed`` is one int64, which is all that a kernel reads of it."""
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError(
            f"seed must be an int64 tensor with one element, got {seed.dtype} {list(seed.shape)}"
        )


class Rows(NamedTuple):
    """Rows of a problem."""

    logits: Tensor  # [rows, n], contiguous, in the caller's dtype
    row_k: Tensor | None  # [rows] int64, contiguous, or None: every row has k
    k: int
    count: int  # rows
    n: int
    dtype: torch.dtype  # of the arithmetic

    @property
    def tl_dtype(self) -> Any:
        """``dtype`` as a constexpr."""
        return TL_DTYPE[self.dtype]


def as_rows(logits: Tensor, k: int, row_k: Tensor | None) -> Rows:
    """The rows of ``logits`` [..., n], each with its k."""
    n = logits.shape[-1]
    count = logits.shape[:-1].numel()
    return Rows(
        logits.reshape(count, n).contiguous(),
        None if row_k is None else row_k.reshape(count).contiguous(),
        k,
        count,
        n,
        compute_dtype(logits.dtype),
    )
