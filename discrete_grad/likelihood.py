# SPDX-License-Identifier: Apache-2.0
"""Log-probability, entropy and KL divergence of the k-subset law, without cancellation.

The textbook forms, log p(S) = <theta, 1_S> - log Z and H = log Z - <theta, mu>, subtract numbers of
the size of k |theta|: a shift of all logits by 1e4 (which changes neither) or a single logit of 1e8
would cost float32 all its digits. Here the row is first brought to a standard form, in which log Z
is as small as the answer:

- items whose choice is certain to far beyond working precision are fixed (set to +inf or -inf), and
  enter by terms of their own, exact for them;
- a constant c, without a gradient, is subtracted from all others: the mean logit of the items
  chosen among them, so that <theta - c, mu> = 0 and log Z(theta - c) = H.

Arguments are checked by the callers. 0 * inf = 0 at excluded and forced items throughout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from discrete_grad import ops

# Distance from the row's centre of variance beyond which an item is fixed. An item at distance d is
# undecided with probability about exp(-d) times the width of the row: even 1e7 items at 80 move an
# entropy by less than 1e-20.
_CERTAIN = 80.0


def working(logits: Tensor) -> Tensor:
    """16-bit logits in float32, others as they are."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def returned(value: Tensor, logits: Tensor) -> Tensor:
    """``value`` in the dtype of ``logits``; inside autocast in float32, as the ops return it."""
    if torch.is_autocast_enabled(logits.device.type):
        return value
    return value.to(logits.dtype)


def _finite_or_zero(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=torch.nan, posinf=0.0, neginf=0.0)


class _Standard(NamedTuple):
    """A row's first pass: what is certain in it (no gradients). All [..., n]."""

    marginals: Tensor
    fixed: Tensor  # bool: items that are certain
    chosen: Tensor  # bool: whether the item is more likely in than out


def _standard(logits: Tensor, k: int | Tensor) -> _Standard:
    logits = logits.detach()
    marginals, _ = ops.marginals(logits, k)
    spread = marginals - marginals * marginals
    variance = spread.sum(-1, keepdim=True)
    centre = (spread * _finite_or_zero(logits)).sum(-1, keepdim=True) / variance
    # variance == 0: centre is 0/0, and the row has one subset to working precision.
    fixed = ((logits - centre).abs() > _CERTAIN) | (variance == 0)
    return _Standard(marginals, fixed, marginals > 0.5)


def _centred(logits: Tensor, marginals: Tensor, fixed: Tensor) -> Tensor:
    """``logits`` less the mean logit of those chosen among the items that are not fixed."""
    weights = marginals.masked_fill(fixed, 0.0)
    values = _finite_or_zero(logits.detach())
    mean = (weights * values).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    return logits - mean.nan_to_num(nan=0.0)  # 0/0: no free item is ever chosen


def _fix(logits: Tensor, fixed: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(fixed, torch.where(chosen, torch.inf, -torch.inf), logits)


def log_prob(logits: Tensor, k: int | Tensor, subset: Tensor) -> Tensor:
    """log p(subset) in the working dtype of ``logits``."""
    logits = working(logits)
    subset = subset.to(logits.dtype)
    marginals, fixed, chosen = _standard(logits, k)
    centred = _centred(logits, marginals, fixed)
    _, log_partition = ops.marginals(_fix(centred, fixed, chosen), k)
    # Fixed items count only where the subset differs from them: an item that it leaves out, though
    # it is certain to be chosen, gives its logit back.
    differing = torch.where(fixed & chosen, subset - 1, subset)
    value = (_finite_or_zero(centred) * differing).sum(-1) - log_partition
    outside = ((subset != 0) & (subset != 1)).any(-1) | (subset.sum(-1) != k)
    impossible = torch.where(subset == 0, logits == torch.inf, logits == -torch.inf).any(-1)
    return torch.where((outside | impossible) & ~log_partition.isnan(), -torch.inf, value)


class _Entropy(NamedTuple):
    value: Tensor  # [...]
    marginals: Tensor  # [..., n]
    standard: _Standard


def _entropy(logits: Tensor, k: int | Tensor) -> _Entropy:
    standard = _standard(logits, k)
    centred = _centred(logits, standard.marginals, standard.fixed)
    marginals, log_partition = ops.marginals(_fix(centred, standard.fixed, standard.chosen), k)
    value = log_partition - (centred.masked_fill(standard.fixed, 0.0) * marginals).sum(-1)
    return _Entropy(value, marginals, standard)


def entropy(logits: Tensor, k: int | Tensor) -> Tensor:
    """H = log Z - <theta, mu> in the working dtype of ``logits``; its gradient is -Cov theta."""
    return _entropy(working(logits), k).value


def kl_divergence(logits_p: Tensor, logits_q: Tensor, k: int | Tensor) -> Tensor:
    """KL(p || q) = log Z_q - <theta_q, mu_p> - H(p), in the working dtype; both of one shape."""
    logits_p, logits_q = working(logits_p), working(logits_q)
    p = _entropy(logits_p, k)
    q = _standard(logits_q, k)
    # What q is certain of and p is not is where the divergence comes from: it stays free.
    agreed = q.fixed & p.standard.fixed & (q.chosen == p.standard.chosen)
    fixed = agreed | logits_q.isinf()
    centred = _centred(logits_q, p.standard.marginals, fixed)
    _, log_partition = ops.marginals(_fix(centred, fixed, q.chosen), k)
    cross = log_partition - (centred.masked_fill(fixed, 0.0) * p.marginals).sum(-1)

    value = cross - p.value
    return torch.where(_escapes(logits_p, logits_q, k) & ~value.isnan(), torch.inf, value)


def _escapes(logits_p: Tensor, logits_q: Tensor, k: int | Tensor) -> Tensor:
    """Rows where p gives a positive probability, however small, to a subset that q excludes.

    Decided by the structure of the row, not by marginals that may have been rounded to 0 or 1.
    """
    in_every, in_none = logits_p == torch.inf, logits_p == -torch.inf
    forced, live = in_every.sum(-1), (~in_none).sum(-1)
    always = in_every | ((live == k).unsqueeze(-1) & ~in_none)
    never = in_none | ((forced == k).unsqueeze(-1) & ~in_every)
    excluded = (logits_q == -torch.inf) & ~never
    missed = (logits_q == torch.inf) & ~always
    return (excluded | missed).any(-1)
