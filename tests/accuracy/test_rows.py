# SPDX-License-Identifier: Apache-2.0
"""Every path (backend x method x dtype) on every adversarial row, against 60-digit arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests import oracle
from tests.accuracy.evaluate import METHODS, check, check_row, check_rows, evaluate
from tests.cases import BY_ID, CASES, FLOAT32_CASES, padded
from tests.tolerances import RECURSION_RELATIVE_FLOAT64, RECURSION_RELATIVE_FLOOR, bound

WIDE = [(torch.float64, CASES), (torch.float32, FLOAT32_CASES)]
ROWS = [
    pytest.param(dtype, case, id=f"{str(dtype).removeprefix('torch.')}-{case.id}")
    for dtype, cases in WIDE
    for case in cases
]


@pytest.mark.parametrize(("dtype", "case"), ROWS)
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_row(backend, method, dtype, case):
    exact = oracle.subset_cached(case.logits, case.k, case.grad)
    check_row(case, exact, evaluate(case.logits, case.k, case.grad, dtype, method), dtype, method)


@pytest.mark.parametrize(("dtype", "cases"), WIDE, ids=["float64", "float32"])
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_all_rows_in_one_batch(backend, method, dtype, cases):
    """One call with a k for each row; rows padded by exclusion. Neighbours must not disturb each
    other.
    """
    logits, k, grad = padded(cases)
    got = evaluate(logits, k, grad, dtype, method)
    check_rows(cases, got, dtype, method)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_marginals_are_probabilities(backend, method, dtype):
    """Rounding leaves none below 0 or above 1: a logarithm may be taken of them."""
    torch.manual_seed(3)
    gaps = 60 * (torch.rand(400, 8, dtype=dtype) < 0.4)
    logits = torch.cat([torch.tensor([[69.0, 69, 1.5, *[-torch.inf] * 5]]), torch.randn(400, 8)])
    logits[1:] += gaps
    logits = logits.to(dtype)
    k = torch.cat([torch.tensor([2]), torch.arange(400) % 8 + 1])
    marginals = dg.subset.marginals(logits, k, method=method)
    assert marginals.min() >= 0
    assert marginals.max() <= 1
    torch.testing.assert_close(marginals.sum(-1), k.to(dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_recursion_keeps_relative_accuracy(backend, case):
    """Marginals down to 1e-200 to ten digits: what the contour does not promise."""
    exact = np.array(
        [float(m) for m in oracle.subset_cached(case.logits, case.k, case.grad).marginals]
    )
    got = evaluate(case.logits, case.k, case.grad, torch.float64, "recursion").marginals
    kept = exact >= RECURSION_RELATIVE_FLOOR
    error = np.abs(got[kept] - exact[kept]) / exact[kept]
    worst = error.max(initial=0.0)
    assert worst <= RECURSION_RELATIVE_FLOAT64, f"{case.id}: relative error {worst:.3g}"
    below = got[~kept]
    assert ((below >= 0) & (below < 2 * RECURSION_RELATIVE_FLOOR)).all(), (
        f"{case.id}: below the floor"
    )


def test_some_marginals_reach_the_floor():
    """The test above is not vacuous: the table holds marginals near 1e-200 and on the way there."""
    smallest = [
        min(
            (
                float(m)
                for m in oracle.subset_cached(c.logits, c.k, c.grad).marginals
                if m >= 1e-200
            ),
            default=1.0,
        )
        for c in CASES
    ]
    assert min(smallest) < 1e-170
    assert sum(s < 1e-60 for s in smallest) >= 10


NARROW_IDS = [
    c.id
    for c in FLOAT32_CASES
    if len(c.logits) <= 65 and not c.id.startswith(("shift", "excluded-shifted"))
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_sixteen_bit(backend, method, dtype):
    """Computed in float32 and rounded once: held to the exact values at the rounded logits and
    gradients.
    """
    for name in NARROW_IDS:
        case = BY_ID[name]
        logits = torch.from_numpy(case.logits).to(dtype).double().numpy()
        grad = torch.from_numpy(case.grad).to(dtype).double().numpy()
        exact = oracle.subset_cached(logits, case.k, grad)
        got = evaluate(logits, case.k, grad, dtype, method)
        label = f"{name}, {dtype}"
        mu = oracle.as_floats(exact.marginals)
        check(label + ": marginals", got.marginals, mu, _narrow("marginals", dtype, method))
        check(label + ": vjp", got.vjp, oracle.as_floats(exact.vjp), _narrow("vjp", dtype, method))
        log_z = np.array(float(exact.log_partition))
        tolerance = _narrow("log_partition", dtype, method)
        check(label + ": log_partition", got.log_partition, log_z, tolerance, relative=True)


def _narrow(quantity: str, dtype: torch.dtype, method: str) -> float:
    """The 16-bit bound; the recursion's float32 error takes the place of the general one in it."""
    extra = bound(quantity, torch.float32, method) - bound(quantity, torch.float32)
    return bound(quantity, dtype) + extra


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_constant_gradient_is_annihilated(backend, method, dtype):
    """Cov(z) 1 = 0 because the sum of z is fixed: the cancellation that the centred form exists
    for.
    """
    for case in FLOAT32_CASES:
        theta = torch.from_numpy(case.logits).to(dtype).requires_grad_()
        marginals = dg.subset.marginals(theta, case.k, method=method)
        (vjp,) = torch.autograd.grad(marginals, theta, torch.ones_like(marginals))
        tolerance = bound("vjp", dtype, method)
        check(f"{case.id}: Cov 1", vjp.double().numpy(), np.zeros(len(case.logits)), tolerance)


def test_tolerances_are_promises():
    """What the documentation promises, in one place: whoever loosens the table must come here
    too.
    """
    for quantity in ("marginals", "vjp"):
        assert (
            bound(quantity, torch.float64, "contour")
            == bound(quantity, torch.float64, "recursion")
            == 1e-13
        )
        assert (
            bound(quantity, torch.float32, "contour")
            == bound(quantity, torch.float32, "linear")
            == 1e-6
        )
        assert bound(quantity, torch.float32, "recursion") == 1e-5
    for method in METHODS:
        assert bound("log_partition", torch.float64, method) == 2e-13
        assert bound("log_partition", torch.float32, method) == 2e-6
