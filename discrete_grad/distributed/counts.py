# SPDX-License-Identifier: Apache-2.0
"""How many of the k items each rank takes: an exact joint draw from little communication.

With S_r the sum of rank r's tilted Bernoulli variables, the counts have the law of (S_1 .. S_W)
given that their sum is k. Each rank sends its characteristic function at the nodes of a grid of its
own; from it the first rank has every P(S_r = c), combines the ranks pairwise in a tree, draws the
counts down the tree by inversion, and tells them to all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from discrete_grad.distributed.contour import Law, log_phi, node_grid
from discrete_grad.distributed.ranks import Ranks
from discrete_grad.reference.contour import node_rule
from discrete_grad.reference.items import tilt_items
from discrete_grad.reference.philox import uniform_row
from discrete_grad.reference.sums import wide_sum

__all__ = ["Parts", "characteristic", "draw_counts", "part_laws", "rank_counts"]

# A rank's count may lie 8 standard deviations (and 9 more items) from its mean on either side, so
# its grid is twice as fine as that of a row, whose count is at the mean. Under all variances at
# most 43 nodes with m >= 1 are kept.
_PART_RULE = node_rule(torch.float64)._replace(slope=16.0, offset=18.0, most=43)
_TOLD = 3 + 2 * _PART_RULE.most
_SPLIT = 0  # the purpose of the random numbers, as in reference.sampling
# Counts are drawn in pieces of about this many numbers, to bound the memory.
_PIECE = 1 << 22


class Parts(NamedTuple):
    """The laws of the sums of P parts of each of R rows."""

    law: Tensor  # [R, P, w] float64, P(sum = lowest + j); 0 where that is below 0 or above most
    lowest: Tensor  # [R, P] int64
    most: Tensor  # [R, P] int64, the number of live items


def _supported(law: Tensor, lowest: Tensor, most: Tensor) -> Parts:
    """Rounding leaves a trace of probability where there is none: it must never be drawn."""
    counts = lowest.unsqueeze(-1) + torch.arange(law.shape[-1], device=law.device)
    possible = (counts >= 0) & (counts <= most.unsqueeze(-1)) & (law > 0)
    return Parts(torch.where(possible, law, 0.0), lowest, most)


def characteristic(law: Law) -> Tensor:
    """What a rank tells of the sum of its own items, ``[..., 89]`` float64.

    M, the lowest count of its window, the number of live items, |phi| and arg phi at the nodes.
    Reads on the host how many nodes are kept, half of them in long rows.
    """
    rows = law.rows._replace(theta=law.rows.theta.double())
    items = tilt_items(rows, law.state.tilt)
    live = rows.live.sum(-1)
    nodes = node_grid(wide_sum(items.variance), live, _PART_RULE)
    kept = int(nodes.kept.sum(-1).amax()) if live.numel() else 0
    nodes = nodes._replace(
        m=nodes.m[:kept], half=nodes.half[..., :kept], kept=nodes.kept[..., :kept]
    )
    modulus, angle = log_phi(items, nodes.half)
    # M counts around the mean, moved to lie among the possible ones: what is outside aliases.
    around = wide_sum(items.q).round().to(torch.int64) - (nodes.size - 1) // 2
    lowest = torch.minimum(around.clamp(min=0), live - (nodes.size - 1))
    # Counted from the lowest: whole turns and the angle of that shift, reduced in integers.
    turns = (rows.live & (items.sign < 0)).sum(-1) - lowest
    phase = turns.unsqueeze(-1) * nodes.m % nodes.size.unsqueeze(-1)
    angle = angle + phase * (2 * math.pi / nodes.size.double()).unsqueeze(-1)
    modulus = torch.where(nodes.kept, modulus.exp(), 0.0)
    head = torch.stack([nodes.size, lowest, live], -1).double()
    rest = (0, _PART_RULE.most - kept)
    return torch.cat([head, *(torch.nn.functional.pad(x, rest) for x in (modulus, angle))], -1)


def part_laws(told: Tensor) -> Parts:
    """The laws of the parts, from ``characteristic`` of each, ``[R, P, 89]``.

    Reads the widest M on the host.
    """
    count, lowest, most = told[..., :3].to(torch.int64).unbind(-1)
    modulus, angle = told[..., 3:].chunk(2, -1)
    j = torch.arange(int(count.max()), device=told.device)
    size = count.unsqueeze(-1)
    law = torch.ones([*count.shape, j.numel()], dtype=told.dtype, device=told.device)
    for m in range(1, modulus.shape[-1] + 1):
        phase = angle[..., m - 1 : m] - (j * m % size) * (2 * math.pi / size.double())
        law = law + 2 * modulus[..., m - 1 : m] * phase.cos()
    return _supported(torch.where(j < size, law / size, 0.0), lowest, most)


def _combine(parts: Parts) -> Parts:
    """The sums of neighbouring parts: w becomes 2 w - 1."""
    width = 2 * parts.law.shape[-1] - 1
    transformed = torch.fft.rfft(parts.law, n=width)
    law = torch.fft.irfft(transformed[:, 0::2] * transformed[:, 1::2], n=width)
    lowest, most = (field[:, 0::2] + field[:, 1::2] for field in parts[1:])
    return _supported(law, lowest, most)


def _divide(parts: Parts, row: Tensor, total: Tensor, uniform: Tensor) -> Tensor:
    """Each total of a pair of parts, divided between the two.

    Args:
        parts: 2 h of each row.
        row: ``[D]``, the row of each draw.
        total: ``[D, h]`` int64.
        uniform: ``[D, h]``.

    Returns:
        ``[D, 2 h]`` int64.
    """
    width = parts.law.shape[-1]
    index = torch.arange(width, device=row.device)
    left, right = parts.law[row, 0::2], parts.law[row, 1::2]
    first = parts.lowest[row, 0::2].unsqueeze(-1) + index
    other = total.unsqueeze(-1) - first - parts.lowest[row, 1::2].unsqueeze(-1)
    possible = (other >= 0) & (other < width)
    chance = left * torch.where(possible, right.gather(-1, other.clamp(0, width - 1)), 0.0)
    cumulative = chance.cumsum(-1)
    at = (cumulative <= uniform.unsqueeze(-1) * cumulative[..., -1:]).sum(-1)
    last = torch.where(chance > 0, index, 0).amax(-1)
    taken = first.gather(-1, torch.minimum(at, last).unsqueeze(-1)).squeeze(-1)
    return torch.stack([taken, total - taken], -1).flatten(-2)


def draw_counts(parts: Parts, k: Tensor, num_samples: int, seed: Tensor) -> Tensor:
    """Counts of the parts of each row given that they sum to k: exact, by inversion down a tree.

    Args:
        parts: of each rank.
        k: ``[R]`` int64.
        num_samples: draws of each row.
        seed: int64 [1].

    Returns:
        ``[num_samples, R, P]`` int64.
    """
    rows, size, width = parts.law.shape
    leaves = max(2, 1 << (size - 1).bit_length())
    more = leaves - size  # parts of no items
    nothing = torch.nn.functional.pad(parts.law.new_ones(rows, more, 1), (0, width - 1))
    counts = [torch.nn.functional.pad(field, (0, more)) for field in parts[1:]]
    levels = [Parts(torch.cat([parts.law, nothing], 1), *counts)]
    while levels[-1].law.shape[1] > 2:
        levels.append(_combine(levels[-1]))

    pieces = []
    stream = torch.arange(num_samples * rows, device=k.device)
    for draws in stream.split(max(1, _PIECE // (leaves * width))):
        row = draws % rows
        uniform = uniform_row(seed, draws, _SPLIT, 0, leaves)
        total = k[row].unsqueeze(-1)
        for level in reversed(levels):
            pairs = total.shape[-1]
            total = _divide(level, row, total, uniform[:, pairs : 2 * pairs])
        pieces.append(total[:, :size])
    return torch.cat(pieces).reshape(num_samples, rows, size)


def rank_counts(law: Law, num_samples: int, seed: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """How many live items this rank takes in each draw, and the draw's seed on all ranks.

    One all-gather of 89 numbers a row and one broadcast of a number per rank and draw.

    Args:
        law: of rows ``[...]``.
        num_samples: S.
        seed: int64 [1]; the first rank's is used.

    Returns:
        ``[S, ...]`` int64, and int64 [1].
    """
    batch = law.rows.k.shape
    told = ranks.everyones(characteristic(law).reshape(batch.numel(), _TOLD)).movedim(0, 1)
    if ranks.rank == 0 and batch.numel() and num_samples:
        drawn = draw_counts(part_laws(told), law.rows.k.reshape(-1), num_samples, seed)
    else:
        shape = [num_samples, batch.numel(), ranks.size]
        drawn = torch.zeros(shape, dtype=torch.int64, device=seed.device)
    decided = ranks.firsts(torch.cat([drawn.reshape(-1), seed]))
    mine = decided[:-1].reshape(drawn.shape)[..., ranks.rank]
    return mine.reshape(num_samples, *batch), decided[-1:]
