# SPDX-License-Identifier: Apache-2.0
"""Exact samples of k-subsets: by the tree for rows of at most 64 items, else by halving."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blocks import compact_tile, halving_tile, samples_each, tree_sampling_tile
from .halving_kernels import (
    RECORD_WIDTH,
    halving_finish_kernel,
    halving_prepare_kernel,
    halving_sample_kernel,
)
from .launch import launch
from .rows import as_rows, cdiv, check_seed
from .sampling_kernels import compact_kernel
from .tree_sampling_kernels import tree_sample_kernel

__all__ = ["simple", "subset_sample", "subset_sample_indices"]

TREE_ITEMS = 64  # a part of the canonical algorithm: docs/mathematics.md


def _draw(
    logits: Tensor, k: int, row_k: Tensor | None, num_samples: int, seed: Tensor, out: Tensor
) -> None:
    """Fills out [num_samples, ..., n]; an invalid row with NaN, or 2 where ``out`` has bytes."""
    check_seed(seed)
    rows = as_rows(logits, k, row_k)
    if rows.n <= TREE_ITEMS:
        tile = tree_sampling_tile(rows.n)
        groups = cdiv(rows.count, tile.rows)
        each = samples_each(num_samples, groups)
        launch(
            tree_sample_kernel,
            groups * cdiv(num_samples, each),
            rows.logits,
            rows.row_k,
            seed,
            out,
            rows.k,
            rows.n,
            rows.count,
            num_samples,
            each,
            num_warps=tile.num_warps,
            R=tile.rows,
            LEVELS=tile.items.bit_length() - 1,
            DTYPE=rows.tl_dtype,
        )
        return
    tile = halving_tile(rows.n, rows.dtype)
    records = torch.empty(rows.count, RECORD_WIDTH, dtype=torch.float64, device=logits.device)
    constants: dict[str, Any] = {
        "H": tile.items // 2,
        "WIDTH": RECORD_WIDTH,
        "DTYPE": rows.tl_dtype,
    }
    launch(
        halving_prepare_kernel,
        rows.count,
        rows.logits,
        rows.row_k,
        records,
        rows.k,
        rows.n,
        num_warps=tile.num_warps,
        **constants,
    )
    draws = num_samples * rows.count
    rests = torch.empty(draws, 4, dtype=torch.int32, device=logits.device)
    launch(
        halving_sample_kernel,
        draws,
        rows.logits,
        records,
        rests,
        seed,
        out,
        rows.n,
        rows.count,
        num_warps=tile.num_warps,
        max_registers=255,
        **constants,
    )
    tile = tree_sampling_tile(TREE_ITEMS)
    launch(
        halving_finish_kernel,
        cdiv(draws, tile.rows),
        rows.logits,
        rests,
        seed,
        out,
        rows.n,
        rows.count,
        draws,
        num_warps=tile.num_warps,
        R=tile.rows,
        DTYPE=rows.tl_dtype,
    )


def subset_sample(
    logits: Tensor, k: int, row_k: Tensor | None, num_samples: int, seed: Tensor
) -> Tensor:
    """Exact samples as k-hot vectors, [num_samples, ..., n] in the dtype of the logits."""
    result = logits.new_empty(num_samples, *logits.shape)
    if result.numel() > 0:
        _draw(logits, k, row_k, num_samples, seed, result)
    return result


def simple(
    logits: Tensor, k: int, row_k: Tensor | None, num_samples: int, method: str, seed: Tensor
) -> Tensor:
    """Its forward pass is the sampler; ``method`` is that of the gradient, which is elsewhere."""
    return subset_sample(logits, k, row_k, num_samples, seed)


def subset_sample_indices(logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Tensor:
    """The same samples as ascending indices, int64 [num_samples, ..., k]; -1 in invalid rows."""
    n = logits.shape[-1]
    shape = (num_samples, *logits.shape[:-1], k)
    result = torch.empty(shape, dtype=torch.int64, device=logits.device)
    if result.numel() == 0:
        return result
    if k > n:
        raise ValueError(f"k must be at most the number of items {n}, got {k}")
    chosen = torch.empty(num_samples, *logits.shape, dtype=torch.uint8, device=logits.device)
    _draw(logits, k, None, num_samples, seed, chosen)
    draws = result.numel() // k
    tile = compact_tile(n)
    launch(
        compact_kernel,
        cdiv(draws, tile.rows),
        chosen,
        result,
        n,
        k,
        draws,
        num_warps=tile.num_warps,
        R=tile.rows,
        N=tile.items,
    )
    return result
