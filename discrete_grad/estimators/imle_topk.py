# SPDX-License-Identifier: Apache-2.0
"""I-MLE and AIMLE for k-subsets: fused ops, which store no noise."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks, subset
from discrete_grad.estimators.map_difference import Estimator, own_noise, perturb_and_map
from discrete_grad.estimators.targets import AdaptiveTargetDistribution, TargetDistribution
from discrete_grad.noise import BaseNoiseDistribution, FusedNoise, resolve
from discrete_grad.ops import imle as ops
from discrete_grad.ops.imle_rule import AdaptiveStep, FixedStep
from discrete_grad.ops.routing import compute_dtype
from discrete_grad.rng import seed_for


def imle_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    target: TargetDistribution | None = None,
    noise: str | BaseNoiseDistribution = "gumbel",
    temperature: float = 1.0,
    target_temperature: float | None = None,
    symmetric: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The k largest of theta + temperature * eps, k-hot [num_samples, ..., n], I-MLE's gradient.

    With g = dL/dz of a sample, eps its noise and theta' = alpha theta - lambda g the target,

        dL/dtheta = mean over the samples of  MAP(theta + temperature eps)
                                              - MAP(theta' + target_temperature eps),

    or, ``symmetric``, of half the difference of the MAP states at alpha theta + lambda g and at
    theta', both at target_temperature; divided by lambda if the target says so. A row without a
    k-subset, or whose g is not finite, has a NaN gradient, and no other row is touched by it.

    The samples are those of ``dg.perturbed_topk`` from the same state of the generator. Time O(n)
    per sample in each pass; the backward pass makes the noise again, so only ``logits`` is kept
    for it (noise of your own is kept).

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        num_samples: number of samples per row; None makes one and drops the leading dimension.
        target: alpha, lambda and the scaling; None is ``TargetDistribution()``.
        noise: "gumbel" (as in ``dg.perturbed_topk``), "sum_of_gamma" (kappa = k, 10 terms: what
            the paper recommends), "normal", "logistic", "laplace", or a noise distribution.
        temperature: what the noise is multiplied with in the forward pass, >= 0.
        target_temperature: the same at the target; None is ``temperature``.
        symmetric: take the central difference.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one. A noise distribution of your own does not use it.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
        NotImplementedError: a second derivative was asked for (the gradient is piecewise constant).

    Source:
        Niepert, Minervini, Franceschi, "Implicit MLE: Backpropagating Through Discrete Exponential
        Family Distributions", NeurIPS 2021, arXiv:2106.01798, section 3.
    """
    if target is None:
        target = TargetDistribution()
    checks.exact_type("target", target, TargetDistribution)
    return _topk(
        logits, k, num_samples, target, noise, temperature, target_temperature, symmetric, generator
    )


def aimle_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    target: AdaptiveTargetDistribution,
    noise: str | BaseNoiseDistribution = "gumbel",
    temperature: float = 1.0,
    target_temperature: float | None = None,
    symmetric: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``imle_topk`` with AIMLE's gradient: an adaptive lambda, and the difference divided by it.

        dL/dtheta = 1 / lambda * mean over the samples of
            MAP(alpha theta + target_temperature eps)
            - MAP(alpha theta - lambda g + target_temperature eps),

    or, ``symmetric``, half the difference of MAP(alpha theta +- lambda g + target_temperature eps).
    lambda = beta ||theta|| / ||g|| over all rows and samples, and each backward pass adapts beta:
    see ``AdaptiveTargetDistribution``. Where g = 0 the gradient is 0. Where some g is not finite,
    lambda counts as 0: the gradient is NaN in that row, and the state stays as it was.

    Args:
        target: the ``AdaptiveTargetDistribution`` that holds the state. The other arguments are
            those of ``imle_topk``.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
        RuntimeError: under a transform of torch.func with a target in training mode.
        NotImplementedError: a second derivative was asked for.

    Source:
        Minervini, Franceschi, Niepert, "Adaptive Perturbation-Based Gradient Estimation for
        Discrete Latent Variable Models", AAAI 2023, arXiv:2209.04862, section 4.
    """
    checks.exact_type("target", target, AdaptiveTargetDistribution)
    return _topk(
        logits, k, num_samples, target, noise, temperature, target_temperature, symmetric, generator
    )


def _topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None,
    target: TargetDistribution | AdaptiveTargetDistribution,
    noise: str | BaseNoiseDistribution,
    temperature: float,
    target_temperature: float | None,
    symmetric: bool,
    generator: torch.Generator | None,
) -> Tensor:
    k = checks.row_counts(k, logits)
    draws = checks.num_samples(num_samples)
    law = resolve(noise, k)
    temperature = checks.temperature("temperature", temperature)
    if target_temperature is None:
        target_temperature = temperature
    estimator = Estimator(
        target,
        draws,
        1,
        temperature,
        checks.temperature("target_temperature", target_temperature),
        symmetric,
        reuses_sample=type(target) is TargetDistribution,
        minimises=False,
    )
    if isinstance(law, FusedNoise):
        hot = fused_topk(logits, k, law, estimator, generator)
    else:
        hot = _unfused_topk(logits, k, law, estimator)
    return hot[0] if num_samples is None else hot


def _unfused_topk(
    logits: Tensor, k: int | Tensor, law: BaseNoiseDistribution, estimator: Estimator
) -> Tensor:
    """[T, ..., n] with noise of the user's own."""
    *batch, n = logits.shape
    rows = logits.reshape(logits.shape[:-1].numel(), n)
    if isinstance(k, Tensor):
        k = k.expand(batch).reshape(-1).repeat_interleave(estimator.samples)
    eps = own_noise(law, rows, estimator.samples)
    hot = perturb_and_map(rows, eps, lambda values: subset.mode(values, k), estimator)
    return hot.reshape(*batch, estimator.samples, n).movedim(-2, 0)


def fused_topk(
    logits: Tensor,
    k: int | Tensor,
    law: FusedNoise | None,
    estimator: Estimator,
    generator: torch.Generator | None,
) -> Tensor:
    """[T, ..., n] by one op each way."""
    if law is None:
        quantiles, scale = None, 0.0
        seed = torch.zeros(1, dtype=torch.int64, device=logits.device)
    else:
        quantiles, scale = law.quantiles(logits.device, compute_dtype(logits.dtype)), law.scale
        seed = seed_for(logits, generator)
    temperatures = estimator.theta_temperature * scale, estimator.target_temperature * scale
    problem = logits, k, estimator.samples, quantiles, seed
    target = estimator.target
    if isinstance(target, AdaptiveTargetDistribution):
        target.prepare(logits.device)
        adaptive = AdaptiveStep(
            *temperatures,
            alpha=target.alpha,
            symmetric=estimator.symmetric,
            state=target.state,
            rule=target.rule,
            adapt=target.training,
            per_example=target.per_example,
            published_scale=target.published_scale,
            group=target.group,
        )
        return ops.aimle_topk(*problem, adaptive)
    assert isinstance(target, TargetDistribution)
    fixed = FixedStep(
        *temperatures,
        alpha=target.alpha,
        beta=target.beta,
        scaled=target.do_gradient_scaling,
        eps=target.eps,
        symmetric=estimator.symmetric,
    )
    return ops.imle_topk(*problem, fixed)
