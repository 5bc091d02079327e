# SPDX-License-Identifier: Apache-2.0
"""Sums over the items of a row that stay accurate when the items are many or cancel."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["accurate_sum", "wide_sum"]


def wide_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension in float64."""
    return values.sum(-1, dtype=torch.float64)


def _two_sum_tree(values: Tensor) -> Tensor:
    """Pairwise sum, the rounding error of each addition summed beside it (Knuth's two-sum)."""
    error = torch.zeros_like(values[..., :0].sum(-1))
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = torch.nn.functional.pad(values, (0, 1))
        a, b = values[..., 0::2], values[..., 1::2]
        total = a + b
        b_part = total - a
        error = error + ((a - (total - b_part)) + (b - b_part)).sum(-1)
        values = total
    return values.sum(-1) + error


def accurate_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension, in float64, as if with twice its precision.

    The logits of the best subset may be of size 1e4 and cancel; their sum must not lose what the
    rest of log Z keeps. The correction is a constant to derivatives: that of a sum is all ones.
    """
    total = wide_sum(values)
    exact = _two_sum_tree(values.detach().to(torch.float64))
    return total + (exact - total.detach()).nan_to_num(0.0, 0.0, 0.0)
