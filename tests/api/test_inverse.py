# SPDX-License-Identifier: Apache-2.0
"""logits_from_marginals: round trips, gradients, refusals, rows that do not converge."""

from __future__ import annotations

import re

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad import inverse

INF = float("inf")
EDGE = 1e-6


def targets(rows: int, n: int, k: int) -> torch.Tensor:
    """Random marginals [rows, n] summing to k, from flat to filling [1e-6, 1 - 1e-6]."""
    scale = torch.logspace(-2, 1.3, rows, dtype=torch.float64).unsqueeze(-1)
    noise = torch.randn(rows, n, dtype=torch.float64) * scale
    low, high = torch.full_like(scale, -200.0), torch.full_like(scale, 200.0)
    for _ in range(100):
        middle = (low + high) / 2
        less = (EDGE + (1 - 2 * EDGE) * torch.sigmoid(noise + middle)).sum(-1, keepdim=True) < k
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return EDGE + (1 - 2 * EDGE) * torch.sigmoid(noise + (low + high) / 2)


SIZES = [
    (2, 1),
    (3, 1),
    (3, 2),
    (5, 2),
    (10, 1),
    (10, 9),
    (20, 10),
    (100, 3),
    (100, 50),
    (1000, 700),
]


@pytest.mark.parametrize(("n", "k"), SIZES, ids=str)
def test_round_trip(backend, n, k):
    wanted = targets(8, n, k)
    logits = dg.subset.logits_from_marginals(wanted)
    assert_close(dg.subset.marginals(logits, k), wanted, rtol=0, atol=1e-10)
    assert_close(logits.mean(-1), torch.zeros(8).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("share", [3e-5, 0.5, 0.9999])
def test_round_trip_of_a_long_row(backend, share):
    n = 100_000 if backend == "cpp" else 10_000
    k = max(1, round(share * n))
    wanted = targets(1, n, k)
    logits = dg.subset.logits_from_marginals(wanted)
    assert_close(dg.subset.marginals(logits, k), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("other", [0.5, 0.3])
def test_the_extremes_named_in_the_promise(backend, other):
    wanted = torch.tensor([EDGE, 1 - EDGE, other, 1 - other, EDGE, 1 - EDGE], dtype=torch.float64)
    logits = dg.subset.logits_from_marginals(wanted)
    assert_close(dg.subset.marginals(logits, 3), wanted, rtol=0, atol=1e-10)


def test_it_inverts_marginals(backend):
    logits = torch.randn(4, 12, dtype=torch.float64) * 2
    logits = logits - logits.mean(-1, keepdim=True)
    back = dg.subset.logits_from_marginals(dg.subset.marginals(logits, 5))
    assert_close(back, logits, rtol=0, atol=1e-9)


def test_zero_and_one_become_infinite(backend):
    wanted = torch.tensor([[0.0, 1.0, 0.25, 0.75], [1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    logits = dg.subset.logits_from_marginals(wanted)
    assert logits[0, :2].tolist() == [-INF, INF]
    assert logits[1].tolist() == [INF, -INF, -INF, INF]
    assert_close(logits[0, 2:].sum(), torch.tensor(0.0))
    assert_close(dg.subset.marginals(logits, 2), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(backend, dtype):
    wanted = dg.subset.marginals(torch.randn(3, 8), 3).to(dtype)
    logits = dg.subset.logits_from_marginals(wanted)
    assert logits.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert_close(dg.subset.marginals(logits, 3), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 0, 4), (2, 3, 4), (3, 0), (0,)], ids=str)
def test_shapes(backend, shape):
    wanted = torch.full(shape, 0.5, dtype=torch.float64, requires_grad=True)
    logits = dg.subset.logits_from_marginals(wanted)
    assert logits.shape == shape
    assert_close(logits, torch.zeros(shape).double(), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(logits.sum(), wanted)
    assert gradient.shape == shape


def test_not_contiguous(backend):
    wanted = targets(6, 5, 2).T.contiguous().T
    assert_close(
        dg.subset.logits_from_marginals(wanted),
        dg.subset.logits_from_marginals(wanted.contiguous()),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("n", [2, 4])
def test_gradient_by_differences(backend, n):
    wanted = dg.subset.marginals(torch.randn(n, dtype=torch.float64), n // 2).requires_grad_()
    assert gradcheck(dg.subset.logits_from_marginals, (wanted,))
    assert gradgradcheck(dg.subset.logits_from_marginals, (wanted,))


def test_gradient_is_that_of_the_inverse(backend):
    logits = torch.randn(3, 40, dtype=torch.float64, requires_grad=True)
    back = dg.subset.logits_from_marginals(dg.subset.marginals(logits, 11))
    v = torch.randn(3, 40, dtype=torch.float64)
    (ours,) = torch.autograd.grad(back, logits, v)
    # The composition subtracts the mean, and nothing else.
    assert_close(ours, v - v.mean(-1, keepdim=True), rtol=1e-8, atol=1e-8)


def test_gradient_of_zero_and_one_is_zero(backend):
    wanted = torch.tensor([0.0, 1.0, 0.25, 0.75], dtype=torch.float64, requires_grad=True)
    logits = dg.subset.logits_from_marginals(wanted)
    (gradient,) = torch.autograd.grad(logits[2] * 3 - logits[3], wanted)
    assert gradient[:2].tolist() == [0.0, 0.0]
    assert gradient[2:].isfinite().all()
    assert gradient[2] > 1


def test_functorch_grad_agrees_with_autograd(backend):
    wanted = targets(2, 5, 2).clamp(0.01, 0.99)
    wanted = dg.subset.marginals(torch.logit(wanted), 2).requires_grad_()

    def loss(t):
        return dg.subset.logits_from_marginals(t).pow(3).sum()

    (ours,) = torch.autograd.grad(loss(wanted), wanted)
    assert_close(torch.func.grad(loss)(wanted.detach()), ours, rtol=1e-9, atol=1e-9)


def test_a_sum_that_is_no_integer_is_refused_by_name(backend):
    wanted = torch.full((2, 3, 4), 0.5)
    wanted[1, 2, 0] = 0.6
    with pytest.raises(ValueError, match=r"marginals must sum to an integer.*2\.1.*row \(1, 2\)"):
        dg.subset.logits_from_marginals(wanted)
    with pytest.raises(ValueError, match=r"marginals must sum to an integer.*its only row"):
        dg.subset.logits_from_marginals(torch.tensor([0.5, 0.5001], dtype=torch.float64))
    # A row whose variance is smaller than what is missing: no rounding explains it.
    with pytest.raises(ValueError, match="marginals must sum to an integer"):
        dg.subset.logits_from_marginals(torch.tensor([1e-6, 1 - 5e-6], dtype=torch.float64))


def test_a_sum_off_by_rounding_is_an_integer(backend):
    wanted = torch.full((7,), 1 / 7, dtype=torch.float32)  # 1.0000000521
    assert_close(dg.subset.logits_from_marginals(wanted), torch.zeros(7), rtol=0, atol=1e-6)


def test_rows_that_do_not_converge_are_named(backend, monkeypatch):
    monkeypatch.setattr(inverse, "_MAX_SIMPLE_STEPS", 0)
    monkeypatch.setattr(inverse, "_MAX_NEWTON_STEPS", 0)
    hard = torch.tensor([0.9, 0.6, 0.3, 0.2], dtype=torch.float64)
    wanted = torch.stack([torch.full((4,), 0.5), hard, torch.full((4,), 0.5), hard]).double()
    wanted = wanted.reshape(2, 2, 4)
    rows = r"did not converge in 2 of 4 rows \(\(0, 1\), \(1, 1\)\)"
    message = rows + r": residual up to 0\.\d+, accepted 1e-10"
    with pytest.raises(RuntimeError, match=message):
        dg.subset.logits_from_marginals(wanted)


def test_newton_and_the_simple_step_each_do_their_part(backend, monkeypatch):
    """Without either one some row fails, so neither is dead code."""
    wanted = targets(8, 6, 2)
    newton_steps = inverse._MAX_NEWTON_STEPS
    monkeypatch.setattr(inverse, "_MAX_NEWTON_STEPS", 0)
    with pytest.raises(RuntimeError, match="did not converge"):
        dg.subset.logits_from_marginals(wanted)
    monkeypatch.setattr(inverse, "_MAX_NEWTON_STEPS", newton_steps)
    monkeypatch.setattr(inverse, "_MAX_SIMPLE_STEPS", 0)
    dg.subset.logits_from_marginals(wanted)  # Newton alone converges from the start, only later


@pytest.mark.parametrize("value", [1.5, -0.25, float("nan"), INF])
def test_entries_outside_the_unit_interval_are_refused(value):
    wanted = torch.tensor([[0.5, 0.5], [0.5, value]])
    message = re.escape(f"marginals must be in [0, 1], got {value} at index (1, 1)")
    with pytest.raises(ValueError, match=message):
        dg.subset.logits_from_marginals(wanted)
