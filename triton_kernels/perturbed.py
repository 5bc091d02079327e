# SPDX-License-Identifier: Apache-2.0
"""Perturbed top-k: the k largest of logits plus noise, as k-hot vectors or as indices."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import selection_tile
from .launch import launch
from .long_topk import Sides, selections_each, settle
from .long_topk_write_kernels import long_indices_kernel, long_khot_kernel, long_tally_kernel
from .noise import check_quantiles
from .perturbed_kernels import perturbed_topk_kernel
from .rows import Rows, as_rows, cdiv, check_seed

__all__ = ["perturbed_topk", "perturbed_topk_indices"]


def _select_long(
    rows: Rows,
    draws: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
    khot: Tensor | None,
    indices: Tensor | None,
) -> None:
    sides = Sides(1.0, temperature, 1.0, temperature)
    each = selections_each(rows)
    for first in range(0, draws, each):
        width = min(each, draws - first)
        settled, split = settle(rows, quantiles, seed, sides, first, width, 1)
        inputs = (rows.logits, quantiles, seed, settled)
        shares = (first, rows.count, split.parts, split.span, temperature)
        constants = {
            **{"num_warps": split.num_warps, "fp_fusion": False},
            **{"B": split.block, "DTYPE": rows.tl_dtype},
        }
        programs = width * split.parts
        if khot is not None:
            launch(long_khot_kernel, programs, *inputs, khot, rows.n, *shares, **constants)
        else:
            tallies = torch.empty(programs, dtype=torch.int32, device=seed.device)
            launch(long_tally_kernel, programs, *inputs, tallies, rows.n, *shares, **constants)
            launch(
                long_indices_kernel,
                programs,
                *inputs,
                tallies,
                indices,
                rows.k,
                rows.n,
                *shares,
                **constants,
            )


def _select(
    rows: Rows,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
    *,
    khot: Tensor | None = None,
    indices: Tensor | None = None,
) -> None:
    """Fills khot [num_samples, ..., n] or indices [num_samples, ..., k]."""
    check_seed(seed)
    quantiles = check_quantiles(quantiles, rows.dtype)
    draws = num_samples * rows.count
    tile = selection_tile(rows.n, rows.dtype)
    if tile is None:
        _select_long(rows, draws, quantiles, temperature, seed, khot, indices)
        return
    launch(
        perturbed_topk_kernel,
        cdiv(draws, tile.rows),
        rows.logits,
        rows.row_k,
        quantiles,
        seed,
        khot,
        indices,
        rows.k,
        rows.n,
        rows.count,
        draws,
        temperature,
        num_warps=tile.num_warps,
        fp_fusion=False,
        R=tile.rows,
        N=tile.items,
        DTYPE=rows.tl_dtype,
    )


def perturbed_topk(
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    """Samples as k-hot vectors, [num_samples, ..., n] in the dtype of the logits."""
    result = logits.new_empty(num_samples, *logits.shape)
    if result.numel() > 0:
        rows = as_rows(logits, k, row_k)
        _select(rows, num_samples, quantiles, temperature, seed, khot=result)
    return result


def perturbed_topk_indices(
    logits: Tensor,
    k: int,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    """The same samples as ascending indices, int64 [num_samples, ..., k]; -1 in invalid rows."""
    shape = (num_samples, *logits.shape[:-1], k)
    result = torch.empty(shape, dtype=torch.int64, device=logits.device)
    if result.numel() > 0:
        rows = as_rows(logits, k, None)
        if k > rows.n:
            raise ValueError(f"k must be at most the number of items {rows.n}, got {k}")
        _select(rows, num_samples, quantiles, temperature, seed, indices=result)
    return result
