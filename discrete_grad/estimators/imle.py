# SPDX-License-Identifier: Apache-2.0
"""Decorators that make any batched MAP solver differentiable by I-MLE or AIMLE."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_grad import checks
from discrete_grad.estimators.imle_topk import fused_topk
from discrete_grad.estimators.map_difference import (
    Estimator,
    own_noise,
    perturb_and_map,
    seeded_noise,
)
from discrete_grad.estimators.targets import (
    AdaptiveTargetDistribution,
    BaseTargetDistribution,
    TargetDistribution,
)
from discrete_grad.noise import BaseNoiseDistribution, FusedNoise
from discrete_grad.solvers import TopK

__all__ = ["aimle", "imle"]


def imle(
    function: Callable[..., Tensor] | None = None,
    target_distribution: BaseTargetDistribution | None = None,
    noise_distribution: BaseNoiseDistribution | None = None,
    nb_samples: int = 1,
    nb_marginal_samples: int = 1,
    theta_noise_temperature: float = 1.0,
    target_noise_temperature: float = 1.0,
    *,
    symmetric_perturbation: bool = False,
    _is_minimization: bool = False,
    generator: torch.Generator | None = None,
) -> Callable[..., Any]:
    """Makes a batched MAP solver differentiable by I-MLE: ``@dg.imle()`` or ``dg.imle(fn)``.

    The solver maps parameters [b, *instance] to MAP states argmax_z <theta, z> of the same shape.
    The decorated one maps theta [B, *instance] to perturb-and-MAP samples
    MAP(theta + theta_noise_temperature * eps), [B * T, *instance] with
    T = nb_samples * nb_marginal_samples (the sample index runs fastest), in the dtype of theta. Its
    gradient, from dy = dL/dz and with the same eps in both MAP states, is

        z - MAP(theta' + target_noise_temperature * eps),    theta' = params(theta, dy),

    averaged over the marginal samples, then given to ``target_distribution.process``, then averaged
    over the samples. No gradient goes through the solver; it is called once in the forward and once
    or twice in the backward pass, on [B * T, *instance].

    With ``dg.solvers.topk(k)`` as the solver, noise of this library, a ``TargetDistribution`` or
    ``AdaptiveTargetDistribution`` itself, one marginal sample, and theta [B, n], the fused ops of
    ``dg.imle_topk`` serve: the same samples and gradients from the same state of the generator, and
    no noise is stored. (Not where a target whose alpha is not 1, or target noise at another
    temperature, makes the decorator's formula another one than the op's.)

    Args:
        function: the solver. Arguments after theta, by position or name, are passed on to it as
            they are, in every call; they get no gradient.
        target_distribution: how theta' is made and the gradient scaled; None is
            ``TargetDistribution(alpha=1.0, beta=1.0)``.
        noise_distribution: noise of this library, or your own ``BaseNoiseDistribution``, which is
            asked for [B, T, *instance]; None is no noise.
        nb_samples: samples S per example, >= 1.
        nb_marginal_samples: samples that are averaged before the gradient is processed, >= 1.
        theta_noise_temperature: what the noise is multiplied with in the forward pass, >= 0.
        target_noise_temperature: the same for theta', >= 0.
        symmetric_perturbation: half the difference of the MAP states at params(theta, -dy) and at
            params(theta, dy) instead.
        _is_minimization: the solver minimises <theta, z>: the step and the gradient change sign.
        generator: source of the randomness, on the device of theta; None is torch's default one.
            A noise distribution of your own does not use it.

    Returns:
        The decorated solver; without ``function``, a decorator. Its attribute
        ``target_distribution`` is the one in use.

    Raises:
        ValueError, TypeError: a bad argument, named in the message; in a call also where the solver
            does not return a tensor of the shape it was given.

    Source:
        Niepert, Minervini, Franceschi, "Implicit MLE: Backpropagating Through Discrete Exponential
        Family Distributions", NeurIPS 2021, arXiv:2106.01798, Algorithm 1.
    """
    if target_distribution is None:
        target_distribution = TargetDistribution()
    estimator = _estimator(
        target_distribution,
        nb_samples,
        nb_marginal_samples,
        theta_noise_temperature,
        target_noise_temperature,
        symmetric_perturbation,
        True,
        _is_minimization,
    )
    return _decorated(function, noise_distribution, estimator, generator)


def aimle(
    function: Callable[..., Tensor] | None = None,
    target_distribution: BaseTargetDistribution | None = None,
    noise_distribution: BaseNoiseDistribution | None = None,
    nb_samples: int = 1,
    nb_marginal_samples: int = 1,
    theta_noise_temperature: float = 1.0,
    target_noise_temperature: float = 1.0,
    symmetric_perturbation: bool = False,
    *,
    _is_minimization: bool = False,
    generator: torch.Generator | None = None,
) -> Callable[..., Any]:
    """Makes a batched MAP solver differentiable by AIMLE: ``dg.imle`` with another difference.

    The gradient, before it is processed and averaged, is

        MAP(left + target_noise_temperature * eps) - MAP(right + target_noise_temperature * eps)

    with right = params(theta, dy) and left = params(theta, None), that is alpha theta; with
    ``symmetric_perturbation`` half of that difference, with left = params(theta, -dy).

    Args:
        target_distribution: None is a new ``AdaptiveTargetDistribution()``. Its state is saved and
            moved with a model if it is a submodule of it (the attribute ``target_distribution`` of
            the decorated solver).
        symmetric_perturbation: take the central difference.

        The other arguments are those of ``dg.imle``.

    Raises:
        ValueError, TypeError: as ``dg.imle``.
        RuntimeError: under a transform of torch.func with an adaptive target in training mode.

    Source:
        Minervini, Franceschi, Niepert, "Adaptive Perturbation-Based Gradient Estimation for
        Discrete Latent Variable Models", AAAI 2023, arXiv:2209.04862, section 4.
    """
    if target_distribution is None:
        target_distribution = AdaptiveTargetDistribution()
    estimator = _estimator(
        target_distribution,
        nb_samples,
        nb_marginal_samples,
        theta_noise_temperature,
        target_noise_temperature,
        symmetric_perturbation,
        False,
        _is_minimization,
    )
    return _decorated(function, noise_distribution, estimator, generator)


def _estimator(
    target_distribution: BaseTargetDistribution,
    nb_samples: int,
    nb_marginal_samples: int,
    theta_noise_temperature: float,
    target_noise_temperature: float,
    symmetric_perturbation: bool,
    reuses_sample: bool,
    minimises: bool,
) -> Estimator:
    checks.instance("target_distribution", target_distribution, BaseTargetDistribution)
    return Estimator(
        target_distribution,
        checks.at_least_one("nb_samples", nb_samples),
        checks.at_least_one("nb_marginal_samples", nb_marginal_samples),
        checks.temperature("theta_noise_temperature", theta_noise_temperature),
        checks.temperature("target_noise_temperature", target_noise_temperature),
        symmetric_perturbation,
        reuses_sample,
        minimises,
    )


def _decorated(
    function: Callable[..., Tensor] | None,
    law: BaseNoiseDistribution | None,
    estimator: Estimator,
    generator: torch.Generator | None,
) -> Callable[..., Any]:
    if law is not None:
        checks.instance("noise_distribution", law, BaseNoiseDistribution)
    if function is None:
        return functools.partial(_decorated, law=law, estimator=estimator, generator=generator)
    checks.function("function", function)

    def solve(theta: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        checks.examples("theta", theta)
        if not args and not kwargs and _is_fused(function, law, estimator, theta):
            assert isinstance(function, TopK)
            assert law is None or isinstance(law, FusedNoise)
            k = checks.row_counts(function.k, theta)
            hot = fused_topk(theta, k, law, estimator, generator).movedim(0, 1)
            return hot.reshape(theta.shape[0] * estimator.samples, theta.shape[1])
        noise = None
        if isinstance(law, FusedNoise):
            noise = seeded_noise(law, theta, estimator.samples, generator)
        elif law is not None:
            noise = own_noise(law, theta, estimator.samples)

        def solver(values: Tensor) -> Tensor:
            return function(values, *args, **kwargs)

        return perturb_and_map(theta, noise, solver, estimator)

    functools.update_wrapper(solve, function, updated=())
    solve.target_distribution = estimator.target  # type: ignore[attr-defined]
    return solve


def _is_fused(
    function: Callable[..., Tensor],
    law: BaseNoiseDistribution | None,
    estimator: Estimator,
    theta: Tensor,
) -> bool:
    """Whether the fused ops compute this very estimator."""
    target = estimator.target
    if (
        type(function) is not TopK
        or not (law is None or isinstance(law, FusedNoise))
        or estimator.nb_marginal_samples != 1
        or estimator.minimises
        or theta.dim() != 2
    ):
        return False
    if type(target) is TargetDistribution:
        own_left, alpha = estimator.reuses_sample, target.alpha
    elif type(target) is AdaptiveTargetDistribution:
        own_left, alpha = not estimator.reuses_sample, target.alpha
    else:  # what a subclass overrides would not run
        return False
    same_left = alpha == 1.0 and estimator.theta_temperature == estimator.target_temperature
    return own_left or same_left or estimator.symmetric
