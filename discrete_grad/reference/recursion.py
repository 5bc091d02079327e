# SPDX-License-Identifier: Apache-2.0
"""The recursion over the items as a balanced tree of polynomial products, in any semiring.

The j-th coefficient of a node's polynomial tells of the ways to take j of the items below it;
leaves are p_i + q_i z, and a parent is the product of its children, cut off at degree k. Depth
O(log n), work and memory O(nk).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .items import Items, best_score, centre, keep_in_unit_interval, tilt_items
from .rows import Rows
from .semirings import LOG, Semiring
from .tilt import solve_tilt

__all__ = ["build_tree", "derivative", "descend", "leaves", "log_leaves", "marginals_by_recursion"]

Chooser = Callable[[Tensor, int], Tensor]


def leaves(absent: Tensor, present: Tensor) -> Tensor:
    """Polynomials of degree 1, ``[..., n, 2]``."""
    return torch.stack([absent, present], dim=-1)


def log_leaves(items: Items) -> Tensor:
    """(log p_i, log q_i) of items whose w is 0 only where they are surely absent or present."""
    shared = torch.log1p(-items.w)  # -softplus(-|x|)
    zero = torch.zeros_like(shared)
    large = items.sign < 0
    return leaves(
        shared - torch.where(large, items.x, zero), shared + torch.where(large, zero, items.x)
    )


def _toeplitz(b: Tensor, rows: int, columns: int, zero: float) -> Tensor:
    """``b[j - a]`` at row j and column a, the semiring's zero where b has no such coefficient."""
    j = torch.arange(rows, device=b.device).unsqueeze(-1)
    a = torch.arange(columns, device=b.device)
    index = j - a
    outside = (index < 0) | (index >= b.shape[-1])
    picked = b[..., index.clamp(0, b.shape[-1] - 1)]
    return torch.where(outside, torch.full((), zero, dtype=b.dtype, device=b.device), picked)


def build_tree(semiring: Semiring, leaf: Tensor, most: int) -> list[Tensor]:
    """All levels of the tree, leaves first.

    Args:
        semiring: where coefficients live.
        leaf: ``[..., n, 2]``.
        most: the largest degree kept.

    Returns:
        Level l is ``[..., nodes, degree + 1]``, with a power of two of nodes; the last has one.
    """
    count = leaf.shape[-2]
    width = 1 << max(count - 1, 0).bit_length()
    if width > count:
        spare = leaf[..., :1, :] if count else leaf.new_zeros(*leaf.shape[:-2], 1, 2)
        unit = semiring.unit(spare)
        leaf = torch.cat([leaf, unit.expand(*leaf.shape[:-2], width - count, 2)], dim=-2)
    levels = [leaf[..., : most + 1]]
    while levels[-1].shape[-2] > 1:
        left, right = levels[-1][..., 0::2, :], levels[-1][..., 1::2, :]
        degree = min(2 * (left.shape[-1] - 1), most)
        table = _toeplitz(right, degree + 1, left.shape[-1], semiring.zero)
        levels.append(semiring.plus(semiring.times(left.unsqueeze(-2), table), -1))
    return levels


def derivative(semiring: Semiring, levels: list[Tensor], at_root: Tensor) -> Tensor:
    """The derivative of <at_root, root> with respect to every leaf's coefficients.

    The outside pass: the derivative with respect to a child's a-th coefficient is
    sum_j (derivative at the parent's j) times (the sibling's (j - a)-th coefficient).

    Returns:
        ``[..., leaves, 2]``, the same shape as ``levels[0]``.
    """
    outer = at_root.unsqueeze(-2)
    for level in reversed(levels[:-1]):
        rows, columns = outer.shape[-1], level.shape[-1]
        parts = []
        for sibling in (level[..., 1::2, :], level[..., 0::2, :]):
            table = _toeplitz(sibling, rows, columns, semiring.zero)
            parts.append(semiring.plus(semiring.times(outer.unsqueeze(-1), table), -2))
        outer = torch.stack(parts, dim=-2).flatten(-3, -2)
    return outer


def descend(semiring: Semiring, levels: list[Tensor], target: Tensor, choose: Chooser) -> Tensor:
    """Walk down the tree: with target j at a node, give a to its left child and j - a to its right.

    Args:
        semiring: the one the tree was built in.
        levels: from ``build_tree``.
        target: int64, ``[..., ]``: broadcasts with the tree's rows.
        choose: maps the weights ``[..., nodes, a]`` (Left[a] times Right[j - a]) and the heap
            number of the first of those nodes (the root is 1, the children of h are 2h and 2h+1)
            to the a chosen.

    Returns:
        int64 ``[..., leaves]``, 0 or 1.
    """
    targets = target.unsqueeze(-1)
    for level in reversed(levels[:-1]):
        left, right = level[..., 0::2, :], level[..., 1::2, :]
        a = torch.arange(level.shape[-1], device=level.device)
        rest = targets.unsqueeze(-1) - a
        outside = (rest < 0) | (rest >= right.shape[-1])
        shape = torch.broadcast_shapes(right.shape, rest.shape)
        index = rest.clamp(0, right.shape[-1] - 1).expand(shape)
        weight = semiring.times(left, right.expand(shape).gather(-1, index))
        weight = torch.where(outside, semiring.zero, weight)
        given = choose(weight, weight.shape[-2])
        targets = torch.stack([given, targets - given], dim=-1).flatten(-2)
    return targets


def marginals_by_recursion(rows: Rows, most: int, semiring: Semiring) -> tuple[Tensor, Tensor]:
    """Marginals of the live items (0 elsewhere) and log Z, by the tree and its derivative.

    mu_i = q_i dP(S = k)/dq_i / P(S = k): no subtraction, so the smallest marginals keep their
    relative accuracy as far as the semiring's range goes.

    Args:
        rows: ``[..., n]``.
        most: an upper bound of k over the rows.
        semiring: REAL or LOG.
    """
    n = rows.theta.shape[-1]
    items = tilt_items(rows, solve_tilt(rows))
    logarithmic = semiring is LOG
    leaf = leaves(items.p, items.q)
    if logarithmic:
        absent = leaves(torch.zeros_like(items.w), torch.full_like(items.w, -torch.inf))
        leaf = torch.where(rows.live.unsqueeze(-1), log_leaves(items), absent)
    # In float64 for float32 rows too: the tree does not centre, so its derivative cancels.
    leaf = leaf.to(torch.float64)
    levels = build_tree(semiring, leaf, max(1, min(most, n)))

    root = levels[-1].squeeze(-2)
    probability = root.gather(-1, rows.k.unsqueeze(-1))
    at_k = torch.arange(root.shape[-1], device=root.device) == rows.k.unsqueeze(-1)
    inverse = -probability if logarithmic else probability.reciprocal()
    outer = derivative(semiring, levels, torch.where(at_k, inverse, semiring.zero))
    without = outer[..., :n, 1]  # P(S - X_i = k - 1) / P(S = k)
    if logarithmic:
        exponent = torch.where(rows.live, leaf[..., 1] + without, -torch.inf)
        marginals, log_probability = exponent.exp(), probability
    else:
        marginals, log_probability = leaf[..., 1] * without, probability.log()
    marginals = torch.where(rows.live, marginals, torch.zeros_like(marginals))
    log_partition = best_score(rows, items) + log_probability.squeeze(-1)
    marginals = keep_in_unit_interval(marginals)
    return centre(marginals, marginals * (1 - marginals), rows), log_partition
