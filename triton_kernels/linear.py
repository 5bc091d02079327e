# SPDX-License-Identifier: Apache-2.0
"""method="linear": the tilted recursion in linear space, in registers where a row is short."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import linear_tile
from .launch import launch
from .linear_kernels import linear_kernel, linear_vjp_kernel
from .recursion import marginals_by_tree, most_counted, vjp_by_tree
from .rows import Rows, as_rows, cdiv

__all__ = ["marginals", "vjp"]


def _launch_tiles(kernel: object, rows: Rows, *args: Tensor | None, tangents: bool) -> bool:
    """Serves the rows from registers; False where they are too long for that."""
    most = max(1, most_counted(rows))
    same = rows.row_k is None
    tile = linear_tile(rows.n, most, rows.dtype, same_count=same, tangents=tangents)
    if tile is None:
        return False
    launch(
        kernel,
        cdiv(rows.count, tile.rows),
        rows.logits,
        rows.row_k,
        *args,
        rows.count,
        num_warps=tile.num_warps,
        max_registers=255,
        n=rows.n,
        K=rows.k if same else 0,
        R=tile.rows,
        N=tile.items,
        LEVELS=tile.items.bit_length() - 1,
        LOWEST=most if same else 0,
        MOST=most,
        DTYPE=rows.tl_dtype,
    )
    return True


def marginals(logits: Tensor, k: int, row_k: Tensor | None) -> tuple[Tensor, Tensor]:
    """method="linear" of the op ``subset_marginals``, for n > 0.

    Args:
        logits: [..., n].
        k: of every row, unless ``row_k`` is given.
        row_k: int64, [...], or None.

    Returns:
        Marginals [..., n] and log-partition [...], in the dtype of ``logits``.
    """
    rows = as_rows(logits, k, row_k)
    mu = torch.empty_like(rows.logits)
    log_partition = rows.logits.new_empty(rows.count)
    if not _launch_tiles(linear_kernel, rows, mu, log_partition, tangents=False):
        mu, log_partition = marginals_by_tree(rows, log=False)
    return mu.view(logits.shape), log_partition.view(logits.shape[:-1])


def vjp(
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    grad_marginals: Tensor | None,
    grad_log_partition: Tensor | None,
) -> Tensor:
    """method="linear" of the op ``subset_marginals_vjp``, for n > 0.

    Args:
        logits: [..., n].
        k: of every row, unless ``row_k`` is given.
        row_k: int64, [...], or None.
        grad_marginals: [..., n], or None for 0.
        grad_log_partition: [...], or None for 0.

    Returns:
        [..., n] in the dtype of ``logits``.
    """
    rows = as_rows(logits, k, row_k)
    grad = None if grad_marginals is None else grad_marginals.reshape(rows.logits.shape)
    scale = None if grad_log_partition is None else grad_log_partition.reshape(rows.count)
    grad = None if grad is None else grad.contiguous()
    scale = None if scale is None else scale.contiguous()
    grad_logits = torch.empty_like(rows.logits)
    if not _launch_tiles(linear_vjp_kernel, rows, grad, scale, grad_logits, tangents=True):
        grad_logits = vjp_by_tree(rows, grad, scale)
    return grad_logits.view(logits.shape)
