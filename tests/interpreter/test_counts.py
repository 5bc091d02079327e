# SPDX-License-Identifier: Apache-2.0
"""The kernels of count_log_prob and of its two derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.triton_kernels import blocks, counts, tree
from tests import oracle
from tests.accuracy.evaluate import check
from tests.cases import BY_ID
from tests.tolerances import bound

INF = float("inf")
IDS = [
    "size-n1-k0",
    "size-n9-k4",
    "normal-scale30-n50-k13",
    "normal-scale87-n50-k49",
    "shift-1e+04-k12",
    "shift+1e+04-k12",
    "gap200-n60-top20-k20",
    "excluded-k9",
    "forced-k13",
    "excluded-and-forced-k12",
    "all-excluded-k0",
    "all-forced",
    "equal-n33-k11",
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", IDS)
def test_values(name, dtype):
    logits = BY_ID[name].logits
    n = len(logits)
    exact = np.array([float(v) for v in oracle.count_log_prob(logits, n + 2)])
    for max_count in sorted({0, n // 3, n + 2}):
        got = counts.count_log_prob(torch.from_numpy(logits).to(dtype), max_count)
        assert got.dtype == dtype
        assert got.shape == (max_count + 1,)
        label = f"{name}, max_count {max_count}"
        tolerance = bound("count_log_prob", dtype)
        check(label, got.double().numpy(), exact[: max_count + 1], tolerance, relative=True)


def expected(logits, max_count, grad, tangent):
    """(vjp, (grad_grad, grad_logits)) by autograd through the reference."""
    theta, g = logits.clone().requires_grad_(), grad.clone().requires_grad_()
    table = reference.count_log_prob(theta, max_count)
    possible = table > -INF
    weighted = (torch.where(possible, table, 0.0) * g).sum()
    (vjp,) = torch.autograd.grad(weighted, theta, create_graph=True)
    second = torch.autograd.grad((vjp * tangent).sum(), (g, theta))
    return vjp.detach(), second


@pytest.mark.parametrize("max_count", [0, 1, 4, 11, 14])
def test_derivatives(max_count):
    """A batch with excluded and forced items; counts above n and impossible ones give nothing."""
    logits = 3 * torch.randn(4, 11, dtype=torch.float64)
    logits[1, ::4] = -INF
    logits[2, [3, 7]] = INF
    logits[3, 0], logits[3, 1] = INF, -INF
    grad = torch.randn(4, max_count + 1, dtype=torch.float64)
    tangent = torch.randn(4, 11, dtype=torch.float64)
    vjp, (grad_grad, grad_logits) = expected(logits, max_count, grad, tangent)
    got = counts.count_log_prob_vjp(logits, max_count, grad)
    torch.testing.assert_close(got, vjp, rtol=1e-12, atol=1e-12)
    got_grad, got_logits = counts.count_log_prob_vjp_backward(logits, max_count, grad, tangent)
    finite = logits.isfinite()
    torch.testing.assert_close(got_logits[finite], grad_logits[finite], rtol=1e-12, atol=1e-12)
    assert not got_logits[~finite].any()
    torch.testing.assert_close(got_grad, grad_grad, rtol=1e-12, atol=1e-12)
    narrow = counts.count_log_prob_vjp(logits.float(), max_count, grad.float())
    torch.testing.assert_close(narrow.double(), vjp, rtol=1e-5, atol=1e-4)


def test_several_programs_a_row(monkeypatch):
    """Small tiles, a launch for each level, and few rows at a time."""
    logits = torch.randn(3, 21, dtype=torch.float64)
    grad, tangent = torch.randn(3, 9).double(), torch.randn(3, 21).double()
    want = counts.count_log_prob(logits, 8), counts.count_log_prob_vjp(logits, 8, grad)
    want_second = counts.count_log_prob_vjp_backward(logits, 8, grad, tangent)
    monkeypatch.setattr(tree, "TREE_TILE", blocks.Tile(4, 32, 1))
    monkeypatch.setattr(tree, "tree_share", lambda rows, coefficients: blocks.TreeShare(1, 2))
    monkeypatch.setattr(tree, "_SCRATCH_BYTES", 5_000)
    got = counts.count_log_prob(logits, 8), counts.count_log_prob_vjp(logits, 8, grad)
    got_second = counts.count_log_prob_vjp_backward(logits, 8, grad, tangent)
    for a, b in zip((*got, *got_second), (*want, *want_second), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_nan_rows_are_alone():
    logits = torch.randn(3, 5)
    logits[1, 2] = float("nan")
    grad, tangent = torch.ones(3, 8), torch.ones(3, 5)
    outs = (
        counts.count_log_prob(logits, 7),
        counts.count_log_prob_vjp(logits, 7, grad),
        *counts.count_log_prob_vjp_backward(logits, 7, grad, tangent),
    )
    for out in outs:
        assert out[1].isnan().all()
        assert not out[[0, 2]].isnan().any()


def test_shapes():
    """Batches of any shape, without rows, and rows without items."""
    logits = torch.randn(2, 3, 4, dtype=torch.float16).transpose(0, 1)
    table = counts.count_log_prob(logits, 4)
    assert table.shape == (3, 2, 5)
    assert table.dtype == torch.float16
    want = reference.count_log_prob(logits.double(), 4)
    torch.testing.assert_close(table.double(), want, rtol=1e-3, atol=1e-3)
    grad = torch.ones(3, 2, 5, dtype=torch.float16)
    assert counts.count_log_prob_vjp(logits, 4, grad).shape == (3, 2, 4)
    assert counts.count_log_prob(torch.empty(0, 4), 4).shape == (0, 5)
    nothing = counts.count_log_prob(torch.empty(2, 0), 2)
    assert nothing.tolist() == [[0.0, -INF, -INF]] * 2
    empty = torch.empty(2, 0)
    grad_grad, grad_logits = counts.count_log_prob_vjp_backward(empty, 2, torch.ones(2, 3), empty)
    assert not grad_grad.any()
    assert grad_logits.shape == (2, 0)
    with pytest.raises(ValueError, match="max_count"):
        counts.count_log_prob(logits, -1)
