# SPDX-License-Identifier: Apache-2.0
"""What the steps of a training were like: how far a perturbation went, and what it changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_grad.estimators.registry import Estimator
from discrete_grad.estimators.targets import AdaptiveTargetDistribution


class StepRecord:
    """Means over the last epoch, of what says whether a step size lambda fits.

    - ``nonzeros``: entries of the gradient with respect to theta that are not 0, per review.
    - ``scale``: ||theta|| / ||dL/dz|| over a batch: AIMLE's lambda is beta times that, and a lambda
      of I-MLE over that is the beta that would have given it.
    - ``beta``, ``lambda``: AIMLE's own.

    One is missing where no step had it (a gradient of 0 has no scale).

    Args:
        epochs, batches: of the training.
    """

    def __init__(self, epochs: int, batches: int) -> None:
        self._first = (epochs - 1) * batches
        self._step = 0
        self._sums: dict[str, tuple[float, int]] = {}

    def of(self, logits: Tensor, estimator: Estimator) -> Callable[[Tensor], None]:
        """Watch the next step. The function returned is to be called with the draws."""
        self._step += 1
        if self._step <= self._first:
            return lambda draws: None
        theta = float(torch.where(logits.isfinite(), logits, 0.0).detach().norm())
        target = estimator.options.get("target")
        beta = float(target.beta) if isinstance(target, AdaptiveTargetDistribution) else None
        logits.register_hook(self._gradient)

        def watch(draws: Tensor) -> None:
            if draws.requires_grad:
                draws.register_hook(lambda grad: self._scale(theta, grad, beta))

        return watch

    def _gradient(self, grad: Tensor) -> None:
        self._add("nonzeros", int((grad != 0).sum()) / grad.shape[0])

    def _scale(self, theta: float, grad: Tensor, beta: float | None) -> None:
        norm = float(grad.norm())
        if norm == 0.0:  # no step along a gradient that is not there
            return
        scale = theta * grad.shape[0] ** 0.5 / norm
        self._add("scale", scale)
        if beta is not None:
            self._add("beta", beta)
            self._add("lambda", beta * scale)

    def _add(self, name: str, value: float) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = total + value, count + 1

    def summary(self) -> dict[str, float]:
        """The means, to five digits."""
        return {name: float(f"{total / count:.5g}") for name, (total, count) in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"step": self._step, "sums": dict(self._sums)}

    def restore(self, state: dict[str, Any]) -> None:
        """Back to ``state``."""
        self._step, self._sums = state["step"], dict(state["sums"])
