# SPDX-License-Identifier: Apache-2.0
"""Perturb-and-MAP samples of k-subsets: the k largest of the logits plus noise."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks, ops
from discrete_grad.noise import BaseNoiseDistribution, FusedNoise, resolve
from discrete_grad.ops.routing import compute_dtype
from discrete_grad.rng import seed_for


def perturbed_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    noise: str | BaseNoiseDistribution = "gumbel",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The k largest of theta + temperature * eps, k-hot [num_samples, ..., n]; no gradient.

    Every sample has exactly k ones; of equal values the lowest index is taken. With Gumbel noise at
    temperature 1 the subset follows the Plackett-Luce law without its order (k = 1: softmax), which
    for k > 1 is *not* the k-subset law of ``dg.subset``: for exact samples of that one use
    ``dg.subset.sample``.

    Time O(n) per draw. Noise, perturbation and selection are one pass: nothing of the size of the
    samples is stored but the result (a noise object of your own is sampled whole).

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        noise: "gumbel", "sum_of_gamma" (kappa = k, 10 terms), "normal", "logistic", "laplace", or a
            noise distribution.
        temperature: what the noise is multiplied with, >= 0; 0 is the mode.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one. A noise object of your own does not use it.

    Returns:
        In the dtype of ``logits``. NaN in a row that has no k-subset.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Papandreou, Yuille, "Perturb-and-MAP random fields", ICCV 2011; for k-subsets: Niepert,
        Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, arXiv:2106.01798, section 3.
    """
    k = checks.row_counts(k, logits)
    draws = checks.num_samples(num_samples)
    law = resolve(noise, k)
    temperature = checks.temperature("temperature", temperature)
    seed = seed_for(logits, generator)
    hot = ops.perturbed_topk(*_problem(logits, k, draws, law, temperature), seed)
    hot = hot.reshape(draws, *logits.shape)
    return hot[0] if num_samples is None else hot


def perturbed_topk_indices(
    logits: Tensor,
    k: int,
    num_samples: int | None = None,
    *,
    noise: str | BaseNoiseDistribution = "gumbel",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The items of ``perturbed_topk``'s samples, int64 [num_samples, ..., k], ascending.

    From the same state of the generator these are the same subsets. A row that has no k-subset
    holds -1.

    Args:
        k: an int only. The other arguments are those of ``perturbed_topk``.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.single_count(k, logits, "perturbed_topk_indices")
    draws = checks.num_samples(num_samples)
    law = resolve(noise, k)
    temperature = checks.temperature("temperature", temperature)
    seed = seed_for(logits, generator)
    theta, _, count, quantiles, scale = _problem(logits, k, draws, law, temperature)
    indices = ops.perturbed_topk_indices(theta, k, count, quantiles, scale, seed)
    indices = indices.reshape(draws, *logits.shape[:-1], k)
    return indices[0] if num_samples is None else indices


def _problem(
    logits: Tensor, k: int | Tensor, draws: int, law: BaseNoiseDistribution, temperature: float
) -> tuple[Tensor, int | Tensor, int, Tensor | None, float]:
    """What the ops take: (logits, k, num_samples, quantiles, temperature).

    Noise that the kernels cannot make is added here, and its draws become rows that are not
    perturbed any more.
    """
    if isinstance(law, FusedNoise):
        quantiles = law.quantiles(logits.device, compute_dtype(logits.dtype))
        return logits, k, draws, quantiles, temperature * law.scale
    theta = logits.detach()
    eps = law.sample(torch.Size([draws, *logits.shape])).to(theta)
    return theta + temperature * eps, k, 1, None, 0.0
