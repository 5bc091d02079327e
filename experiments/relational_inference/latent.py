# SPDX-License-Identifier: Apache-2.0
"""Logits to spanning trees, by each of the gradient estimators that are compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import discrete_grad as dg
from experiments.relational_inference.data import VERTICES
from experiments.relational_inference.layout import edge_list

ESTIMATORS = ("imle", "aimle", "aimle_central", "straight_through")
Noise = dg.GumbelNoiseDistribution | dg.SumOfGammaNoiseDistribution
NOISES: dict[str, Callable[[torch.device], Noise]] = {
    "gumbel": lambda device: dg.GumbelNoiseDistribution(device=device),
    "sum_of_gamma": lambda device: dg.SumOfGammaNoiseDistribution(10, device=device),
}


class TimedSolver:
    """``dg.solvers.spanning_tree`` on the edges of the complete graph; ``seconds`` adds up."""

    def __init__(self) -> None:
        self._solve = dg.solvers.spanning_tree(
            edge_list(VERTICES), num_vertices=VERTICES, workers=1
        )
        self.seconds = 0.0

    def __call__(self, weights: Tensor) -> Tensor:
        start = time.process_time()
        trees: Tensor = self._solve(weights)
        self.seconds += time.process_time() - start
        return trees


class TreeSampler(torch.nn.Module):
    """Logits [B, E] to trees of perturbed logits [B, E], with an estimator's gradient.

    A module for the state of AIMLE's target.

    Args:
        estimator: one of ``ESTIMATORS``.
        step: I-MLE's lambda, to which the gradient of the loss is multiplied; the difference of the
            two trees is divided by it. None for the others.
        noise: one of ``NOISES``.
        temperature: what the noise is multiplied with.
        adaptation: by how much AIMLE changes its beta in a step; it starts at 0.
        generator: source of the noise.

    Raises:
        ValueError: ``step`` is given where it has no meaning, or is missing.
    """

    def __init__(
        self,
        estimator: str,
        *,
        step: float | None,
        noise: str,
        temperature: float,
        adaptation: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if (step is not None) != (estimator == "imle"):
            raise ValueError(f"step is for imle, and needed there; got {step} for {estimator}")
        self.solver = TimedSolver()
        self.target: dg.AdaptiveTargetDistribution | None = None
        law = NOISES[noise](generator.device)
        common: dict[str, Any] = {
            "noise_distribution": law,
            "theta_noise_temperature": temperature,
            "target_noise_temperature": temperature,
            "generator": generator,
        }
        self._sample: Callable[[Tensor], Tensor]
        if step is not None:
            target = dg.TargetDistribution(beta=step, do_gradient_scaling=True)
            self._sample = dg.imle(self.solver, target, **common)
        elif estimator == "straight_through":
            # The identity without a projection is the straight-through estimator of any solver.
            passed_on = dg.estimators.identity(self.solver, projection=None)
            self._sample = lambda logits: passed_on(
                logits + temperature * law.sample(logits.shape, generator=generator)
            )
        else:
            self.target = dg.AdaptiveTargetDistribution(
                initial_beta=0.0, beta_update_step=adaptation
            )
            central = estimator == "aimle_central"
            self._sample = dg.aimle(
                self.solver, self.target, symmetric_perturbation=central, **common
            )

    def forward(self, logits: Tensor) -> Tensor:
        return self._sample(logits)
