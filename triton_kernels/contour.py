# SPDX-License-Identifier: Apache-2.0
"""method="contour": marginals, log-partition and their VJP; one launch where a row fits a tile."""

from __future__ import annotations

import torch
from torch import Tensor

from . import split
from .blocks import contour_tile, fits_tile, nodes_room
from .contour_kernels import contour_forward_kernel, contour_vjp_kernel
from .launch import launch
from .rows import STATE_WIDTH, Rows, cdiv

__all__ = ["forward", "vjp"]


def forward(
    rows: Rows, marginals: Tensor | None, log_partition: Tensor | None, state: Tensor
) -> None:
    """Fills marginals [rows, n], log-partition [rows] and state [rows, width] (n > 0)."""
    if not fits_tile(rows.n, rows.dtype):
        split.forward(rows, marginals, log_partition, state)
        return
    tile = contour_tile(rows.n, rows.dtype)
    launch(
        contour_forward_kernel,
        cdiv(rows.count, tile.rows),
        rows.logits,
        rows.row_k,
        marginals,
        log_partition,
        state,
        rows.k,
        rows.n,
        rows.count,
        num_warps=tile.num_warps,
        R=tile.rows,
        N=tile.items,
        NODES=nodes_room(rows.dtype),
        WIDTH=STATE_WIDTH[rows.dtype],
        DTYPE=rows.tl_dtype,
    )


def vjp(
    rows: Rows,
    state: Tensor | None,
    grad_marginals: Tensor | None,
    grad_log_partition: Tensor | None,
) -> Tensor:
    """Cov g + c mu, [rows, n] in the dtype of the logits; without a state the rows are solved."""
    width = STATE_WIDTH[rows.dtype]
    grad_logits = torch.empty_like(rows.logits)
    if not fits_tile(rows.n, rows.dtype):
        if state is None:
            state = torch.empty(rows.count, width, dtype=rows.dtype, device=rows.logits.device)
            split.forward(rows, None, None, state)
        split.vjp(rows, state, grad_marginals, grad_log_partition, grad_logits)
        return grad_logits
    tile = contour_tile(rows.n, rows.dtype)
    launch(
        contour_vjp_kernel,
        cdiv(rows.count, tile.rows),
        rows.logits,
        rows.row_k if state is None else None,
        state,
        grad_marginals,
        grad_log_partition,
        grad_logits,
        rows.k,
        rows.n,
        rows.count,
        num_warps=tile.num_warps,
        R=tile.rows,
        N=tile.items,
        NODES=nodes_room(rows.dtype),
        WIDTH=width,
        DTYPE=rows.tl_dtype,
    )
    return grad_logits
