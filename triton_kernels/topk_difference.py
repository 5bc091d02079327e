# SPDX-License-Identifier: Apache-2.0
"""The I-MLE gradient: the mean difference of two perturbed selections of the same noise.

In rows that one program holds it goes over all samples one after another: with few rows and many
samples the device is not full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import selection_tile
from .launch import launch
from .long_topk import Sides, selections_each, settle
from .long_topk_write_kernels import long_difference_kernel
from .noise import check_quantiles
from .rows import Rows, as_rows, cdiv, check_seed
from .topk_difference_kernels import topk_difference_kernel

__all__ = ["perturbed_topk_difference"]


def _long_difference(
    rows: Rows,
    samples: int,
    quantiles: Tensor | None,
    seed: Tensor,
    sides: Sides,
    difference: Tensor,
    nonzeros: Tensor,
) -> None:
    each = max(1, selections_each(rows) // (samples * sides.count))
    for first in range(0, rows.count, each):
        width = min(each, rows.count - first)
        settled, split = settle(rows, quantiles, seed, sides, first, width, samples)
        launch(
            long_difference_kernel,
            width * split.parts,
            rows.logits,
            sides.grad,
            quantiles,
            sides.step,
            seed,
            settled,
            difference,
            nonzeros,
            rows.n,
            first,
            width,
            rows.count,
            samples,
            split.parts,
            split.span,
            *sides.strides,
            *sides.scalars,
            num_warps=split.num_warps,
            fp_fusion=False,
            SYMMETRIC=sides.symmetric,
            B=split.block,
            DTYPE=rows.tl_dtype,
        )


def perturbed_topk_difference(
    logits: Tensor,
    grad: Tensor,
    k: int,
    row_k: Tensor | None,
    quantiles: Tensor | None,
    step: Tensor,
    left_alpha: float,
    left_temperature: float,
    right_alpha: float,
    right_temperature: float,
    symmetric: bool,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """(difference [..., n] in the dtype of the arithmetic, nonzeros [...] int64)."""
    if grad.shape[1:] != logits.shape:
        raise ValueError(
            f"grad must be [samples, *{list(logits.shape)}] as the logits, got {list(grad.shape)}"
        )
    check_seed(seed)
    rows = as_rows(logits, k, row_k)
    quantiles = check_quantiles(quantiles, rows.dtype)
    samples = grad.shape[0]
    difference = torch.zeros(logits.shape, dtype=rows.dtype, device=logits.device)
    nonzeros = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    if samples == 0 or difference.numel() == 0:
        return difference, nonzeros
    sides = Sides(
        left_alpha,
        left_temperature,
        right_alpha,
        right_temperature,
        grad.reshape(samples, rows.count, rows.n),
        step.to(rows.dtype).expand(logits.shape[:-1]).reshape(rows.count),
        symmetric,
    )
    tile = selection_tile(rows.n, rows.dtype, two_sides=True)
    if tile is None:
        _long_difference(rows, samples, quantiles, seed, sides, difference, nonzeros)
        return difference, nonzeros
    launch(
        topk_difference_kernel,
        cdiv(rows.count, tile.rows),
        rows.logits,
        sides.grad,
        rows.row_k,
        quantiles,
        sides.step,
        seed,
        difference,
        nonzeros,
        rows.k,
        rows.n,
        rows.count,
        samples,
        *sides.strides,
        *sides.scalars,
        num_warps=tile.num_warps,
        max_registers=255,
        fp_fusion=False,
        SYMMETRIC=symmetric,
        R=tile.rows,
        N=tile.items,
        DTYPE=rows.tl_dtype,
    )
    return difference, nonzeros
