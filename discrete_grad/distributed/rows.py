# SPDX-License-Identifier: Apache-2.0
"""Rows whose items lie on several ranks: what is settled, and the k-th largest logit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from discrete_grad.distributed.ranks import Ranks
from discrete_grad.reference.rows import Rows, broadcast_k, compute_dtype

__all__ = ["Best", "Kinds", "best_items", "classify", "split"]

# Bits of the k-th largest logit that one round of the search finds.
_DIGIT = 4


class Kinds(NamedTuple):
    """What is known of a whole row before any mathematics: [...] each, the same on every rank."""

    open_row: Tensor  # bool: something is left to decide
    every: Tensor  # bool: all finite items are in every subset
    valid: Tensor  # bool
    k: Tensor  # int64, how many live items are chosen
    live_count: Tensor  # int64


def classify(logits: Tensor, k: int | Tensor, ranks: Ranks) -> Kinds:
    """The kind of each row, as in ``reference.rows``: one all-reduce of 3 numbers a row.

    Args:
        logits: ``[..., n_r]``, this rank's items.
        k: int, or integer tensor that broadcasts to ``[...]``: of the whole row.
    """
    tests = (logits.isnan(), logits == torch.inf, logits.isfinite())
    counts = ranks.total(torch.stack([test.sum(-1) for test in tests], -1))
    nans, infinite, finite = counts.unbind(-1)
    rest = broadcast_k(logits, k) - infinite
    valid = (nans == 0) & (rest >= 0) & (rest <= finite)
    open_row = valid & (rest > 0) & (rest < finite)
    zero = torch.zeros_like(rest)
    return Kinds(
        open_row=open_row,
        every=valid & (rest == finite),
        valid=valid,
        k=torch.where(open_row, rest, zero),
        live_count=torch.where(open_row, finite, zero),
    )


def split(logits: Tensor, kinds: Kinds) -> Rows:
    """``reference.rows.Rows``: its [..., n_r] fields of this rank's items, the others of all."""
    logits = logits.to(compute_dtype(logits.dtype))
    finite = logits.isfinite()
    taken = finite & kinds.every.unsqueeze(-1)
    valid = kinds.valid.unsqueeze(-1)
    return Rows(
        theta=torch.where(finite & valid, logits, torch.zeros_like(logits)),
        live=finite & kinds.open_row.unsqueeze(-1),
        forced=((logits == torch.inf) & valid) | taken,
        taken=taken,
        k=kinds.k,
        live_count=kinds.live_count,
        valid=kinds.valid,
    )


class Best(NamedTuple):
    """The k best live items of each row: all above the k-th largest logit, and some equal to it.

    Which of the equal ones belong is never asked: sums take them ``inside`` and ``outside`` times.
    """

    pivot: Tensor  # [...] the k-th largest logit, 0 where no item is live
    next: Tensor  # [...] the (k+1)-th largest
    above: Tensor  # [..., n_r] bool
    below: Tensor  # [..., n_r] bool
    inside: Tensor  # [...] int64, how many items at the pivot are among the k best
    outside: Tensor  # [...] int64, how many are not


def _ordered(values: Tensor) -> Tensor:
    """int64 keys in the order of the floats: their bits, those of negative ones complemented."""
    short = values.dtype == torch.float32
    bits = (values + 0.0).view(torch.int32 if short else torch.int64).to(torch.int64)  # no -0
    return bits ^ ((bits >> 63) & (0x7FFFFFFF if short else 0x7FFFFFFFFFFFFFFF))


def _unordered(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """The floats of ``_ordered``'s keys."""
    short = dtype == torch.float32
    bits = keys ^ ((keys >> 63) & (0x7FFFFFFF if short else 0x7FFFFFFFFFFFFFFF))
    return (bits.to(torch.int32) if short else bits).view(dtype)


def _kth_largest(rows: Rows, ranks: Ranks) -> Tensor:
    """The k-th largest live logit of the whole row, exactly: 15 counts a round of 4 bits.

    The largest key that at least k items reach is found digit by digit, so the number of rounds is
    8 in float32 and 16 in float64, whatever the logits.
    """
    theta = torch.where(rows.live, rows.theta, -torch.inf)
    keys = _ordered(theta.sort(-1).values)
    width = 32 if theta.dtype == torch.float32 else 64
    steps = torch.arange(1, 1 << _DIGIT, device=keys.device)
    found = torch.full_like(rows.k, -(1 << (width - 1)))
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        thresholds = found.unsqueeze(-1) + (steps << shift)
        reached = keys.shape[-1] - torch.searchsorted(keys, thresholds)
        enough = ranks.total(reached) >= rows.k.unsqueeze(-1)
        found = found + (enough.sum(-1) << shift)
    pivot = _unordered(found, theta.dtype)
    return torch.where(rows.live_count > 0, pivot, torch.zeros_like(pivot))


def best_items(rows: Rows, ranks: Ranks) -> Best:
    """The k best live items of each row: 10 all-reduces in float32, 18 in float64."""
    pivot = _kth_largest(rows, ranks)
    at = pivot.unsqueeze(-1)
    above, below = rows.live & (rows.theta > at), rows.live & (rows.theta < at)
    equal = rows.live & (rows.theta == at)
    counts = ranks.total(torch.stack([above.sum(-1), equal.sum(-1)], -1))
    inside = rows.k - counts[..., 0]
    outside = counts[..., 1] - inside
    lower = torch.where(below, rows.theta, -torch.inf)
    none = torch.full_like(at, -torch.inf)  # a rank may have no items
    highest = ranks.largest(torch.cat([lower, none], -1).amax(-1))
    second = torch.where((outside > 0) | (rows.live_count == 0), pivot, highest)
    return Best(pivot, second, above, below, inside, outside)
