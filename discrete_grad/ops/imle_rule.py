# SPDX-License-Identifier: Apache-2.0
"""The gradients of I-MLE and AIMLE for the k largest, whoever takes the difference of selections.

Source: Niepert, Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, section 3; Minervini,
Franceschi, Niepert, "Adaptive Perturbation-Based Gradient Estimation for Discrete Latent Variable
Models", AAAI 2023, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor

from discrete_grad.ops import step_size
from discrete_grad.ops.routing import compute_dtype
from discrete_grad.ops.step_size import Rule, State


class FixedStep(NamedTuple):
    """I-MLE: what the schema of imle_topk has between ``quantiles`` and ``seed``."""

    temperature: float
    target_temperature: float
    alpha: float
    beta: float
    scaled: bool
    eps: float
    symmetric: bool


class AdaptiveStep(NamedTuple):
    """AIMLE: what the schema of aimle_topk has besides the problem and ``seed``."""

    temperature: float
    target_temperature: float
    alpha: float
    symmetric: bool
    state: State
    rule: Rule
    adapt: bool
    per_example: bool
    published_scale: bool
    group: str


# (grad, step, left_alpha, left_temperature, right_alpha, right_temperature, symmetric) to the mean
# difference of the two selections and its counts: ``topk_difference`` of the forward pass's noise.
Difference: TypeAlias = Callable[..., tuple[Tensor, Tensor]]


def topk_gradient(
    logits: Tensor, grad: Tensor, settings: FixedStep | AdaptiveStep, difference: Difference
) -> Tensor:
    """dL/dtheta from g = ``grad`` [num_samples, ..., n], in the dtype of the logits."""
    formula = _fixed_gradient if isinstance(settings, FixedStep) else _adaptive_gradient
    return formula(logits, grad, settings, difference).to(logits.dtype)  # type: ignore[arg-type]


def _fixed_gradient(
    logits: Tensor, grad: Tensor, settings: FixedStep, difference: Difference
) -> Tensor:
    moved = (settings.alpha, settings.target_temperature)
    # The left side of the forward difference is the forward sample itself.
    left = moved if settings.symmetric else (1.0, settings.temperature)
    step = torch.full([], settings.beta, dtype=compute_dtype(logits.dtype), device=logits.device)
    mean, _ = difference(grad, step, *left, *moved, settings.symmetric)
    return mean / max(settings.beta, settings.eps) if settings.scaled else mean


def _adaptive_gradient(
    logits: Tensor, grad: Tensor, settings: AdaptiveStep, difference: Difference
) -> Tensor:
    theta_norm, grad_norm = step_size.norms(logits, grad, settings.per_example, settings.group)
    step = step_size.step_length(
        settings.state.beta, theta_norm, grad_norm, compute_dtype(logits.dtype)
    )
    moved = (settings.alpha, settings.target_temperature)
    mean, nonzeros = difference(grad, step, *moved, *moved, settings.symmetric)
    if settings.adapt:
        # Not .numel(): of symbolic sizes it makes a number, and every batch compiles again.
        gradients = grad.shape[0] * math.prod(logits.shape[:-1])
        step_size.adapt_(
            settings.state,
            settings.rule,
            nonzeros,
            gradients,
            grad_norm.isfinite(),
            settings.group,
        )
    length = step_size.divisor(step, grad.shape[0], settings.published_scale)
    return mean / (length.unsqueeze(-1) if settings.per_example else length)


def refuse_second_derivative() -> NoReturn:
    """Raises NotImplementedError: zeros would be taken for an answer."""
    raise NotImplementedError(
        "the gradient of I-MLE and AIMLE is piecewise constant: it has no second derivative"
    )
