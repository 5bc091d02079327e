# SPDX-License-Identifier: Apache-2.0
"""The tilt of sharded rows: the s at which the sum of sigmoid(theta_i + s) over all ranks is k.

``reference.tilt`` with its sums taken over the ranks. Every decision comes from the sums alone, so
all ranks take the same ones, and the number of steps is fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad.distributed.ranks import Ranks
from discrete_grad.distributed.rows import Best
from discrete_grad.reference.rows import Rows
from discrete_grad.reference.sums import wide_sum

__all__ = ["solve_tilt"]

# The worst error of sum q after 4 steps is 2e-8 (reference.tilt); the contour is exact at any s and
# as cheap as can be within 0.3 sqrt(V) of the root.
_STEPS = 4


def solve_tilt(rows: Rows, best: Best, ranks: Ranks) -> Tensor:
    """The tilt of each row, ``[...]``, in float64; 0 where no item is live.

    Newton on h(s) = log sum_{i not in T} q_i - log sum_{i in T} p_i, T the k best items, on a
    bracket: 4 all-reduces of 4 numbers a row.
    """
    some = rows.live_count > 0
    centre = -(0.5 * best.pivot.double() + 0.5 * best.next.double())
    low = centre - torch.where(some, rows.live_count - rows.k, 1).double().log()
    high = centre + torch.where(some, rows.k, 1).double().log()
    s = 0.5 * low + 0.5 * high
    low, high = low - 1, high + 1
    zero = torch.zeros_like(rows.theta)
    for _ in range(_STEPS):
        shift = s.to(rows.theta.dtype)
        x = rows.theta + shift.unsqueeze(-1)
        astray = torch.where(best.above, -x, x).sigmoid()  # p above the pivot, q below it
        parts = [torch.where(side, astray, zero) for side in (best.below, best.above)]
        sums = [wide_sum(part) for part in parts]
        slopes = [wide_sum(part * (1 - astray)) for part in parts]
        totals = ranks.total(torch.stack([*sums, *slopes], -1))
        gain, miss, gain_slope, miss_slope = totals.unbind(-1)

        edge = (best.pivot + shift).double()
        q, p = edge.sigmoid(), (-edge).sigmoid()
        gain, miss = gain + best.outside * q, miss + best.inside * p
        slope = (gain_slope + best.outside * q * p) / gain + (
            miss_slope + best.inside * q * p
        ) / miss
        h = gain.log() - miss.log()
        low = torch.where(h <= 0, s, low)
        high = torch.where(h >= 0, s, high)
        newton = s - h / slope
        usable = (newton >= low) & (newton <= high)  # false for NaN as well
        s = torch.where(usable, newton, 0.5 * low + 0.5 * high)
    return torch.where(some, s, torch.zeros_like(s))
