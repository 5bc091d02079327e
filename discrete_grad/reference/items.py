# SPDX-License-Identifier: Apache-2.0
"""The items of a row under its tilt, and the part of log Z that is not a probability.

Under a tilt s the items are independent Bernoulli(q_i), q_i = sigmoid(theta_i + s), and

    log Z = sum_i softplus(theta_i + s) - k s + log P(S = k),      S = sum_i X_i,

for every s; what is left to compute is P(S = k), by the contour or by the recursion.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rows import Rows
from .sums import accurate_sum, wide_sum
from .tilt import highest

__all__ = ["Items", "best_score", "centre", "keep_in_unit_interval", "tilt_items"]


class Items(NamedTuple):
    """The tilted items, all told by w = min(q, p): neither q nor p is ever 1 minus the other."""

    x: Tensor  # [..., n] theta + s
    sign: Tensor  # [..., n] -1 where q > 1/2, else +1
    w: Tensor  # [..., n] min(q, p), 0 at items that are not live

    @property
    def q(self) -> Tensor:
        """P(X_i = 1); 0 at items that are not live."""
        return torch.where(self.sign < 0, 1 - self.w, self.w)

    @property
    def p(self) -> Tensor:
        """P(X_i = 0); 1 at items that are not live."""
        return torch.where(self.sign < 0, self.w, 1 - self.w)

    @property
    def variance(self) -> Tensor:
        """q p."""
        return self.w * (1 - self.w)

    @property
    def skew(self) -> Tensor:
        """delta = q - p."""
        return -self.sign * (1 - 2 * self.w)


def tilt_items(rows: Rows, s: Tensor) -> Items:
    """The items of ``rows`` under the tilt ``s`` ([...])."""
    largest = torch.finfo(s.dtype).max
    x = (rows.theta + s.unsqueeze(-1)).clamp(-largest, largest)  # never infinite
    one = torch.ones((), dtype=x.dtype, device=x.device)
    sign = torch.where(rows.live & (x > 0), -one, one)
    return Items(x, sign, torch.where(rows.live, (sign * x).sigmoid(), 0 * one))


def best_score(rows: Rows, items: Items) -> Tensor:
    """sum_i softplus(x_i) - k s without its cancellation, for the finite items of each row.

    The k best items take softplus(x) = x + softplus(-x): their k s cancels in exact arithmetic,
    and what remains is the largest score of a subset plus small positive terms. Written with
    softplus(-|x|) = -log(1 - w).
    """
    best = highest(rows)
    score = accurate_sum(torch.where(best | rows.taken, rows.theta, torch.zeros_like(rows.theta)))
    wrong_side = rows.live & (best != (items.sign < 0))
    size = torch.where(wrong_side, -items.sign * items.x, torch.zeros_like(items.x))  # |x|
    return score + wide_sum(size - torch.log1p(-items.w))


def keep_in_unit_interval(marginals: Tensor) -> Tensor:
    """Clamp away the rounding beyond 0 and 1 without touching the derivative."""
    return marginals + (marginals.clamp(0, 1) - marginals).detach()


def centre(marginals: Tensor, variance: Tensor, rows: Rows) -> Tensor:
    """The same marginals, whose vector-Jacobian product centres the vector it is given.

    sum_i mu_i = k identically, so adding c_i (k - sum mu) with constants c_i that sum to 1 changes
    nothing; but its derivative turns g into g - <c, g> before anything else. With c = q p / V this
    removes the part of g along the all-ones vector, which the covariance annihilates and which
    float32 would otherwise have to cancel.
    """
    variance = variance.detach()
    total = wide_sum(variance).unsqueeze(-1)
    share = variance / torch.where(total > 0, total, torch.ones_like(total))
    gap = rows.k.unsqueeze(-1) - wide_sum(marginals).unsqueeze(-1)
    return marginals + (share * (gap - gap.detach())).to(marginals.dtype)
