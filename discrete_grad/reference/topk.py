# SPDX-License-Identifier: Apache-2.0
"""Perturb-and-MAP over k-subsets: the k largest items of logits plus noise, and the I-MLE gradient.

Nothing here is differentiated: the gradient of I-MLE is a difference of two such selections, which
``topk_difference`` makes again from the seed, so that no noise need be stored.

A row is invalid where it has no k-subset (a NaN, fewer than k items that are not excluded, more
than k forced ones) or where the perturbed value of a finite item is not finite.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .noise import noise_of_rows
from .rows import broadcast_k, classify, compute_dtype

__all__ = ["perturbed_topk", "perturbed_topk_indices", "top_k", "topk_difference"]

# Samples are perturbed in pieces of about this many items, to bound the memory.
_PIECE = 1 << 20


def top_k(values: Tensor, k: int | Tensor) -> Tensor:
    """The k largest of each row; among equals, which -0 and +0 are, the lowest indices.

    Args:
        values: ``[..., n]``; a NaN counts as the largest.
        k: int, or integer tensor that broadcasts to ``[...]``; from 0 to n.

    Returns:
        bool ``[..., n]`` with k ones in each row.
    """
    values = torch.where(values == 0, 0, values)  # a radix sort tells -0 from +0
    order = values.argsort(dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[-1], device=values.device)
    first = rank < broadcast_k(values, k).unsqueeze(-1)
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, order, first)


def _select(theta: Tensor, x: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
    """The choice of k items by ``x``, where an infinite theta settles its item.

    Args:
        theta: ``[..., n]`` logits.
        x: ``[s, ..., n]`` perturbed logits.
        k: int, or integer tensor that broadcasts to ``[...]``.

    Returns:
        bool ``[s, ..., n]``, and which rows are valid: bool ``[s, ...]``.
    """
    finite = theta.isfinite()
    valid = classify(theta, k).valid & (x.isfinite() | ~finite).all(-1)
    return top_k(torch.where(finite, x, theta), k), valid


def _noise_in_pieces(
    theta: Tensor, num_samples: int, quantiles: Tensor | None, seed: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """The noise ``[s, ..., n]`` of some samples at a time, until all have had theirs."""
    batch, n = theta.shape[:-1], theta.shape[-1]
    rows = batch.numel()
    each = max(1, _PIECE // max(1, rows * n))
    for first in range(0, num_samples, each):
        last = min(first + each, num_samples)
        row = torch.arange(first * rows, last * rows, device=theta.device)
        noise = noise_of_rows(row, n, quantiles, seed, theta.dtype)
        yield slice(first, last), noise.reshape(last - first, *batch, n)


def _choices(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """The subsets as bool ``[num_samples, ..., n]`` and which are valid, ``[num_samples, ...]``."""
    theta = logits.detach().to(compute_dtype(logits.dtype))
    chosen = [theta.new_empty(0, *theta.shape, dtype=torch.bool)]
    valid = [theta.new_empty(0, *theta.shape[:-1], dtype=torch.bool)]
    for _, noise in _noise_in_pieces(theta, num_samples, quantiles, seed):
        piece, usable = _select(theta, theta + temperature * noise, k)
        chosen.append(piece)
        valid.append(usable)
    return torch.cat(chosen), torch.cat(valid)


def perturbed_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    """Samples ``argmax over k-subsets z of <z, logits + temperature * noise>``, as k-hot vectors.

    Args:
        logits: ``[..., n]`` floating; -inf excludes an item, +inf forces it in.
        k: int, or integer tensor that broadcasts to ``[...]``.
        num_samples: how many for each row.
        quantiles: ``[881, 4]``, the table of the noise's law in the compute dtype (float32 for
            16-bit logits); None for Gumbel noise, with which k = 1 samples the softmax.
        temperature: at least 0; 0 gives the mode.
        seed: int64 with one element, on the device of ``logits``.

    Returns:
        ``[num_samples, ..., n]`` in the dtype of ``logits``, each row with exactly k ones; NaN for
        invalid rows. The noise is ``perturbation_noise`` of ``num_samples`` times the batch.
    """
    chosen, valid = _choices(logits, k, num_samples, quantiles, temperature, seed)
    return torch.where(valid.unsqueeze(-1), chosen.to(logits.dtype), torch.nan)


def perturbed_topk_indices(
    logits: Tensor,
    k: int,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    """The same samples as ``perturbed_topk`` with the same seed, as indices.

    Returns:
        int64 ``[num_samples, ..., k]``, ascending; -1 for invalid rows.
    """
    chosen, valid = _choices(logits, k, num_samples, quantiles, temperature, seed)
    indices = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.where(valid.unsqueeze(-1), indices, -1)


def topk_difference(
    logits: Tensor,
    grad: Tensor,
    k: int | Tensor,
    quantiles: Tensor | None,
    step: Tensor,
    left_alpha: float,
    left_temperature: float,
    right_alpha: float,
    right_temperature: float,
    symmetric: bool,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """The I-MLE gradient before its division by lambda: a mean difference of two selections.

    With the noise eps of each sample, g its gradient and lambda the step,

        ``left = left_alpha logits + left_temperature eps  (+ lambda g if symmetric)``
        ``right = right_alpha logits - lambda g + right_temperature eps``

    and the result is the mean over samples of topk(left) - topk(right), halved if symmetric.

    Args:
        logits: ``[..., n]`` floating; infinite ones keep their value on both sides.
        grad: ``[S, ..., n]``, the gradient of the loss with respect to each sample.
        k: int, or integer tensor that broadcasts to ``[...]``.
        quantiles: the noise's table, or None, as in ``perturbed_topk``.
        step: ``[]`` or ``[...]``, lambda of all rows or of each; of any sign.
        left_alpha, right_alpha: scales of the logits.
        left_temperature, right_temperature: scales of the noise, at least 0.
        symmetric: also move the left side (the central difference).
        seed: that of the samples.

    Returns:
        ``(difference, nonzeros)``: ``[..., n]`` in the compute dtype (never a 16-bit one), NaN in
        rows with an invalid selection; and int64 ``[...]``, how many entries of all samples'
        differences are not 0, 0 in those rows. Both are 0 where S = 0.

    Source: Niepert, Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, Algorithm 1; the central
    difference and the count: Minervini, Franceschi, Niepert, "Adaptive perturbation-based gradient
    estimation for discrete latent variable models", AAAI 2023, sections 3 and 4.
    """
    theta = logits.detach().to(compute_dtype(logits.dtype))
    g = grad.detach().to(theta.dtype)
    move = step.detach().to(theta.dtype).expand(theta.shape[:-1]).unsqueeze(-1)
    samples = g.shape[0]
    # Sums of -1, 0 and 1: exact.
    total = torch.zeros_like(theta)
    nonzeros = torch.zeros(theta.shape[:-1], dtype=torch.int64, device=theta.device)
    valid = torch.ones_like(nonzeros, dtype=torch.bool)
    for part, noise in _noise_in_pieces(theta, samples, quantiles, seed):
        shift = move * g[part]
        left = left_alpha * theta + left_temperature * noise
        right = (right_alpha * theta - shift) + right_temperature * noise
        chosen_left, valid_left = _select(theta, left + shift if symmetric else left, k)
        chosen_right, valid_right = _select(theta, right, k)
        # Not in place: under vmap only some of these are mapped at first.
        total = total + (chosen_left.to(theta.dtype) - chosen_right.to(theta.dtype)).sum(0)
        nonzeros = nonzeros + (chosen_left != chosen_right).sum((0, -1))
        valid = valid & (valid_left & valid_right).all(0)
    mean = total / (2 * max(samples, 1) if symmetric else max(samples, 1))
    nan = torch.full((), torch.nan, dtype=mean.dtype, device=mean.device)
    return torch.where(valid.unsqueeze(-1), mean, nan), torch.where(valid, nonzeros, 0)
