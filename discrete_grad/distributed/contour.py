# SPDX-License-Identifier: Apache-2.0
"""The tilted contour of sharded rows: log Z, marginals, and their vector-Jacobian product.

The formulas of ``reference.contour``, whose sums over items are local sums in float64 and an
all-reduce. Node by node, so that memory is O(n_r) whatever the number of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from discrete_grad.distributed.ranks import Ranks
from discrete_grad.distributed.rows import Best, Kinds, best_items, classify, split
from discrete_grad.distributed.tilt import solve_tilt
from discrete_grad.reference.contour import NodeRule, Phi, node_rule, weights
from discrete_grad.reference.items import Items, tilt_items
from discrete_grad.reference.rows import Rows
from discrete_grad.reference.sums import accurate_sum, wide_sum

__all__ = ["Law", "Nodes", "RowState", "log_phi", "node_grid", "shares", "solve", "vjp"]


class RowState(NamedTuple):
    """What is kept of each row besides its logits: [...] and [..., J] tensors only."""

    kinds: Kinds
    tilt: Tensor  # [...] float64
    variance: Tensor  # [...] V, float64
    cot: Tensor  # [..., J] cot(t/2)
    real: Tensor  # [..., J] of the normalised weights
    imag: Tensor

    def nodes(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """cot, real and imag of one node after the other, [..., 1] each."""
        stacked = torch.stack([self.cot, self.real, self.imag]).unsqueeze(-1)
        for node in stacked.unbind(-2):
            yield node[0], node[1], node[2]


class Law(NamedTuple):
    """The k-subset law of sharded rows."""

    rows: Rows
    items: Items
    best: Best
    state: RowState
    score: Tensor  # [...] sum of the logits of the best subset; float64
    rest: Tensor  # [...] log Z - score; float64


class Nodes(NamedTuple):
    """The nodes t_m of each row."""

    m: Tensor  # [J] int64
    size: Tensor  # [...] int64, M
    half: Tensor  # [..., J] t / 2, pi/4 where there is no node
    kept: Tensor  # [..., J] bool


def node_grid(variance: Tensor, live_count: Tensor, rule: NodeRule) -> Nodes:
    """The nodes that ``rule`` keeps at that variance: those of ``reference.contour``."""
    odd = 2 * torch.ceil((rule.slope * variance.sqrt() + rule.offset - 1) / 2) + 1
    count = torch.minimum(odd.to(torch.int64), live_count + 1 + live_count % 2)
    m = torch.arange(1, rule.most + 1, device=variance.device)
    inside = 2 * m < count.unsqueeze(-1)
    half = torch.where(inside, m * (math.pi / count.double()).unsqueeze(-1), math.pi / 4)
    kept = inside & (2 * variance.unsqueeze(-1) * half.sin().square() <= rule.cut)
    return Nodes(m, count, half, kept)


def log_phi(items: Items, half: Tensor) -> tuple[Tensor, Tensor]:
    """log |phi| and arg phi less its whole turns, [..., J] in float64, of these items alone."""
    dtype = items.w.dtype
    spread = -4 * items.w * (1 - items.w)
    moduli, angles = [], []
    for node in half.unbind(-1):
        sine = (2 * node).sin().to(dtype).unsqueeze(-1)
        sin2 = node.sin().square().to(dtype).unsqueeze(-1)
        moduli.append(0.5 * wide_sum(torch.log1p(spread * sin2)))
        turn = torch.atan(items.w * sine / (1 - 2 * items.w * sin2))
        angles.append(wide_sum(items.sign * turn))
    if not moduli:
        return torch.zeros_like(half), torch.zeros_like(half)
    return torch.stack(moduli, -1), torch.stack(angles, -1)


def solve(logits: Tensor, k: int | Tensor, ranks: Ranks) -> Law:
    """The law of each row: 17 all-reduces in float32, 25 in float64."""
    kinds = classify(logits, k, ranks)
    rows = split(logits, kinds)
    best = best_items(rows, ranks)
    tilt = solve_tilt(rows, best, ranks)
    dtype = rows.theta.dtype
    items = tilt_items(rows, tilt.to(dtype))

    # log Z without cancellation, as reference.items.best_score; the items at the pivot, of which it
    # is not known which are among the best, come together below.
    high = items.sign < 0
    wrong_side = (best.above & ~high) | (best.below & high)
    size = torch.where(wrong_side, items.x.abs(), torch.zeros_like(items.x))
    chosen = torch.where(best.above | rows.taken, rows.theta, torch.zeros_like(rows.theta))
    sums = (
        wide_sum(items.variance),
        (rows.live & high).sum(-1).double(),
        wide_sum(size - torch.log1p(-items.w)),
        accurate_sum(chosen),
    )
    variance, turns, rest, score = ranks.total(torch.stack(sums, -1)).unbind(-1)
    edge = (best.pivot + tilt.to(dtype)).double()
    at_pivot = torch.where(edge > 0, best.outside, best.inside) * edge.abs()
    rest = rest + torch.where(rows.live_count > 0, at_pivot, 0.0)
    score = score + best.inside * best.pivot.double()

    nodes = node_grid(variance, rows.live_count, node_rule(dtype))
    modulus, angle = ranks.total(torch.stack(log_phi(items, nodes.half))).unbind()
    phi = Phi(
        m=nodes.m.expand(nodes.half.shape),
        nodes=nodes.size,
        turns=turns.to(torch.int64),
        cot=(nodes.half.cos() / nodes.half.sin()).to(dtype),
        weight=torch.where(nodes.kept, 2 * modulus.exp(), 0.0),
        angle=angle,
    )
    real, imag, total = weights(phi, rows.k)
    state = RowState(
        kinds=kinds,
        tilt=tilt,
        variance=variance,
        cot=phi.cot,
        real=(real / total.unsqueeze(-1)).to(dtype),
        imag=(imag / total.unsqueeze(-1)).to(dtype),
    )
    log_probability = total.log() - nodes.size.double().log()
    return Law(rows, items, best, state, score, rest + log_probability)


def _deviation(items: Items, cot: Tensor) -> tuple[Tensor, Tensor]:
    """d_im of one node, real and imaginary [..., n_r]; see ``reference.contour``."""
    scale = 2 * items.variance / (items.skew * items.skew + cot * cot)
    return scale * items.skew, scale * cot


def shares(items: Items, state: RowState) -> tuple[Tensor, Tensor]:
    """q_i and r_i of the live items: mu_i = q_i + r_i. Without communication."""
    r = torch.zeros_like(items.w)
    for cot, real, imag in state.nodes():
        d_real, d_imag = _deviation(items, cot)
        r = r + (real * d_real - imag * d_imag)
    return items.q, r


def vjp(logits: Tensor, state: RowState, grad: Tensor, ranks: Ranks) -> Tensor:
    """Cov(z) grad at this rank's items, 0 at settled ones: 2 all-reduces, of 1 and 2 J + 1 numbers.

    Args:
        logits: ``[..., n_r]``.
        state: of the whole rows.
        grad: ``[..., n_r]``.

    Returns:
        ``[..., n_r]`` in the dtype that is computed in.
    """
    rows = split(logits, state.kinds)
    items = tilt_items(rows, state.tilt.to(rows.theta.dtype))
    random = state.variance > 0
    zero = torch.zeros_like(items.w)
    grad = torch.where(rows.live, grad.to(zero.dtype), zero)
    mean = ranks.total(wide_sum(items.variance * grad)) / torch.where(random, state.variance, 1.0)
    g = torch.where(rows.live, grad - mean.to(grad.dtype).unsqueeze(-1), zero)

    q, r = shares(items, state)
    sums = [wide_sum(r * g)]
    for cot, _, _ in state.nodes():
        sums += [wide_sum(g * part) for part in _deviation(items, cot)]
    totals = ranks.total(torch.stack(sums, -1)).to(grad.dtype).unsqueeze(-1)
    moved, *sums_d = totals.unbind(-2)

    mu = q + r
    product = mu * (1 - mu) * g - r * (moved - r * g)
    for m, (cot, real, imag) in enumerate(state.nodes()):
        d_real, d_imag = _deviation(items, cot)
        other_real = sums_d[2 * m] - g * d_real
        other_imag = sums_d[2 * m + 1] - g * d_imag
        product = product + real * (d_real * other_real - d_imag * other_imag)
        product = product - imag * (d_real * other_imag + d_imag * other_real)
    return torch.where(rows.live & random.unsqueeze(-1), product, zero)
