# SPDX-License-Identifier: Apache-2.0
"""Rows on which the perturbed top-k of every backend is held to the reference."""

from __future__ import annotations

import torch
from torch import Tensor

INF = float("inf")
NAN = float("nan")


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normal numbers, the same in each dtype but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def adversarial(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """18 rows and their k: ties, zeros of both signs, infinite items, extremes; invalid from 13."""
    logits = normal(18, n, dtype=dtype, seed=3)
    sizes = torch.full((18,), n // 3)
    logits[0] = 0.0
    logits[1] = torch.where(torch.arange(n) % 2 == 0, 0.0, -0.0)
    logits[2] = logits[2].sign()
    logits[3] = (2 * logits[3]).round()
    logits[4, ::3] = -INF
    logits[5, : n // 3] = INF  # exactly k forced items
    logits[6, 1::2] = INF
    logits[7, n // 3 :] = -INF  # exactly k items left
    logits[8] = torch.finfo(dtype).max
    logits[9] = -torch.finfo(dtype).tiny / 4
    logits[10, : n // 2] *= 1e30
    logits[11, :2] = torch.tensor([INF, -INF])
    sizes[6], sizes[11], sizes[12] = n // 2 + 1, 1, 0
    logits[13, n // 2] = NAN
    logits[14, n // 3 - 1 :] = -INF
    logits[15, : n // 3 + 1] = INF
    sizes[16], sizes[17] = -1, n + 1
    return logits, sizes


def without_difference(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [8, n], gradients [2, 8, n] and steps [8], float32: rows 0, 1, 2, 4 and 6 have no
    difference of their 6 largest, where the right side takes 1.3 times the logits.
    """
    logits = normal(8, n, dtype=torch.float32)
    logits[0, 3] = NAN
    logits[1, 5:] = -INF
    logits[2] = torch.finfo(torch.float32).max  # 1.3 times that is not finite
    logits[3, 0] = logits[4, 0] = -INF
    logits[5, 0] = INF
    grad = normal(2, 8, n, dtype=torch.float32, seed=4)
    grad[1, 4, 5] = NAN
    grad[0, 3, 0] = -INF  # of an excluded item, which is not moved
    grad[0, 5, 0] = NAN  # of a forced one
    grad[1, 6, 5] = INF
    step = torch.full((8,), 0.5)
    step[6] = 0  # times an infinite gradient is a NaN
    return logits, grad, step
