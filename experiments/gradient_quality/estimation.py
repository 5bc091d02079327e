# SPDX-License-Identifier: Apache-2.0
"""Estimates of a gradient by the library's estimators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad.estimators import Estimator
from experiments.gradient_quality.problems import Loss


def estimate(
    estimator: Estimator,
    logits: Tensor,
    k: int,
    loss: Loss,
    samples: int,
    generator: torch.Generator,
    *,
    log_sigmoid: bool = False,
) -> Tensor:
    """One estimate of the gradient for each row of ``logits`` [..., n].

    Args:
        estimator: one from ``dg.estimators``.
        logits: the parameters; rows are estimated independently.
        k: size of the subsets.
        loss: of the draws.
        samples: S, from which each estimate is made.
        generator: source of the randomness.
        log_sigmoid: give the estimator log sigmoid(logits), as the published relaxed top-k does.
    """
    leaf = logits.detach().clone().requires_grad_()
    scores = torch.nn.functional.logsigmoid(leaf) if log_sigmoid else leaf
    estimator(scores, k, loss, samples, generator=generator).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def adapted(
    name: str,
    logits: Tensor,
    k: int,
    loss: Loss,
    samples: int,
    passes: int,
    generator: torch.Generator,
    *,
    noise: str,
    **rule: Any,
) -> Estimator:
    """ "aimle" or "aimle_central" after ``passes`` backward passes at ``logits`` [n], then frozen.

    Its step is that of one row whatever the number of rows that are estimated later: lambda is per
    row, and so is the count of non-zero entries that adapts beta.

    Args:
        rule: of the ``dg.AdaptiveTargetDistribution``.
    """
    target = dg.AdaptiveTargetDistribution(per_example=True, **rule)
    estimator = configured(name, target=target, noise=noise)
    for _ in range(passes):
        estimate(estimator, logits[None], k, loss, samples, generator)
    target.eval()
    return estimator


def configured(name: str, **options: Any) -> Estimator:
    """The estimator of this name with options of its own; "imle_central" is "imle" centrally."""
    if name == "imle_central":
        name, options = "imle", {**options, "symmetric": True}
    estimator = dg.estimators.get(name)
    return Estimator(name, estimator.summary, estimator.function, {**estimator.options, **options})
