# SPDX-License-Identifier: Apache-2.0
"""A subset as indices, and gates that carry its gradient: what modules with sparse output share.

A model that computes only at the chosen items has no dL/dz_i at those left out, and SIMPLE's
gradient Sigma g needs them all. Weighting what is there by 1 / mu_i, as a survey weights its
answers (Horvitz and Thompson 1952), makes up for the missing entries: with g_i = z_i c_i / mu_i,

    E[Sigma g] = Sigma c,    (Sigma g)_j = sum_{i in S} c_i (P(j in S | i in S) - mu_j),

the exact gradient of E[<c, z>], each weight in [-1, 1]. With g_i = z_i c_i it would be
Sigma (mu * c): the gradient of another loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_grad import ops, subset
from discrete_grad.likelihood import working
from discrete_grad.rng import seed_for

SELECTIONS = ("sample", "mode")


class Choice(NamedTuple):
    """k items of every row."""

    indices: Tensor  # int64 [..., k], ascending; 0 in a row that has no k-subset
    gates: Tensor  # [..., k]: ones; of a draw, with the gradient of log mu_i; NaN in such a row


def largest(logits: Tensor, k: int) -> Tensor:
    """The indices of the k largest, int64 [..., k], ascending; -1 in a row without a k-subset."""
    # At temperature 0 the seed is not used; drawing one would move the generator in evaluation.
    unused = torch.zeros(1, dtype=torch.int64, device=logits.device)
    return ops.perturbed_topk_indices(logits, k, 1, None, 0.0, unused)[0]


def most_probable(logits: Tensor, k: int) -> Choice:
    """The mode, without a gradient."""
    found = largest(logits, k)
    gates = torch.ones(found.shape, dtype=working(logits).dtype, device=logits.device)
    return Choice(found.clamp_min(0), gates.masked_fill(found < 0, torch.nan))


def draw(
    logits: Tensor,
    marginals: Tensor,
    k: int,
    num_samples: int | None,
    generator: torch.Generator | None,
) -> Choice:
    """An exact draw [num_samples, ..., k]; ``marginals`` are those of ``logits``."""
    count = 1 if num_samples is None else num_samples
    found = ops.sample_indices(logits, k, count, seed_for(logits, generator))
    found = found.clamp_min(0)
    if num_samples is None:
        found = found[0]
    chosen = at(marginals, found)
    # A probability below the working precision of the marginals has no correct digits.
    known = chosen.detach().clamp_min(torch.finfo(chosen.dtype).eps)
    return Choice(found, 1 + (chosen - chosen.detach()) / known)


def choose(logits: Tensor, k: int, *, sampled: bool, generator: torch.Generator | None) -> Choice:
    """A draw, or the mode."""
    if not sampled:
        return most_probable(logits, k)
    logits = working(logits)
    return draw(logits, subset.marginals(logits, k), k, None, generator)


def at(values: Tensor, indices: Tensor) -> Tensor:
    """``values`` [..., n] at ``indices`` [(S,) ..., k]."""
    rows = values.expand(*indices.shape[:-1], values.size(-1))
    return rows.gather(-1, indices)


def bool_mask(mask: Any, shape: torch.Size) -> Tensor:
    """The argument ``mask`` must be a bool tensor that broadcasts to ``shape``: expanded to it."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, got {getattr(mask, 'dtype', type(mask))}")
    try:
        return mask.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to the shape {tuple(shape)}, got {tuple(mask.shape)}"
        ) from None
