# SPDX-License-Identifier: Apache-2.0
"""Perturbed optimizers: the mean solution under noise, differentiated through the noise's law."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from discrete_grad import checks
from discrete_grad.estimators import surrogate
from discrete_grad.likelihood import working
from discrete_grad.noise import (
    FusedNoise,
    GumbelNoiseDistribution,
    LaplaceNoiseDistribution,
    LogisticNoiseDistribution,
    NormalNoiseDistribution,
)
from discrete_grad.rng import seed_for

Solver = Callable[..., Tensor]

# Standard laws, each with the gradient of nu, where exp(-nu) is its density.
_LAWS: dict[str, tuple[type[FusedNoise], Callable[[Tensor], Tensor]]] = {
    "gumbel": (GumbelNoiseDistribution, lambda z: 1 - torch.exp(-z)),
    "normal": (NormalNoiseDistribution, lambda z: z),
    "logistic": (LogisticNoiseDistribution, lambda z: torch.tanh(z / 2)),
    "laplace": (LaplaceNoiseDistribution, torch.sign),
}


@overload
def perturbed_optimizer(
    fn: Solver,
    *,
    num_samples: int = ...,
    sigma: float = ...,
    noise: str = ...,
    variance_reduction: bool = ...,
    generator: torch.Generator | None = ...,
) -> Solver: ...


@overload
def perturbed_optimizer(
    fn: None = ...,
    *,
    num_samples: int = ...,
    sigma: float = ...,
    noise: str = ...,
    variance_reduction: bool = ...,
    generator: torch.Generator | None = ...,
) -> Callable[[Solver], Solver]: ...


def perturbed_optimizer(
    fn: Solver | None = None,
    *,
    num_samples: int = 10,
    sigma: float = 1.0,
    noise: str = "normal",
    variance_reduction: bool = True,
    generator: torch.Generator | None = None,
) -> Solver | Callable[[Solver], Solver]:
    """The solver theta -> (1/S) sum_s y(theta + sigma Z_s), differentiable; y is ``fn``.

    It estimates the perturbed optimizer y_sigma(theta) = E[y(theta + sigma Z)], a smooth function
    into the convex hull of the solutions, and its vector-Jacobian product
    E[<g, y(theta + sigma Z)> grad nu(Z)] / sigma, where exp(-nu) is the density of Z. With Gumbel
    noise, sigma = 1 and y the one-hot argmax it is the softmax. Both estimates are unbiased.

    Also a decorator: ``@perturbed_optimizer(sigma=0.5)``. Costs S solutions forward and none
    backward; kept for the backward pass are they and the noise.

    Args:
        fn: a batched solver: maps theta [batch, *instance] (and arguments that it is passed as
            they are) to solutions [batch, *solution]. It is called once, without gradients, on
            S * batch instances (sample by sample, the batch within each).
        num_samples: S, at least 1.
        sigma: what the noise is multiplied with, > 0.
        noise: "normal", "gumbel", "logistic" or "laplace": laws with a density in closed form.
        variance_reduction: subtract from each y its mean over the other samples, in the backward
            pass; it adds no bias. Has no effect where S is 1.
        generator: source of the randomness, on the device of theta; None is torch's default one.

    Returns:
        A function of theta [batch, *instance] (and further arguments), to [batch, *solution] in the
        dtype of theta. Entries of theta that are infinite stay so, with gradient 0.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Berthet, Blondel, Teboul, Cuturi, Vert, Bach, "Learning with Differentiable Perturbed
        Optimizers", NeurIPS 2020, arXiv:2002.08676, Proposition 3.1.
    """
    draws = checks.draws_at_least(num_samples, 1, "to take a mean")
    sigma = checks.positive("sigma", sigma)
    checks.one_of("noise", noise, tuple(_LAWS))
    if fn is None:
        return functools.partial(
            perturbed_optimizer,
            num_samples=num_samples,
            sigma=sigma,
            noise=noise,
            variance_reduction=variance_reduction,
            generator=generator,
        )
    checks.function("fn", fn)
    law, grad_nu = _LAWS[noise]

    @functools.wraps(fn, updated=())
    def perturbed(theta: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        checks.examples("theta", theta)
        wide = working(theta)
        seed = seed_for(theta, generator)
        eps = law().draw(torch.Size([draws, *theta.shape]), seed, wide.dtype)
        with torch.no_grad():
            points = (wide + sigma * eps).to(theta.dtype).flatten(0, 1)
            solutions = checks.solutions(fn(points, *args, **kwargs), points.size(0))
        solutions = solutions.to(wide.dtype).unflatten(0, (draws, -1))
        value = mean_solution(wide, solutions, grad_nu(eps) / sigma, variance_reduction)
        return value.to(theta.dtype)

    return perturbed


def mean_solution(
    theta: Tensor, solutions: Tensor, score: Tensor, variance_reduction: bool
) -> Tensor:
    """The mean of given solutions [S, batch, *solution] and its gradient in theta.

    ``score`` is grad nu(Z) / sigma, [S, batch, *instance].
    """
    draws = solutions.size(0)
    mean = solutions.mean(0)
    centred = solutions
    if variance_reduction and draws > 1:
        # y_s less the mean of the others
        centred = (solutions - mean) * (draws / (draws - 1))
    smooth = surrogate.finite(theta)
    # 0, with the gradient <score, .> in theta.
    along = (score * (smooth - smooth.detach())).flatten(2).sum(-1)
    along = along.reshape(along.shape + (1,) * (solutions.dim() - 2))
    return mean + (centred * along).mean(0)
