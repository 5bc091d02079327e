# SPDX-License-Identifier: Apache-2.0
"""Exact samples of k-subsets: by halving with rejection for long rows, by the tree for short ones.

The algorithm, its random numbers and their order are canonical: every backend draws the same
subsets from the same seed, up to rounding. Everything here is float64, whatever the logits are.
docs/mathematics.md proves exactness and the rate of acceptance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .contour import Phi, characteristic, node_rule, probability
from .items import Items, tilt_items
from .philox import uniform_row
from .recursion import build_tree, descend, leaves
from .rows import Rows, classify
from .semirings import REAL
from .sums import wide_sum
from .tilt import solve_tilt

__all__ = ["TREE_SIZE", "sample", "sample_indices"]

# Rows of at most this many items go down the tree. Part of the canonical algorithm.
TREE_SIZE = 64

_SPLIT, _ITEM, _ACCEPT = 0, 1, 2
# Samples are drawn in pieces of about this many items, to bound the memory.
_PIECE = 1 << 18
# The float64 rule, with room for the nodes of a half that holds a third of the row's variance: all
# nodes are kept while 2 V_B <= 37, so at most M = 8 sqrt(3 V_B) + 9 = 69 of them, in 34 pairs.
_HALF_RULE = node_rule(torch.float64)._replace(most=34)


class _Draw(NamedTuple):
    """The random numbers of a group of G samples, and when the tree takes over."""

    seed: Tensor  # int64 [1]
    stream: Tensor  # [G] int64: sample index * rows + row
    level: int  # how often the row was halved so far
    tree_size: int


def _draw_group(theta: Tensor, k: Tensor, row: Tensor, draw: _Draw) -> Tensor:
    """One subset for each of G samples.

    Args:
        theta: ``[R, m]`` float64 logits of valid rows.
        k: ``[R]``, how many items each row takes, the forced ones included.
        row: ``[G]``, the row that each sample is of.
        draw: the random numbers.

    Returns:
        bool ``[G, m]``.
    """
    rows = classify(theta, k)
    items = tilt_items(rows, solve_tilt(rows))
    if theta.shape[-1] <= draw.tree_size:
        return rows.forced[row] | _walk_tree(rows, items, row, draw)
    taken = rows.forced[row]
    variance = items.variance
    # Acceptance suffers where A holds most of the variance, so A is then the other half.
    odd_first = wide_sum(variance[:, 0::2]) > 2 * wide_sum(variance[:, 1::2])
    open_rows = rows.live.any(-1)
    for first in (0, 1):
        chosen = (open_rows & (odd_first == bool(first)))[row].nonzero().squeeze(-1)
        if chosen.numel():
            part = draw._replace(stream=draw.stream[chosen])
            taken[chosen] |= _halve(theta, rows, items, row[chosen], part, first)
    return taken


def _walk_tree(rows: Rows, items: Items, row: Tensor, draw: _Draw) -> Tensor:
    """The live items taken, by the tree of the tilted linear recursion: bool ``[G, m]``."""
    m = rows.theta.shape[-1]
    most = max(1, int(rows.k.max())) if rows.k.numel() else 1
    levels = build_tree(REAL, leaves(items.p, items.q), most)
    numbers = uniform_row(draw.seed, draw.stream, _SPLIT, draw.level << 16, levels[0].shape[-2])

    def choose(weight: Tensor, first: int) -> Tensor:
        v = numbers[:, first : 2 * first].unsqueeze(-1)
        cumulative = weight.cumsum(-1)
        smallest = (cumulative <= v * cumulative[..., -1:]).sum(-1)
        a = torch.arange(weight.shape[-1], device=weight.device)
        return torch.minimum(smallest, torch.where(weight > 0, a, 0).amax(-1))

    taken = descend(REAL, [level[row] for level in levels], rows.k[row], choose)
    return taken[:, :m].bool()


def _law_of_part(rows: Rows, items: Items, part: slice) -> tuple[Phi, Tensor]:
    """The characteristic function of the sum over a part of the items, and its largest probability.

    The law is read as far from its mean as the sum of the other items may lead, so M follows the
    variance of all items: what aliases add is then P(S = k mod M, S != k) of the whole sum S again.
    """
    inner = Items(*(field[:, part] for field in items))
    spread = wide_sum(items.variance)
    phi = characteristic(inner, rows.live[:, part].sum(-1), _HALF_RULE, spread)
    # A Poisson-binomial law has its mode next to its mean (Darroch 1964).
    mean = wide_sum(inner.q).floor().to(torch.int64)
    return phi, torch.stack([probability(phi, mean + i) for i in (-1, 0, 1, 2)]).amax(0)


def _halve(theta: Tensor, rows: Rows, items: Items, row: Tensor, draw: _Draw, first: int) -> Tensor:
    """Draw the half A of each sample until accepted, then go on with B, the other half.

    Propose x_A from independent Bernoullis, let c = k - sum x_A, and accept with probability
    P_B(c) / max P_B: the accepted x_A then has its law given that the whole sum is k.

    Args:
        theta: ``[R, m]``; ``rows`` and ``items`` are the same classified and tilted.
        row: ``[G]``, the row of each sample; each has something to decide.
        draw: the random numbers.
        first: A is every second item from this one on, 0 or 1.

    Returns:
        bool ``[G, m]``, the live items taken.
    """
    a, b = slice(first, None, 2), slice(1 - first, None, 2)
    items_a = Items(*(field[:, a] for field in items))
    live_b = rows.live[:, b].sum(-1)
    phi, peak = _law_of_part(rows, items, b)

    taken = torch.zeros(row.shape[0], theta.shape[-1], dtype=torch.bool, device=row.device)
    rest = torch.zeros_like(row)
    pending = torch.arange(row.shape[0], device=row.device)
    rejection = 0
    while pending.numel():
        if rejection >> 16:
            raise RuntimeError("65536 rejections of one half of a row: its law is not a law")
        stream, of = draw.stream[pending], row[pending]
        number = draw.level << 16 | rejection
        v = uniform_row(draw.seed, stream, _ITEM, number, items_a.w.shape[-1])
        # v has its fine steps at 0, so it is compared with min(q, p), never with a q near 1.
        x = rows.live[:, a][of] & ((v < items_a.w[of]) ^ (items_a.sign < 0)[of])
        count = rows.k[of] - x.sum(-1)
        chance = probability(Phi(*(field[of] for field in phi)), count)
        possible = (count >= 0) & (count <= live_b[of])
        chance = torch.where(possible, chance, torch.zeros_like(chance))
        accepted = uniform_row(draw.seed, stream, _ACCEPT, number, 1)[:, 0] * peak[of] < chance
        done = pending[accepted]
        taken[done, a] = x[accepted]
        rest[done] = count[accepted]
        pending = pending[~accepted]
        rejection += 1

    forced = rows.forced[:, b]
    total = rest + forced.sum(-1)[row]
    deeper = draw._replace(level=draw.level + 1)
    each = torch.arange(row.shape[0], device=row.device)
    below = _draw_group(theta[:, b][row], total, each, deeper)
    taken[:, b] = below & ~forced[row]
    return taken


def sample(
    logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor, *, tree_size: int = TREE_SIZE
) -> Tensor:
    """Exact samples of the k-subset distribution as k-hot vectors, without a gradient.

    Args:
        logits: ``[..., n]`` floating; -inf excludes an item, +inf forces it in.
        k: int, or integer tensor that broadcasts to ``[...]``.
        num_samples: how many for each row.
        seed: int64 ``[1]``; equal seeds give equal samples.
        tree_size: rows longer than this are halved. Another value than the default gives other
            samples of the same law.

    Returns:
        ``[num_samples, ..., n]`` in the dtype of ``logits``, each row with exactly k ones; NaN for
        invalid rows. About 1.5 n random numbers and O(n) work a sample, in expectation.
    """
    n = logits.shape[-1]
    theta = logits.detach().to(torch.float64).reshape(-1, n) if n else logits.new_zeros(0, 0)
    batch = logits.shape[:-1]
    total = torch.as_tensor(k, device=logits.device).expand(batch).reshape(-1)
    valid = classify(logits, k).valid.reshape(-1)
    result = torch.full((num_samples, batch.numel(), n), torch.nan, device=logits.device)
    result = result.to(logits.dtype)
    if n == 0:
        return result.reshape(num_samples, *batch, n)
    step = max(1, _PIECE // n)
    for index in valid.nonzero().squeeze(-1).split(step):
        if index.numel() == 0:  # no row has a subset
            continue
        for samples in torch.arange(num_samples, device=logits.device).split(
            max(1, step // index.numel())
        ):
            stream = (samples.unsqueeze(-1) * batch.numel() + index).reshape(-1)
            row = torch.arange(index.numel(), device=index.device).repeat(samples.numel())
            taken = _draw_group(theta[index], total[index], row, _Draw(seed, stream, 0, tree_size))
            result[samples[:, None], index] = taken.to(result.dtype).reshape(
                samples.numel(), index.numel(), n
            )
    return result.reshape(num_samples, *batch, n)


def sample_indices(
    logits: Tensor, k: int, num_samples: int, seed: Tensor, *, tree_size: int = TREE_SIZE
) -> Tensor:
    """The same samples as ``sample`` with the same seed, as indices.

    Returns:
        int64 ``[num_samples, ..., k]``, ascending; -1 for invalid rows.
    """
    hot = sample(logits, k, num_samples, seed, tree_size=tree_size)
    chosen = hot == 1
    indices = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :k]
    valid = chosen.any(-1, keepdim=True) if k else torch.ones_like(chosen[..., :1])
    return torch.where(valid, indices, -1)
