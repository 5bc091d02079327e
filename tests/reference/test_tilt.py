# SPDX-License-Identifier: Apache-2.0
"""The tilt on rows made to break a root finder, and the exactness of sums that cancel."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.reference import contour, items, rows, sums, tilt
from tests import oracle
from tests.cases import CASES
from tests.tolerances import bound


def _hard_rows() -> list[tuple[str, np.ndarray, int]]:
    """Cliffs with k one off the edge, where sum q is flat and Newton on it creeps."""
    stream = np.random.RandomState(5)
    out = []
    for n in (40, 1000, 20_000):
        base = stream.standard_normal(n)
        for gap in (5.0, 20.0, 200.0, 2e4):
            for share in (0.01, 0.5):
                top = max(2, int(n * share))
                for name, row in (("noisy", base.copy()), ("flat", np.zeros(n))):
                    row[:top] += gap
                    for k in (top - 1, top, top + 1):
                        out.append((f"{name}-n{n}-gap{gap:g}-top{top}-k{k}", row, k))
        out += [(f"heavy-n{n}-k{k}", stream.standard_cauchy(n), k) for k in (1, n // 3, n - 1)]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_tilt_centres_the_sum(dtype):
    """|sum q - k| is far below what the contour needs (0.3 sd), in every row.

    In float32 the tilt itself is rounded: at |s| = 2e4 by 1e-3, and that moves the sum by V 1e-3.
    """
    cases = [(c.id, c.logits, c.k) for c in CASES] + _hard_rows()
    for name, logits, k in cases:
        row = rows.classify(torch.from_numpy(logits).to(dtype), k)
        s = tilt.solve_tilt(row)
        assert s.isfinite(), name
        if row.live_count == 0:
            assert s == 0, name
            continue
        x = (row.theta + s)[row.live].double()
        best = tilt.highest(row)[row.live]
        gained, missed = x.sigmoid()[~best].sum(), (-x).sigmoid()[best].sum()
        sd = max(1.0, math.sqrt(float((x.sigmoid() * (-x).sigmoid()).sum())))
        rounding = float(s.abs() * torch.finfo(dtype).eps) * sd
        assert abs(gained - missed) / sd <= 1e-6 + 2 * rounding, name


# PyTorch's own forward-mode decompositions are still torch.jit scripts.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_tilt_is_a_constant():
    """No gradient, no tangent: every formula holds for any tilt, so none is wanted."""
    theta = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    assert not tilt.solve_tilt(rows.classify(theta, 4)).requires_grad
    _, tangent = torch.func.jvp(
        lambda t: tilt.solve_tilt(rows.classify(t, 4)),
        (theta.detach(),),
        (torch.ones(3, 9, dtype=torch.float64),),
    )
    assert torch.equal(tangent, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("off", [-3.0, -0.5, 0.7, 3.0])
def test_any_tilt_gives_the_same_law(off):
    """With M > n the contour is exact for every tilt, which is why none needs a derivative."""
    theta = torch.randn(9, dtype=torch.float64)
    row = rows.classify(theta, 4)
    s = tilt.solve_tilt(row)
    want = items.best_score(row, items.tilt_items(row, s))
    want = want + contour.integrate(row, items.tilt_items(row, s)).log_probability
    moved = items.tilt_items(row, s + off)
    phi = contour.characteristic(moved, row.live_count, contour.NodeRule(0.0, 99.0, 1e9, 99))
    assert int(phi.nodes) == 11
    got = items.best_score(row, moved) + contour.probability(phi, row.k).log()
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


def test_highest_takes_the_first_of_equals():
    theta = torch.tensor([1.0, 2.0, 2.0, -torch.inf, 2.0, torch.inf, 0.0])
    best = tilt.highest(rows.classify(theta, 3))
    assert best.tolist() == [False, True, True, False, False, False, False]


def test_accurate_sum_of_a_cancelling_row():
    """Logits of size 1e8 that sum to about 1: plain float64 is off in the eighth digit."""
    values = np.random.RandomState(1).standard_normal(301) * 1e8
    values = np.concatenate([values, -values[::-1] + np.linspace(0, 1e-2, 301)])
    exact = float(sum(Fraction(float(v)) for v in values))
    theta = torch.from_numpy(values).requires_grad_()
    total = sums.accurate_sum(theta)
    assert abs(total.item() - exact) <= 2.0**-52 * abs(exact)
    assert abs(values.sum() - exact) > 1e-10  # the case is not an easy one
    assert torch.equal(torch.autograd.grad(total, theta)[0], torch.ones_like(theta))
    assert sums.accurate_sum(torch.tensor([3e38, 3e38])).item() == 2 * float(np.float32(3e38))
    assert sums.accurate_sum(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


def test_log_partition_of_scores_that_cancel():
    """The best subset's logits cancel to about 0 while each is 1e4: still 2e-13."""
    logits = np.concatenate([[1e4 + 0.25, 3.0], np.full(30, -1e4) + np.arange(30) / 64])
    for k in (3, 4):
        exact = float(oracle.subset(logits.tolist(), k).log_partition)
        for method in ("contour", "linear", "recursion"):
            log_z = reference.marginals(torch.from_numpy(logits), k, method)[1].item()
            assert abs(log_z - exact) <= bound("log_partition", torch.float64) * max(1, abs(exact))
