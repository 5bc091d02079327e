# SPDX-License-Identifier: Apache-2.0
"""I-MLE for k-subsets as its paper describes it, in plain PyTorch: all noise drawn and stored.

Niepert, Minervini, Franceschi, "Implicit MLE: Backpropagating Through Discrete Exponential Family
Distributions", NeurIPS 2021 (arXiv:2106.01798), Algorithm 1 and the Sum-of-Gamma noise of section
4.2; written from the paper. The baseline of bench/perturbed.py.

The noise of all samples is one tensor, kept for the backward pass; the solver is torch.topk and a
scatter of ones; the s gamma variates of each element of Sum-of-Gamma noise are drawn one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def gumbel(shape: torch.Size) -> Tensor:
    """Standard Gumbel noise."""
    return torch.distributions.Gumbel(0.0, 1.0).sample(shape)


def sum_of_gamma(kappa: float, terms: int = 10) -> Callable[[torch.Size], Tensor]:
    """(sum over i = 1 .. s of Gamma(1/kappa, rate i/kappa) - log s) / kappa, term by term."""

    def sample(shape: torch.Size) -> Tensor:
        total = torch.zeros(shape)
        for i in range(1, terms + 1):
            total += torch.distributions.Gamma(1 / kappa, i / kappa).sample(shape)
        return (total - math.log(terms)) / kappa

    return sample


def _solve(theta: Tensor, k: int) -> Tensor:
    """The k-hot vector of the k largest of each row."""
    best = theta.topk(k, dim=-1).indices
    return torch.zeros_like(theta).scatter(-1, best, 1.0)


class _PublishedIMLE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        k: int,
        num_samples: int,
        sample: Callable[[torch.Size], Tensor],
        temperature: float,
        step: float,
    ) -> Tensor:
        rows, n = logits.shape
        noise = sample(torch.Size([rows, num_samples, n]))
        theta = logits.unsqueeze(1).expand(rows, num_samples, n)
        perturbed = theta + temperature * noise
        z = _solve(perturbed.reshape(-1, n), k)
        ctx.save_for_backward(logits, noise, z)
        ctx.k, ctx.temperature, ctx.step = k, temperature, step
        return z

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        logits, noise, z = ctx.saved_tensors
        rows, num_samples, n = noise.shape
        theta = logits.unsqueeze(1).expand_as(noise).reshape(-1, n)
        target = theta - ctx.step * dy + ctx.temperature * noise.reshape(-1, n)
        difference = z - _solve(target, ctx.k)
        gradient = difference.reshape(rows, num_samples, n).mean(1)
        return gradient, None, None, None, None, None


def imle_topk_published(
    logits: Tensor,
    k: int,
    num_samples: int,
    noise: Callable[[torch.Size], Tensor],
    temperature: float,
    step: float,
) -> Tensor:
    """Samples with I-MLE's gradient.

    Args:
        logits: theta, ``[rows, n]``.
        k: size of the subsets.
        num_samples: samples per row.
        noise: makes the noise of a shape.
        temperature: what the noise is multiplied with, in both passes.
        step: lambda; the gradient is not divided by it.

    Returns:
        k-hot ``[rows * num_samples, n]``, the sample index running fastest.
    """
    z: Tensor = _PublishedIMLE.apply(logits, k, num_samples, noise, temperature, step)
    return z
