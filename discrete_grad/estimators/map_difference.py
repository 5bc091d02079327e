# SPDX-License-Identifier: Apache-2.0
"""Perturb-and-MAP through any batched solver, with a difference of two MAP states as gradient.

B examples have T = nb_samples * nb_marginal_samples samples each; rows are [B * T, ...], the sample
index running fastest. 16-bit theta is perturbed and handed to the solver in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from discrete_grad import checks
from discrete_grad.estimators.targets import AdaptiveTargetDistribution, BaseTargetDistribution
from discrete_grad.likelihood import working
from discrete_grad.noise import BaseNoiseDistribution, FusedNoise
from discrete_grad.ops.imle_rule import refuse_second_derivative
from discrete_grad.ops.routing import compute_dtype
from discrete_grad.rng import seed_for


@dataclass(frozen=True)
class Estimator:
    """Everything about an I-MLE or AIMLE estimator but theta, the noise and the solver."""

    target: BaseTargetDistribution
    nb_samples: int
    nb_marginal_samples: int
    theta_temperature: float
    target_temperature: float
    symmetric: bool
    # The left state is the forward sample (I-MLE), not the MAP state of the unmoved target (AIMLE).
    reuses_sample: bool
    minimises: bool

    @property
    def samples(self) -> int:
        """T."""
        return self.nb_samples * self.nb_marginal_samples


Solver = Callable[[Tensor], Tensor]


def own_noise(law: BaseNoiseDistribution, theta: Tensor, samples: int) -> Tensor:
    """[B, T, ...], as the user's distribution samples it."""
    shape = torch.Size([theta.shape[0], samples, *theta.shape[1:]])
    eps = checks.returned("noise_distribution.sample", law.sample(shape), shape)
    return eps.to(device=theta.device, dtype=compute_dtype(theta.dtype))


def seeded_noise(
    law: FusedNoise, theta: Tensor, samples: int, generator: torch.Generator | None
) -> Tensor:
    """[B, T, ...]: what the fused ops make from the same state of the generator."""
    seed = seed_for(theta, generator)
    return law.draw(torch.Size([samples, *theta.shape]), seed, compute_dtype(theta.dtype)).movedim(
        0, 1
    )


def perturb_and_map(
    theta: Tensor, noise: Tensor | None, solver: Solver, estimator: Estimator
) -> Tensor:
    """z = MAP(theta + temperature * noise), [B * T, ...] in the dtype of theta, with a gradient.

    Args:
        theta: [B, ...].
        noise: [B, T, ...] or None. The same for both MAP states.
        solver: maps [B * T, ...] to MAP states of the same shape; no gradient goes through it.
        estimator: what the gradient is.
    """
    if isinstance(estimator.target, AdaptiveTargetDistribution):
        estimator.target.prepare(theta.device)
    states: Tensor = _PerturbAndMap.apply(theta, noise, solver, estimator)  # type: ignore[no-untyped-call]
    return states


class _PerturbAndMap(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        theta: Tensor, noise: Tensor | None, solver: Solver, estimator: Estimator
    ) -> Tensor:
        # A copy, so that a solver which works in place does not reach theta.
        tiled = working(theta.detach()).repeat_interleave(estimator.samples, 0)
        states = _solve(solver, tiled, noise, estimator.theta_temperature)
        return states.to(theta.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        theta, noise, ctx.solver, ctx.estimator = inputs
        ctx.save_for_backward(theta, noise, output)
        # Both states must come from the solver at the same precision.
        device = theta.device.type
        ctx.autocast = None
        if torch.amp.is_autocast_available(device):
            dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            ctx.autocast = {"device_type": device, "dtype": dtype, "enabled": enabled}

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        theta, noise, states = ctx.saved_tensors
        with nullcontext() if ctx.autocast is None else torch.autocast(**ctx.autocast):
            gradient = _MapDifference.apply(  # type: ignore[no-untyped-call]
                theta, grad, noise, states, ctx.solver, ctx.estimator
            )
        return gradient, None, None, None


class _MapDifference(torch.autograd.Function):
    """The gradient as a function of its own: the solver gets plain tensors under torch.func too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        theta: Tensor,
        grad: Tensor,
        noise: Tensor | None,
        states: Tensor,
        solver: Solver,
        estimator: Estimator,
    ) -> Tensor:
        wide = working(theta.detach()), working(grad.detach())
        return _gradient(*wide, noise, states, solver, estimator).to(theta.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> NoReturn:
        refuse_second_derivative()


def _solve(solver: Solver, theta: Tensor, noise: Tensor | None, temperature: float) -> Tensor:
    if noise is not None:
        theta = theta + temperature * noise.reshape(theta.shape)
    with torch.no_grad():
        return checks.returned("function", solver(theta), theta.shape)


def _gradient(
    theta: Tensor,
    grad: Tensor,
    noise: Tensor | None,
    states: Tensor,
    solver: Solver,
    estimator: Estimator,
) -> Tensor:
    """dL/dtheta [B, ...], from grad = dL/dz [B * T, ...]."""
    examples = theta.shape[0]
    tiled = theta.repeat_interleave(estimator.samples, 0)
    invalid = torch.zeros(examples, dtype=torch.bool, device=theta.device)

    def state(direction: Tensor | None) -> Tensor:
        nonlocal invalid
        target = _target(theta, tiled, direction, estimator)
        # An overflow of dL/dz (mixed precision) is no reason for the solver to raise.
        lost = tiled.isfinite() & ~target.isfinite()
        lost_by_example = lost.reshape(examples, estimator.samples, *theta.shape[1:]).flatten(1)
        invalid = invalid | lost_by_example.any(1)
        target = torch.where(lost, tiled, target)
        return _solve(solver, target, noise, estimator.target_temperature).to(theta.dtype)

    right = state(grad)
    if estimator.symmetric:
        difference = (state(-grad) - right) / 2
    elif estimator.reuses_sample:
        difference = states.to(theta.dtype) - right
    else:
        difference = state(None) - right
    shape = theta.shape[1:]
    difference = difference.reshape(
        examples, estimator.nb_samples, estimator.nb_marginal_samples, *shape
    ).mean(2)
    lost_rows = invalid.reshape(examples, *[1] * (difference.dim() - 1))
    difference = torch.where(lost_rows, torch.nan, difference)
    processed = estimator.target.process(theta, grad, difference)
    checks.returned("target_distribution.process", processed, difference.shape)
    gradient = processed.mean(1)
    return -gradient if estimator.minimises else gradient


def _target(theta: Tensor, tiled: Tensor, direction: Tensor | None, estimator: Estimator) -> Tensor:
    target = estimator.target
    # Which rows are samples of one example shows in theta's number of rows only.
    per_example = isinstance(target, AdaptiveTargetDistribution) and target.per_example
    given = theta if per_example and direction is not None else tiled
    value = target.params(given, direction, _is_minimization=estimator.minimises)
    return checks.returned("target_distribution.params", value, tiled.shape)
