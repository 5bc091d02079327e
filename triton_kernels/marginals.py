# SPDX-License-Identifier: Apache-2.0
"""The differentiable ops: marginals and log-partition, their VJP, and its derivative."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import contour, linear, recursion
from .blocks import nodes_room, third_cumulant_block
from .launch import launch
from .rows import STATE_WIDTH, as_rows, compute_dtype
from .third_cumulant_kernels import SUMS, third_cumulant_kernel

__all__ = ["subset_marginals", "subset_marginals_vjp", "subset_third_cumulant"]

_METHODS = ("contour", "linear", "recursion")


def _check_method(method: str) -> None:
    if method not in _METHODS:
        raise ValueError(f"method must be 'contour', 'linear' or 'recursion', got {method!r}")


def subset_marginals(
    logits: Tensor, k: int, row_k: Tensor | None, method: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Marginals [..., n] and log-partition [...] in the dtype of the logits, and the state."""
    _check_method(method)
    batch = logits.shape[:-1]
    compute = compute_dtype(logits.dtype)
    width = STATE_WIDTH[compute] if method == "contour" else 0
    if logits.shape[-1] == 0:
        return _without_items(logits, k, row_k, width)
    if method == "linear":
        marginals, log_partition = linear.marginals(logits, k, row_k)
    elif method == "recursion":
        marginals, log_partition = recursion.marginals(logits, k, row_k)
    else:
        marginals = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        log_partition = logits.new_empty(batch)
        state = logits.new_empty((*batch, width), dtype=compute)
        contour.forward(as_rows(logits, k, row_k), marginals, log_partition, state)
        return marginals, log_partition, state
    return marginals, log_partition, logits.new_empty((*batch, 0), dtype=compute)


def _without_items(
    logits: Tensor, k: int, row_k: Tensor | None, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows without items: the empty subset is certain, and nothing else is possible."""
    batch = logits.shape[:-1]
    if row_k is None:
        log_partition = logits.new_full(batch, 0.0 if k == 0 else math.nan)
    else:
        log_partition = logits.new_zeros(batch).masked_fill_(row_k != 0, math.nan)
    state = logits.new_zeros((*batch, width), dtype=compute_dtype(logits.dtype))
    return logits.new_empty(logits.shape), log_partition, state


def subset_marginals_vjp(
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    method: str,
    state: Tensor | None,
    grad_marginals: Tensor | None,
    grad_log_partition: Tensor | None,
) -> Tensor:
    """Cov g + c mu, [..., n] in the dtype of the logits.

    The VJP of "recursion" is that of the contour, which has its absolute accuracy.
    """
    _check_method(method)
    if logits.numel() == 0:
        return torch.empty_like(logits)
    if method == "linear":
        return linear.vjp(logits, k, row_k, grad_marginals, grad_log_partition)
    gradient = contour.vjp(
        as_rows(logits, k, row_k),
        state.contiguous() if state is not None and method == "contour" else None,
        None if grad_marginals is None else grad_marginals.contiguous(),
        None if grad_log_partition is None else grad_log_partition.contiguous(),
    )
    return gradient.view(logits.shape)


def subset_third_cumulant(
    logits: Tensor, k: int, row_k: Tensor | None, a: Tensor, b: Tensor
) -> Tensor:
    """sum_jl kappa_ijl a_j b_l, [..., n] in the dtype of the logits; computed in float64."""
    if logits.numel() == 0:
        return torch.empty_like(logits)
    rows = as_rows(logits, k, row_k)._replace(dtype=torch.float64)
    width = STATE_WIDTH[torch.float64]
    nodes = nodes_room(torch.float64)
    state = torch.empty(rows.count, width, dtype=torch.float64, device=logits.device)
    contour.forward(rows, None, None, state)
    sums = torch.empty(rows.count, nodes, SUMS.value, dtype=torch.float64, device=logits.device)
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    block = third_cumulant_block(rows.n)
    launch(
        third_cumulant_kernel,
        rows.count,
        rows.logits,
        state,
        a.contiguous(),
        b.contiguous(),
        sums,
        out,
        rows.n,
        num_warps=4,
        BLOCK=block,
        NODES=nodes,
        WIDTH=width,
    )
    return out
