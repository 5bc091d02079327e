# SPDX-License-Identifier: Apache-2.0
"""The contour of rows too long for one program: a fixed sequence of launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blocks import Split, nodes_room, split_row
from .launch import launch
from .rows import STATE_WIDTH, Rows
from .split_kernels import (
    split_marginals_kernel,
    split_products_kernel,
    split_weights_kernel,
)
from .split_tilt_kernels import (
    INFO,
    split_finish_tilt_kernel,
    split_start_kernel,
    split_summary_kernel,
    split_sums_kernel,
    split_tilt_step_kernel,
)
from .split_vjp_kernels import (
    split_dots_kernel,
    split_gradient_kernel,
    split_means_kernel,
    split_vjp_weights_kernel,
)

__all__ = ["forward", "vjp"]

# Steps of the tilt that all parts of a row take together; rows of normal logits need two or three.
# The few that need more are finished by a program each. A step of a row that is over costs a launch
# and nothing else.
_STEPS = 6


def _scratch(rows: Rows, *shape: int) -> Tensor:
    return torch.empty(rows.count, *shape, dtype=torch.float64, device=rows.logits.device)


def _by_part(kernel: Any, rows: Rows, split: Split, *args: Tensor | None, **constants: Any) -> None:
    """Starts a program for each part of each row."""
    launch(
        kernel,
        rows.count * split.parts,
        rows.logits,
        *args,
        rows.n,
        split.span,
        num_warps=split.num_warps,
        max_registers=255,
        P=split.parts,
        BLOCK=split.block,
        DTYPE=rows.tl_dtype,
        **constants,
    )


def _by_row(kernel: Any, rows: Rows, split: Split, *args: Any, **constants: Any) -> None:
    """Starts a program for each row, which puts its parts together."""
    launch(kernel, rows.count, *args, num_warps=4, P=split.parts, DTYPE=rows.tl_dtype, **constants)


def _solve_tilts(rows: Rows, split: Split) -> Tensor:
    """The records ``info`` of all rows, with their tilts found."""
    info = _scratch(rows, INFO.value)
    partial = _scratch(rows, split.parts, 8)
    _by_part(split_summary_kernel, rows, split, partial)
    _by_row(split_start_kernel, rows, split, rows.row_k, partial, info, rows.k)
    for _ in range(_STEPS):
        _by_part(split_sums_kernel, rows, split, info, partial)
        _by_row(split_tilt_step_kernel, rows, split, info, partial)
    launch(
        split_finish_tilt_kernel,
        rows.count,
        rows.logits,
        info,
        rows.n,
        num_warps=split.num_warps,
        max_registers=255,
        BLOCK=split.block,
        DTYPE=rows.tl_dtype,
    )
    return info


def forward(
    rows: Rows, marginals: Tensor | None, log_partition: Tensor | None, state: Tensor
) -> None:
    """As ``contour.forward``."""
    split = split_row(rows.n, rows.count, rows.dtype)
    nodes = nodes_room(rows.dtype)
    width = STATE_WIDTH[rows.dtype]
    info = _solve_tilts(rows, split)
    partial = _scratch(rows, split.parts, 2 * nodes + 2)
    _by_part(split_products_kernel, rows, split, info, partial, NODES=nodes)
    _by_row(
        split_weights_kernel,
        rows,
        split,
        info,
        partial,
        log_partition,
        state,
        NODES=nodes,
        WIDTH=width,
    )
    if marginals is not None:
        _by_part(split_marginals_kernel, rows, split, state, marginals, NODES=nodes, WIDTH=width)


def vjp(
    rows: Rows,
    state: Tensor,
    grad_marginals: Tensor | None,
    grad_log_partition: Tensor | None,
    grad_logits: Tensor,
) -> None:
    """Fills ``grad_logits`` [rows, n] from a state."""
    split = split_row(rows.n, rows.count, rows.dtype)
    nodes = nodes_room(rows.dtype)
    width = STATE_WIDTH[rows.dtype]
    weights = None
    if grad_marginals is not None:
        means = _scratch(rows, split.parts, 2)
        partial = _scratch(rows, split.parts, 2 * nodes)
        weights = torch.empty(
            rows.count, 2 * nodes + 3, dtype=rows.dtype, device=rows.logits.device
        )
        _by_part(split_means_kernel, rows, split, state, grad_marginals, means, WIDTH=width)
        _by_part(
            split_dots_kernel,
            rows,
            split,
            state,
            grad_marginals,
            means,
            partial,
            NODES=nodes,
            WIDTH=width,
        )
        _by_row(
            split_vjp_weights_kernel,
            rows,
            split,
            state,
            means,
            partial,
            weights,
            NODES=nodes,
            WIDTH=width,
        )
    _by_part(
        split_gradient_kernel,
        rows,
        split,
        state,
        grad_marginals,
        grad_log_partition,
        weights,
        grad_logits,
        NODES=nodes,
        WIDTH=width,
    )
