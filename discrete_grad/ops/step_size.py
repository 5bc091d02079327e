# SPDX-License-Identifier: Apache-2.0
"""AIMLE's adaptive step size, as functions of tensors that never leave their device.

The step is lambda = beta ||theta|| / ||g||, over the logits repeated for every sample and the
gradients g of all samples. beta follows the sparsity of the gradient: with d the number of non-zero
entries of z_L - z_R per example and sample, and ema <- decay ema + (1 - decay) d, it grows by
``update_step`` where ema < target_norm and shrinks by it elsewhere, with momentum, never under 0.

Norms, counts and state are float64: squares of float32 gradients neither overflow nor vanish, so a
power of two in front of the loss (mixed precision) changes no bit of lambda g and of the state.

Source: Minervini, Franceschi, Niepert, "Adaptive perturbation-based gradient estimation for
discrete latent variable models", AAAI 2023, arXiv:2209.04862, section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rule(NamedTuple):
    """The constants of the adaptive rule."""

    update_step: float
    momentum: float
    decay: float
    target_norm: float


class State(NamedTuple):
    """The adaptive state: float64 tensors of one element [], changed in place by ``adapt_``."""

    beta: Tensor
    grad_norm: Tensor  # the moving average (ema) of non-zero entries, which "norm" means here
    previous_update: Tensor


def _sum_over_ranks(values: Tensor, group: str) -> Tensor:
    """The sum of ``values`` over the process group of that name; "" is this process alone."""
    if not group:
        return values
    # The functional collective: torch.compile traces it, and it waits on the device, not the host.
    pending = torch.ops._c10d_functional.all_reduce(values, "sum", group)
    total: Tensor = torch.ops._c10d_functional.wait_tensor(pending)
    return total


def norms(logits: Tensor, grad: Tensor, per_example: bool, group: str) -> tuple[Tensor, Tensor]:
    """(||theta||, ||g||) over the samples and the examples; of each example if ``per_example``.

    Infinite and NaN logits, whose items or rows have no choice, count as 0.

    Args:
        logits: [..., n].
        grad: [num_samples, ..., n].
        per_example: norms [...] of each example instead of [] of all.
        group: name of the process group whose ranks hold the other examples, or "".

    Returns:
        float64; that of the logits is over num_samples copies of them. A g with an entry that is
        not finite has a norm that is not finite.
    """
    theta = torch.where(logits.isfinite(), logits, 0)
    # Row by row first: a reduction over the first and the last dimension at once is slow.
    theta_norm = torch.linalg.vector_norm(theta, dim=-1, dtype=torch.float64)
    rows_norm = torch.linalg.vector_norm(grad, dim=-1, dtype=torch.float64)
    grad_norm = torch.linalg.vector_norm(rows_norm, dim=0)
    if not per_example:
        theta_norm, grad_norm = map(torch.linalg.vector_norm, (theta_norm, grad_norm))
    theta_norm = theta_norm * float(grad.shape[0]) ** 0.5
    if group and not per_example:
        squares = _sum_over_ranks(torch.stack([theta_norm, grad_norm]).square(), group)
        theta_norm, grad_norm = squares.sqrt().unbind()
    return theta_norm, grad_norm


def step_length(beta: Tensor, theta_norm: Tensor, grad_norm: Tensor, dtype: torch.dtype) -> Tensor:
    """lambda = beta ||theta|| / ||g|| in ``dtype``; 0 where ||g|| is 0 or not finite.

    With lambda = 0 the product lambda g is NaN where g is not finite, and there alone.
    """
    step = torch.where(grad_norm > 0, beta * theta_norm / grad_norm, 0.0)
    # Of gradients near the smallest number, lambda may exceed the largest one.
    return step.clamp(max=torch.finfo(dtype).max).to(dtype)


def divisor(step: Tensor, num_samples: int, published_scale: bool) -> Tensor:
    """What the difference is divided by: the lambda it was taken with, 1 where that is 0.

    ``published_scale``: lambda with the norm of the logits not repeated for the samples, as
    published code has it; the gradient is then sqrt(num_samples) times as long.
    """
    length = step / float(max(num_samples, 1)) ** 0.5 if published_scale else step
    return torch.where(length == 0, 1.0, length)


def adapt_(
    state: State, rule: Rule, nonzeros: Tensor, gradients: int, finite: Tensor, group: str
) -> None:
    """One step of the rule, in place on ``state``.

    Args:
        nonzeros: non-zero entries of z_L - z_R, of any shape; their sum counts.
        gradients: how many examples times samples they come from.
        finite: bool; where any entry is False on any rank the state is left as it was, so that a
            step which mixed precision will skip does not count.
        group: name of the process group over which counts are summed, or "".
    """
    count = nonzeros.sum(dtype=torch.float64)
    unusable = (~finite).sum(dtype=torch.float64)
    totals = torch.stack([count, unusable, torch.full_like(count, gradients)])
    count, unusable, total = _sum_over_ranks(totals, group).unbind()
    ema = rule.decay * state.grad_norm + (1 - rule.decay) * (count / total)
    direction = torch.where(ema < rule.target_norm, 1.0, -1.0).to(ema.dtype)
    update = rule.momentum * state.previous_update + rule.update_step * direction
    beta = (state.beta + update).clamp(min=0)
    counts = (unusable == 0) & (total > 0)
    state.beta.copy_(torch.where(counts, beta, state.beta))
    state.grad_norm.copy_(torch.where(counts, ema, state.grad_norm))
    state.previous_update.copy_(torch.where(counts, update, state.previous_update))
