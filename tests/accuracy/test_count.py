# SPDX-License-Identifier: Apache-2.0
"""The Poisson-binomial law (count_log_prob) against 60-digit convolution, and its derivative
against enumeration.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests import oracle
from tests.accuracy.evaluate import check
from tests.cases import BY_ID
from tests.tolerances import bound

INF = float("inf")

IDS = [
    "size-n1-k0",
    "size-n9-k4",
    "normal-scale0-n50-k13",
    "normal-scale3-n123-k61",
    "normal-scale30-n50-k13",
    "normal-scale87-n50-k49",
    "cauchy-n64-k8",
    "shift-1e+04-k12",
    "shift+1e+04-k12",
    "gap200-n60-top20-k20",
    "ramp-step1-k34",
    "excluded-k9",
    "forced-k13",
    "excluded-and-forced-k12",
    "all-excluded-k0",
    "all-forced",
    "equal-n300-k150",
]


def want(logits, max_count):
    return np.array([float(v) for v in oracle.count_log_prob(logits, max_count)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", IDS)
def test_values(backend, name, dtype):
    """Every count from 0 to n, and the shorter tables that the same call gives for a smaller
    max_count.
    """
    logits = BY_ID[name].logits
    n = len(logits)
    exact = want(logits, n)
    for max_count in sorted({0, 1, n // 3, n}):
        got = dg.subset.count_log_prob(torch.from_numpy(logits).to(dtype), max_count)
        assert got.dtype == dtype
        assert got.shape == (max_count + 1,)
        label = f"{name}, max_count {max_count}"
        tolerance = bound("count_log_prob", dtype)
        check(label, got.double().numpy(), exact[: max_count + 1], tolerance, relative=True)


@pytest.mark.parametrize(
    "name", ["size-n9-k4", "normal-scale3-n123-k61", "excluded-and-forced-k12"]
)
def test_consistent_with_log_partition(backend, name):
    """log P(S = j) = log Z_j - sum softplus(theta), j counted without the forced items."""
    logits = torch.from_numpy(BY_ID[name].logits)
    live = logits.isfinite()
    forced = int((logits == float("inf")).sum())
    table = dg.subset.count_log_prob(logits, len(logits))
    total = torch.nn.functional.softplus(logits[live]).sum()
    for j in range(forced, forced + int(live.sum()) + 1):
        log_z = dg.subset.log_partition(logits, j)
        torch.testing.assert_close(table[j], log_z - total, rtol=1e-12, atol=1e-11)
    assert (table[:forced] == -float("inf")).all()
    assert (table[forced + int(live.sum()) + 1 :] == -float("inf")).all()


def test_gradient_in_closed_form(backend):
    """d log P(S = j) / d theta_i = P(i in subset | S = j) - sigmoid(theta_i), for every j at
    once.
    """
    logits = torch.from_numpy(BY_ID["normal-scale3-n50-k13"].logits).requires_grad_()
    table = dg.subset.count_log_prob(logits, 50)
    q = torch.sigmoid(logits.detach())
    for j in (0, 1, 13, 49, 50):
        (got,) = torch.autograd.grad(table[j], logits, retain_graph=True)
        exact = oracle.subset(logits.tolist(), j)
        mu = torch.from_numpy(oracle.as_floats(exact.marginals))
        torch.testing.assert_close(got, mu - q, rtol=0, atol=1e-12)


def test_gradient_of_masked_rows(backend):
    """Counts that cannot be (log P = -inf) carry no gradient, and never a NaN; masked items carry
    none either.
    """
    inf = float("inf")
    logits = torch.tensor(
        [0.3, -inf, 1.0, inf, -2.0, -inf], dtype=torch.float64, requires_grad=True
    )
    table = dg.subset.count_log_prob(logits, 6)
    assert (table == -inf).tolist() == [True, False, False, False, False, True, True]
    (got,) = torch.autograd.grad(table[1:5].sum(), logits, retain_graph=True)
    assert got.isfinite().all()
    assert not got[[1, 3, 5]].any()
    (all_counts,) = torch.autograd.grad(table.exp().sum(), logits)
    assert all_counts.isfinite().all()
    torch.testing.assert_close(all_counts, torch.zeros_like(all_counts), rtol=0, atol=1e-14)


@pytest.mark.parametrize("row", [[-INF], [INF], [-INF, INF], [INF, 0.3]], ids=str)
def test_an_impossible_count_does_not_move(backend, row):
    """Of one item too, which no other is joined to: P = 0 whatever its logit, so no derivative."""
    logits = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    log_prob = dg.subset.count_log_prob(logits, len(row))
    for j in range(len(row) + 1):
        if log_prob[j] == -INF:
            (first,) = torch.autograd.grad(log_prob[j], logits, create_graph=True)
            assert first.tolist() == [0.0] * len(row)
            (second,) = torch.autograd.grad(first.sum(), logits, retain_graph=True)
            assert second.tolist() == [0.0] * len(row)
