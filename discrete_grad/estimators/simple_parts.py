# SPDX-License-Identifier: Apache-2.0
"""SIMPLE taken apart: its exact draws alone, its exact marginals alone (the paper's ablations).

Both use the gradient of I-MLE, a difference between theta and the target theta - step * g, in which
SIMPLE's forward or backward part takes the place of perturb-and-MAP's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks, ops
from discrete_grad.estimators import surrogate
from discrete_grad.estimators.perturb_and_map import perturbed_topk
from discrete_grad.likelihood import working
from discrete_grad.noise import BaseNoiseDistribution
from discrete_grad.rng import seed_for


def simple_forward_only(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    step: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """SIMPLE-F: exact draws forward; backward the difference of exact draws, not of marginals.

    z ~ p(S; theta), k-hot [num_samples, ..., n]. With g = dL/dz of a draw, dL/dtheta is the mean
    over the draws of z - z', z' an independent exact draw at theta - step * g. It is not divided by
    the step, and as in I-MLE it is the *mean* of the draws' gradients: use the sum of their losses.

    Time O(n) per draw, forward and backward; kept are the draws.

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        step: from theta to its target, in units of g; > 0.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: A Gradient Estimator for k-Subset Sampling",
        ICLR 2023, arXiv:2210.01941, section 5.1 (SIMPLE-F).
    """
    k = checks.row_counts(k, logits)
    draws = checks.num_samples(num_samples)
    step = checks.positive("step", step)
    hot = ops.sample(logits.detach(), k, draws, seed_for(logits, generator))
    again = seed_for(logits, generator)

    def difference(theta: Tensor, grad: Tensor) -> Tensor:
        targets = _targets(theta, grad, step)
        return (hot - ops.sample(targets, k, 1, again)[0]).sum(0) / max(draws, 1)

    carried = surrogate.with_gradient(logits, hot, difference)
    return carried[0] if num_samples is None else carried


def simple_backward_only(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    step: float = 1.0,
    noise: str | BaseNoiseDistribution = "sum_of_gamma",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """SIMPLE-B: perturb-and-MAP draws forward; backward the difference of exact marginals.

    z is the k largest of theta + temperature * eps, k-hot [num_samples, ..., n]. With g = dL/dz of
    a draw, dL/dtheta is the mean over the draws of mu(theta) - mu(theta - step * g), mu the
    marginals of the k-subset law. It is not divided by the step, and as in I-MLE it is the *mean*
    of the draws' gradients: use the sum of their losses.

    Time O(n) per draw, forward and backward; nothing is kept but ``logits``.

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        step: from theta to its target, in units of g; > 0.
        noise, temperature: as in ``dg.perturbed_topk``. The paper's noise is "sum_of_gamma", which
            by name needs an int ``k``.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: A Gradient Estimator for k-Subset Sampling",
        ICLR 2023, arXiv:2210.01941, section 5.1 (SIMPLE-B).
    """
    k = checks.row_counts(k, logits)
    draws = checks.num_samples(num_samples)
    step = checks.positive("step", step)
    hot = perturbed_topk(
        logits, k, draws, noise=noise, temperature=temperature, generator=generator
    )

    def difference(theta: Tensor, grad: Tensor) -> Tensor:
        marginals, _ = ops.marginals(working(theta), k)
        targets = _targets(theta, grad, step)
        return (marginals - ops.marginals(targets, k)[0]).sum(0) / max(draws, 1)

    carried = surrogate.with_gradient(logits, hot, difference)
    return carried[0] if num_samples is None else carried


def _targets(theta: Tensor, grad: Tensor, step: float) -> Tensor:
    """theta - step * g for every draw, [S, ..., n], in the working dtype."""
    theta = working(theta.detach())
    return theta - step * grad.to(theta.dtype)
