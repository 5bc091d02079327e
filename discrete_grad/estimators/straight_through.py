# SPDX-License-Identifier: Apache-2.0
"""Straight-through: a hard subset forward, the identity backward."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks, ops
from discrete_grad.estimators import surrogate
from discrete_grad.estimators.perturb_and_map import perturbed_topk
from discrete_grad.noise import BaseNoiseDistribution
from discrete_grad.rng import seed_for


def straight_through_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    noise: str | BaseNoiseDistribution | None = None,
    temperature: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A k-subset z, k-hot [num_samples, ..., n], whose gradient passes on to theta unchanged.

    dL/dtheta = dL/dz, summed over the draws (to average over them is the loss's part); 0 at items
    that are excluded or forced. The draws are exact ones of the k-subset law, or with ``noise`` the
    k largest of theta + temperature * eps.

    Time O(n) per draw; nothing is kept for the backward pass.

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        noise: None for exact draws; a name or a noise distribution, as in ``dg.perturbed_topk``,
            for perturb-and-MAP.
        temperature: what the noise is multiplied with, >= 0 (0: the k largest logits); None is 1.
            Only with ``noise``.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Sources:
        Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons
        for Conditional Computation", arXiv:1308.3432, section 4; on exact k-subsets: Ahmed, Zeng,
        Niepert, Van den Broeck, "SIMPLE", ICLR 2023, arXiv:2210.01941, section 5.1.
    """
    k = checks.row_counts(k, logits)
    draws = checks.num_samples(num_samples)
    if noise is not None:
        hot = perturbed_topk(
            logits,
            k,
            draws,
            noise=noise,
            temperature=1.0 if temperature is None else temperature,
            generator=generator,
        )
    elif temperature is not None:
        raise ValueError(
            f"temperature must be None where noise is None (the draws are exact), got {temperature}"
        )
    else:
        hot = ops.sample(logits.detach(), k, draws, seed_for(logits, generator))
    hot = surrogate.straight_through(hot, surrogate.finite(logits))
    return hot[0] if num_samples is None else hot
