# SPDX-License-Identifier: Apache-2.0
"""The tilt: the shift s of a row's logits at which sum_i sigmoid(theta_i + s) = k.

Every formula of the contour holds for any s, so the tilt is a constant to all derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import Rows

__all__ = ["highest", "solve_tilt"]

# On 3,000 adversarial rows (n to 20,000; gaps, cliffs, ties, heavy tails) the worst error of
# sum q after 3, 4 and 5 steps was 6e-4, 2e-8 and rounding; the sixth is reserve.
_STEPS = 6


def _sorted_live(rows: Rows) -> tuple[Tensor, Tensor]:
    """The live logits of each row in descending order, then -inf, and the order itself."""
    theta = torch.where(rows.live, rows.theta.detach(), -torch.inf)
    values, order = theta.sort(dim=-1, descending=True, stable=True)
    return values, order


def highest(rows: Rows) -> Tensor:
    """``[..., n]`` bool: the k largest live items of each row, the lowest index first in a tie."""
    _, order = _sorted_live(rows)
    rank = torch.arange(order.shape[-1], device=order.device)
    first = rank < rows.k.unsqueeze(-1)
    return torch.zeros_like(rows.live).scatter(-1, order, first)


def _bracket(rows: Rows) -> tuple[Tensor, Tensor]:
    """Two tilts with sum q <= k at the first and sum q >= k at the second.

    With a and b the k-th and (k+1)-th largest logit and s = -(a+b)/2 + t, every one of the L-k
    lower items has q <= sigmoid(t - (a-b)/2), the k-th one has p >= sigmoid(-t - (a-b)/2), and
    sigmoid(t - c) / sigmoid(-t - c) lies on the far side of e^t from 1 for every c >= 0. So the
    root has -log(L-k) <= t <= log k: the bracket is O(log n) wide, however wide the gap.
    """
    values, _ = _sorted_live(rows)
    some = rows.live_count > 0
    last = max(values.shape[-1] - 1, 0)
    kth = (rows.k - 1).clamp(0, last).unsqueeze(-1)
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    a = torch.where(some, values.gather(-1, kth).squeeze(-1), zero)
    b = torch.where(some, values.gather(-1, rows.k.clamp(0, last).unsqueeze(-1)).squeeze(-1), zero)
    centre = -(0.5 * a + 0.5 * b)
    below = torch.where(some, rows.live_count - rows.k, 1).to(values.dtype).log()
    above = torch.where(some, rows.k, 1).to(values.dtype).log()
    return centre - below, centre + above


def solve_tilt(rows: Rows) -> Tensor:
    """The tilt of each row, ``[...]``, without a gradient; 0 where no item is live.

    With T the k best items, sum q = k says that the rest gains what T misses:

        h(s) = log sum_{i not in T} q_i - log sum_{i in T} p_i = 0.

    Both logarithms are monotone with slopes in [0, 1] up to sign, h is linear for equal logits and
    across a gap, and nothing cancels: Newton on h, on the bracket above, needs few steps even
    where sum q itself is flat.
    """
    if rows.theta.shape[-1] == 0:
        return rows.theta.new_zeros(rows.theta.shape[:-1])
    theta = rows.theta.detach()
    best = highest(rows)
    direction = torch.where(best, -torch.ones_like(theta), torch.ones_like(theta))
    low, high = _bracket(rows)
    s = 0.5 * low + 0.5 * high
    low, high = low - 1, high + 1  # a root at an end is approached from both sides
    zero = torch.zeros_like(theta)
    for _ in range(_STEPS):
        astray = (direction * (theta + s.unsqueeze(-1))).sigmoid()  # q of the rest, p of the best
        gained = torch.where(rows.live & ~best, astray, zero)
        missed = torch.where(best, astray, zero)
        gain, miss = gained.sum(-1), missed.sum(-1)
        h = gain.log() - miss.log()
        slope = (gained * (1 - astray)).sum(-1) / gain + (missed * (1 - astray)).sum(-1) / miss
        low = torch.where(h <= 0, s, low)
        high = torch.where(h >= 0, s, high)
        newton = s - h / slope
        usable = (newton >= low) & (newton <= high)  # false for NaN as well
        s = torch.where(usable, newton, 0.5 * low + 0.5 * high)
    return torch.where(rows.live.any(-1), s, torch.zeros_like(s))
