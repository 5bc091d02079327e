# SPDX-License-Identifier: Apache-2.0
"""The contour of rows too long for one program: a fixed sequence of launches."""

from __future__ import annotations

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


def _solve_tilts(rows: Rows, split: Split) -> Tensor:
    """The records ``info`` of all rows, with their tilts found."""
    info = _scratch(rows, INFO.value)
    partial = _scratch(rows, split.parts, 8)
    blocks = {"P": split.parts, "BLOCK": split.block, "DTYPE": rows.tl_dtype}
    per_row = {"P": split.parts, "DTYPE": rows.tl_dtype}
    programs = rows.count * split.parts
    warps = split.num_warps
    launch(
        split_summary_kernel,
        programs,
        rows.logits,
        partial,
        rows.n,
        split.span,
        num_warps=warps,
        max_registers=255,
        **blocks,
    )
    launch(
        split_start_kernel,
        rows.count,
        rows.row_k,
        partial,
        info,
        rows.k,
        num_warps=4,
        **per_row,
    )
    for _ in range(_STEPS):
        launch(
            split_sums_kernel,
            programs,
            rows.logits,
            info,
            partial,
            rows.n,
            split.span,
            num_warps=warps,
            max_registers=255,
            **blocks,
        )
        launch(split_tilt_step_kernel, rows.count, info, partial, num_warps=4, **per_row)
    launch(
        split_finish_tilt_kernel,
        rows.count,
        rows.logits,
        info,
        rows.n,
        num_warps=warps,
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
    programs = rows.count * split.parts
    info = _solve_tilts(rows, split)
    partial = _scratch(rows, split.parts, 2 * nodes + 2)
    launch(
        split_products_kernel,
        programs,
        rows.logits,
        info,
        partial,
        rows.n,
        split.span,
        num_warps=split.num_warps,
        max_registers=255,
        P=split.parts,
        BLOCK=split.block,
        NODES=nodes,
        DTYPE=rows.tl_dtype,
    )
    launch(
        split_weights_kernel,
        rows.count,
        info,
        partial,
        log_partition,
        state,
        num_warps=4,
        P=split.parts,
        NODES=nodes,
        WIDTH=width,
        DTYPE=rows.tl_dtype,
    )
    if marginals is not None:
        launch(
            split_marginals_kernel,
            programs,
            rows.logits,
            state,
            marginals,
            rows.n,
            split.span,
            num_warps=split.num_warps,
            max_registers=255,
            P=split.parts,
            BLOCK=split.block,
            NODES=nodes,
            WIDTH=width,
            DTYPE=rows.tl_dtype,
        )


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
    programs = rows.count * split.parts
    blocks = {"P": split.parts, "BLOCK": split.block, "WIDTH": width, "DTYPE": rows.tl_dtype}
    weights = None
    if grad_marginals is not None:
        means = _scratch(rows, split.parts, 2)
        partial = _scratch(rows, split.parts, 2 * nodes)
        weights = torch.empty(
            rows.count, 2 * nodes + 3, dtype=rows.dtype, device=rows.logits.device
        )
        launch(
            split_means_kernel,
            programs,
            rows.logits,
            state,
            grad_marginals,
            means,
            rows.n,
            split.span,
            num_warps=split.num_warps,
            max_registers=255,
            **blocks,
        )
        launch(
            split_dots_kernel,
            programs,
            rows.logits,
            state,
            grad_marginals,
            means,
            partial,
            rows.n,
            split.span,
            num_warps=split.num_warps,
            max_registers=255,
            NODES=nodes,
            **blocks,
        )
        launch(
            split_vjp_weights_kernel,
            rows.count,
            state,
            means,
            partial,
            weights,
            num_warps=4,
            P=split.parts,
            NODES=nodes,
            WIDTH=width,
            DTYPE=rows.tl_dtype,
        )
    launch(
        split_gradient_kernel,
        programs,
        rows.logits,
        state,
        grad_marginals,
        grad_log_partition,
        weights,
        grad_logits,
        rows.n,
        split.span,
        num_warps=split.num_warps,
        max_registers=255,
        NODES=nodes,
        **blocks,
    )
