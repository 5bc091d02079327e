# SPDX-License-Identifier: Apache-2.0
"""Values that carry a gradient which is not their own: how estimators enter autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor], Tensor]


def finite(logits: Tensor) -> Tensor:
    """``logits`` with 0, without a gradient, at forced and excluded items (inf - inf is NaN)."""
    return torch.where(logits.isinf(), 0.0, logits)


def straight_through(value: Tensor, smooth: Tensor) -> Tensor:
    """``value`` itself, with the gradient of ``smooth`` (finite, of a shape that broadcasts)."""
    return value + (smooth - smooth.detach()).to(value.dtype)


def with_gradient(theta: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """``value`` itself; of the gradient g in it, ``theta`` gets rule(theta, g)."""
    carried: Tensor = _WithGradient.apply(  # type: ignore[no-untyped-call]
        theta, value.detach(), rule
    )
    return carried


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(theta: Tensor, value: Tensor, rule: Rule) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Rule], output: Tensor) -> None:
        theta, _, ctx.rule = inputs
        ctx.save_for_backward(theta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (theta,) = ctx.saved_tensors
        return ctx.rule(theta, grads[0]).to(theta.dtype), None, None
