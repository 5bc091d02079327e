# SPDX-License-Identifier: Apache-2.0
"""Perturbation noise of a seed, and the check of the table that gives its law."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import noise_tile
from .launch import launch
from .noise_kernels import noise_kernel
from .rows import TL_DTYPE, cdiv, check_seed

__all__ = ["check_quantiles", "perturbation_noise"]

_TABLE = (881, 4)


def check_quantiles(quantiles: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The table, contiguous.

    Raises:
        ValueError: it has not the shape that kernels read, or another dtype than the arithmetic.
    """
    if quantiles is None:
        return None
    if quantiles.shape != _TABLE or quantiles.dtype != dtype:
        raise ValueError(
            f"quantiles must be {dtype} {list(_TABLE)}, got "
            f"{quantiles.dtype} {list(quantiles.shape)}"
        )
    return quantiles.contiguous()


def perturbation_noise(
    rows: int, n: int, quantiles: Tensor | None, seed: Tensor, dtype: torch.dtype
) -> Tensor:
    """Noise [rows, n] of the first ``rows`` rows of the stream."""
    if dtype not in TL_DTYPE:
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    check_seed(seed)
    quantiles = check_quantiles(quantiles, dtype)
    result = torch.empty(rows, n, dtype=dtype, device=seed.device)
    if result.numel() > 0:
        tile = noise_tile(n)
        blocks = cdiv(n, tile.items)
        launch(
            noise_kernel,
            cdiv(rows, tile.rows) * blocks,
            quantiles,
            seed,
            result,
            n,
            rows,
            blocks,
            num_warps=tile.num_warps,
            fp_fusion=False,
            R=tile.rows,
            N=tile.items,
            DTYPE=TL_DTYPE[dtype],
        )
    return result
