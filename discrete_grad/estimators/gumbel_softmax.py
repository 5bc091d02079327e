# SPDX-License-Identifier: Apache-2.0
"""The relaxed top-k of logits plus Gumbel noise, and its straight-through form."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks, ops
from discrete_grad.estimators import surrogate
from discrete_grad.likelihood import working
from discrete_grad.noise import GumbelNoiseDistribution
from discrete_grad.rng import seed_for


def gumbel_softmax_topk(
    logits: Tensor,
    k: int,
    num_samples: int | None = None,
    *,
    temperature: float = 1.0,
    hard: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A relaxed k-subset, [num_samples, ..., n]: entries in [0, k] that sum to k, differentiable.

    On x = theta + Gumbel noise, k rounds of a softmax that takes out, softly, what the rounds
    before it chose: a_j = softmax(x_j / temperature), x_{j+1} = x_j + log(1 - a_j); the result is
    a_1 + ... + a_k. As the temperature falls to 0 it becomes the k-hot vector of the k largest x,
    a draw of ``dg.perturbed_topk`` (Plackett-Luce without its order, not the k-subset law). For
    k = 1 it is the Gumbel-softmax.

    Time O(n k) per draw, and as much memory kept for the backward pass.

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in (its entry is 1, the
            others have k less one).
        k: size of the subsets, an int: the number of rounds.
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        temperature: of the softmax, > 0. The noise is not scaled.
        hard: the straight-through form: forward the k-hot vector of the k largest x, backward the
            gradient of the relaxed one.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one. The same state gives the noise of ``dg.perturbed_topk``.

    Returns:
        In the dtype of ``logits``. NaN in a row that has no k-subset.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Sources:
        Xie, Ermon, "Reparameterizable Subset Sampling via Continuous Relaxations", IJCAI 2019,
        arXiv:1901.10517, section 3; for k = 1: Jang, Gu, Poole, arXiv:1611.01144, section 2, and
        Maddison, Mnih, Teh, arXiv:1611.00712.
    """
    k = checks.single_count(k, logits, "gumbel_softmax_topk")
    draws = checks.num_samples(num_samples)
    temperature = checks.positive("temperature", temperature)
    seed = seed_for(logits, generator)
    theta = working(logits)
    noise = GumbelNoiseDistribution().draw(torch.Size([draws, *theta.shape]), seed, theta.dtype)
    perturbed = theta + noise
    soft = relaxed_topk(perturbed, k, temperature)
    if hard:
        # At temperature 0 no noise is added: the selection alone, with its rule for ties.
        chosen = ops.perturbed_topk(perturbed.detach(), k, 1, None, 0.0, seed)[0]
        soft = surrogate.straight_through(chosen, soft)
    soft = soft.to(logits.dtype)
    return soft[0] if num_samples is None else soft


def relaxed_topk(scores: Tensor, k: int, temperature: float) -> Tensor:
    """The relaxed k-hot vector of the k largest ``scores``, [..., n], in float32 or float64."""
    forced = scores == torch.inf
    rounds = k - forced.sum(-1, keepdim=True)
    live = (scores > -torch.inf).sum(-1, keepdim=True)
    invalid = scores.isnan().any(-1, keepdim=True) | (rounds < 0) | (live < k)
    free = torch.where(forced, -torch.inf, scores)
    # 0 with a gradient: for k = 0 too there is one, of zeros.
    total = torch.where(forced, 1.0, 0.0 * surrogate.finite(free))
    for done in range(1, k + 1):
        scaled = free / temperature
        chosen = scaled.softmax(-1)
        total = torch.where(rounds >= done, total + chosen, total)
        if done < k:
            # A row that is done stays as it is: taking out its last item would leave NaN.
            free = torch.where(rounds > done, free + _log_complement(scaled, chosen), free)
    return torch.where(invalid, torch.nan, total)


def _log_complement(scores: Tensor, chosen: Tensor) -> Tensor:
    """log(1 - chosen), chosen = softmax(scores), also where it rounds to 1.

    Only the largest score's entry exceeds 1/2: that one is the log-sum of all the others' shares.
    """
    largest = torch.zeros_like(scores, dtype=torch.bool).scatter(
        -1, scores.argmax(-1, keepdim=True), True
    )
    # The least finite number, not -inf: a row with one live item has no others, and the log-sum of
    # nothing has a NaN gradient.
    others = scores.masked_fill(largest, torch.finfo(scores.dtype).min)
    rest = others.logsumexp(-1, keepdim=True) - scores.logsumexp(-1, keepdim=True)
    return torch.where(largest, rest, torch.log1p(-chosen.masked_fill(largest, 0.0)))
