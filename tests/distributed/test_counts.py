# SPDX-License-Identifier: Apache-2.0
"""The draw of the ranks' counts, in one process that plays all ranks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import discrete_grad as dg
from discrete_grad.distributed import counts
from discrete_grad.distributed.contour import node_grid, solve
from discrete_grad.distributed.ranks import Ranks
from tests.stats import P_VALUE, chi_square_p


class Alone(Ranks):
    """One rank without a process group."""

    def total(self, values):
        return values

    def largest(self, values):
        return values


def parts_of(logits, k, cuts):
    """What every rank tells of its part of the row ``logits`` [n], and the tilt: [1, P, 89]."""
    law = solve(logits.unsqueeze(0), k, Alone("", 0, 1))
    told = []
    for first, end in pairwise(cuts):
        rows = law.rows
        part = rows._replace(theta=rows.theta[:, first:end], live=rows.live[:, first:end])
        told.append(counts.characteristic(law._replace(rows=part)))
    return torch.stack(told, 1), law.state.tilt


ROWS = {
    "normal": (300, 90, lambda n: torch.randn(n) * 2, (0, 1, 40, 40, 300)),
    "nearly all": (11, 10, torch.randn, (0, 3, 6, 9, 11)),
    "one": (40, 1, torch.randn, (0, 20, 40)),
    "long": (5_000, 1700, torch.randn, (0, 4_000, 4_100, 5_000)),
    "gap": (60, 30, lambda n: 40.0 * (torch.arange(n) % 2), (0, 25, 60)),
    "many ranks": (200, 60, lambda n: torch.randn(n) * 2, (*range(0, 195, 15), 200)),
    "ties": (64, 16, torch.zeros, (0, 16, 32, 48, 64)),
}


@pytest.mark.parametrize("name", ROWS)
def test_laws_of_parts(name):
    """Each part's law is the Poisson-binomial law of its tilted items, wherever it is told."""
    n, k, make, cuts = ROWS[name]
    logits = make(n).double()
    told, tilt = parts_of(logits, k, cuts)
    assert told.shape == (1, len(cuts) - 1, 89)
    parts = counts.part_laws(told)
    for r, (first, end) in enumerate(pairwise(cuts)):
        items = logits[first:end] + tilt
        exact = dg.subset.count_log_prob(items, end - first).exp()
        law, lowest = parts.law[0, r], int(parts.lowest[0, r])
        wide = torch.zeros(len(exact) + len(law) + 9, dtype=torch.float64)
        at = torch.arange(len(law)) + lowest
        inside = (at >= 0) & (at < len(wide))
        assert (law[~inside] == 0).all()
        wide[at[inside]] = law[inside]
        wide[: len(exact)] -= exact
        assert wide.abs().max() < 1e-14


@pytest.mark.parametrize("name", ["normal", "nearly all", "many ranks", "gap", "ties"])
def test_counts_have_their_joint_law(name):
    n, k, make, cuts = ROWS[name]
    logits = make(n).double()
    told, _ = parts_of(logits, k, cuts)
    live = torch.tensor([k])
    drawn = counts.draw_counts(counts.part_laws(told), live, 20_000, torch.tensor([99]))[:, 0]
    sizes = torch.tensor([end - first for first, end in pairwise(cuts)])
    assert (drawn.sum(-1) == k).all()
    assert ((drawn >= 0) & (drawn <= sizes)).all()
    # The first part against the rest, and the first two against each other given their sum.
    laws = [
        dg.subset.count_log_prob(logits[first:end], min(k, end - first))
        for first, end in pairwise(cuts)
    ]
    for split in range(1, len(laws)):
        left, right = _joined(laws[:split], k), _joined(laws[split:], k)
        log_law = left + right.flip(0)
        exact = (log_law - log_law.logsumexp(0)).exp()
        codes = drawn[:, :split].sum(-1).numpy()
        law = {c: float(p) for c, p in enumerate(exact) if p > 0}
        assert chi_square_p(codes, law) > P_VALUE


def _joined(laws, k):
    """The law of the sum of independent counts, by convolution, up to k; logarithms."""
    total = np.ones(1)
    for law in laws:
        total = np.convolve(total, law.exp().numpy())[: k + 1]
    return torch.tensor(np.pad(total, (0, k + 1 - len(total)))).log()


def test_no_part_needs_more_nodes_than_are_told():
    rule = counts._PART_RULE
    variances = torch.logspace(-6, 8, 4000, dtype=torch.float64)
    many = torch.full_like(variances, 10**10, dtype=torch.int64)
    more = node_grid(variances, many, rule._replace(most=60))
    kept = more.kept.sum(-1)
    assert kept.max() == rule.most
