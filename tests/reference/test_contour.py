# SPDX-License-Identifier: Apache-2.0
"""Contour, recursion and enumeration against each other; derivatives to the third order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.reference import contour, items, rows, tilt
from tests import oracle
from tests.api import enumeration
from tests.cases import CASES, padded
from tests.tolerances import bound

METHODS = ("contour", "linear", "recursion")
INF = math.inf


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_small_rows_against_enumeration(method, scale):
    for n in range(1, 9):
        theta = scale * torch.randn(3, n, dtype=torch.float64)
        for k in range(n + 1):
            marginals, log_partition = reference.marginals(theta, k, method)
            want = enumeration.marginals(theta, k)
            torch.testing.assert_close(marginals, want, rtol=0, atol=1e-14)
            scores = (enumeration.subsets(n, k) * theta.unsqueeze(-2)).sum(-1)
            torch.testing.assert_close(log_partition, scores.logsumexp(-1), rtol=1e-14, atol=1e-13)


def test_methods_agree_on_every_case():
    """Adversarial rows in one batch with a k of its own for each; O(n) against O(nk)."""
    logits, k, grad = padded(tuple(case for case in CASES if len(case.logits) <= 65))
    theta = torch.from_numpy(logits).requires_grad_()
    k, grad = torch.from_numpy(k), torch.from_numpy(grad)
    results = {}
    for method in METHODS:
        marginals, log_partition = reference.marginals(theta, k, method)
        (vjp,) = torch.autograd.grad(marginals, theta, grad)
        results[method] = (marginals.detach(), vjp, log_partition.detach())
        torch.testing.assert_close(
            marginals.sum(-1), k.double(), rtol=1e-13, atol=1e-12, msg=method
        )
    explicit = reference.vjp(theta.detach(), k, grad)
    for method in METHODS:
        mu, vjp, log_z = results[method]
        want = results["recursion"]
        torch.testing.assert_close(mu, want[0], rtol=0, atol=1e-13, msg=f"{method} marginals")
        torch.testing.assert_close(vjp, explicit, rtol=0, atol=1e-13, msg=f"{method} vjp")
        torch.testing.assert_close(log_z, want[2], rtol=2e-13, atol=2e-13, msg=f"{method} log Z")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_explicit_product_against_60_digits(dtype):
    """The centred formula itself, on rows where the textbook one would cancel."""
    chosen = [c for c in CASES if len(c.logits) <= 65 and c.fits_float32]
    assert len(chosen) > 100
    for case in chosen:
        exact = oracle.as_floats(oracle.subset_cached(case.logits, case.k, case.grad).vjp)
        logits, grad = (torch.from_numpy(a).to(dtype) for a in (case.logits, case.grad))
        got = reference.vjp(logits, case.k, grad)
        assert got.dtype == dtype
        error = np.abs(got.double().numpy() - exact).max(initial=0)
        assert error <= bound("vjp", dtype), f"{case.id}: {error:.2e}"


def test_long_rows_in_float32():
    """n = 200,000 in float32 against float64: forward, explicit product, autograd, tangent."""
    n = 200_000
    theta, grad = torch.randn(n), torch.rand(n)
    for k in (10, 50_000, n - 10):
        exact = reference.marginals(theta.double(), k)[0]
        product = reference.vjp(theta.double(), k, grad.double())
        leaf = theta.clone().requires_grad_()
        marginals, _ = reference.marginals(leaf, k)
        (vjp,) = torch.autograd.grad(marginals, leaf, grad)
        values = (marginals.detach(), vjp, reference.vjp(theta, k, grad))
        for value, want in zip(values, (exact, product, product), strict=True):
            assert (value - want).abs().max() < 1e-6
        assert abs(exact.sum().item() - k) < 1e-9 * n


@pytest.mark.parametrize("method", METHODS)
def test_common_part_of_the_gradient_is_taken_off_first(method):
    """g = 1000 + noise in float32: the covariance annihilates the 1000, and only the noise may be
    rounded. Without centring the error is 2e-4.
    """
    n, k = (3000, 700) if method == "contour" else (200, 50)
    theta, grad = torch.randn(n), 1000 + torch.randn(n)
    exact = reference.vjp(theta.double(), k, grad.double())
    leaf = theta.clone().requires_grad_()
    (vjp,) = torch.autograd.grad(reference.marginals(leaf, k, method)[0], leaf, grad)
    assert (vjp - exact).abs().max() < 1e-6
    assert (reference.vjp(theta, k, grad) - exact).abs().max() < 1e-6


def _third_cumulant(theta, k, a, b):
    """The closed form of docs/mathematics.md for d/dtheta <b, Cov a>, centred a and b."""
    row = rows.classify(theta, k)
    item = items.tilt_items(row, tilt.solve_tilt(row))
    mesh = contour.integrate(row, item)
    q, p, variance = item.q, item.p, item.variance
    a = a - (variance * a).sum() / variance.sum()
    b = b - (variance * b).sum() / variance.sum()
    # Weights and deviations with the node m = 0, where d = 0.
    weight = torch.complex(mesh.real, mesh.imag)
    weight = torch.cat([(1 - mesh.real.sum()).reshape(1).to(weight.dtype), weight])[:, None]
    d = torch.complex(*contour._deviation(item, mesh))
    d = torch.cat([torch.zeros_like(d[:1]), d])
    first = (q + d) * (p - d)
    second = first * (p - q - 2 * d)

    def mean(x):
        return (weight * x).sum(0).real

    sum_a, sum_b = (a * d).sum(-1, keepdim=True), (b * d).sum(-1, keepdim=True)
    sum_ab = (a * b * first).sum(-1, keepdim=True)
    dev_a, dev_b, dev_ab = sum_a - mean(sum_a), sum_b - mean(sum_b), sum_ab - mean(sum_ab)
    terms = second * a * b + first * (a * dev_b + b * dev_a)
    return mean(terms + (d - mean(d)) * (dev_ab + dev_a * dev_b))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_third_cumulant(k):
    """Closed form, derivative of the explicit product, and enumeration."""
    theta = torch.randn(8, dtype=torch.float64, requires_grad=True)
    a, b = torch.randn(2, 8, dtype=torch.float64)
    (by_autograd,) = torch.autograd.grad(reference.vjp(theta, k, a), theta, b)
    torch.testing.assert_close(
        _third_cumulant(theta.detach(), k, a, b), by_autograd, rtol=0, atol=1e-13
    )
    hot, log_p = enumeration.law(theta.detach(), k)
    deviation = hot - enumeration.marginals(theta.detach(), k)
    exact = torch.einsum("s,si,s,s->i", log_p.exp(), deviation, deviation @ a, deviation @ b)
    torch.testing.assert_close(by_autograd, exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_ties_at_zero_have_a_derivative(method):
    """x = theta + s is exactly 0 here, where |x| and sign(x) have no derivative of their own."""
    theta = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    marginals, log_partition = reference.marginals(theta, 3, method)
    half = torch.full((6,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(marginals, half, rtol=0, atol=1e-15)
    (grad,) = torch.autograd.grad(log_partition, theta, create_graph=True)
    (hessian_row,) = torch.autograd.grad(grad[0], theta)
    want = enumeration.covariance(theta.detach(), 3)[0]
    torch.testing.assert_close(hessian_row, want, rtol=0, atol=1e-15)


def test_marginals_stay_in_the_unit_interval():
    logits, k, _ = padded(CASES)
    for dtype in (torch.float32, torch.float64):
        marginals = reference.marginals(torch.from_numpy(logits).to(dtype), torch.from_numpy(k))[0]
        assert marginals.min() >= 0
        assert marginals.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_settled_and_invalid_rows(method):
    """Forced, excluded, k' = 0, k' = L: exact values and gradient 0; invalid rows: NaN throughout,
    and no other row is touched.
    """
    theta = torch.tensor(
        [
            [INF, INF, 1.0, 2.0],  # k' = 0
            [-INF, -INF, 1.0, 5.0],  # k' = L
            [-INF, 0.0, 1.0, 2.0],
            [INF, INF, INF, 2.0],  # too many forced
            [-INF, -INF, -INF, 3.0],  # too few left
            [math.nan, 0.0, 0.0, 0.0],
        ],
        dtype=torch.float64,
        requires_grad=True,
    )
    marginals, log_partition = reference.marginals(theta, 2, method)
    assert marginals[:2].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert log_partition[:2].tolist() == [0, 6]
    (by_marginals,) = torch.autograd.grad(
        marginals, theta, torch.randn(6, 4, dtype=torch.float64), retain_graph=True
    )
    (by_partition,) = torch.autograd.grad(log_partition.sum(), theta)
    product = reference.vjp(theta.detach(), 2, torch.randn(6, 4, dtype=torch.float64))
    assert torch.equal(by_marginals[:2], torch.zeros(2, 4, dtype=torch.float64))
    assert torch.equal(product[:2], torch.zeros(2, 4, dtype=torch.float64))
    assert by_partition[:2].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    alone = reference.marginals(theta[2].detach(), 2, method)
    torch.testing.assert_close(marginals[2], alone[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(log_partition[2], alone[1], rtol=0, atol=1e-15)
    for value in (marginals, log_partition, by_marginals, by_partition, product):
        assert value[3:].isnan().all()
        assert value[:3].isfinite().all()
    for k in (-1, 5):
        assert reference.marginals(torch.zeros(4), k, method)[0].isnan().all()
        assert reference.vjp(torch.zeros(4), k, torch.ones(4)).isnan().all()


@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_dtypes(method):
    for shape, k in (
        ((0,), 0),
        ((3, 0), 0),
        ((3, 0, 5), 2),
        ((5,), 2),
        ((2, 3, 5), 4),
        ((0, 5), 1),
    ):
        marginals, log_partition = reference.marginals(torch.zeros(shape), k, method)
        assert marginals.shape == shape
        assert log_partition.shape == shape[:-1]
        assert not marginals.isnan().any()
        assert not log_partition.isnan().any()
    assert reference.marginals(torch.zeros(0), 0, method)[1] == 0
    assert reference.marginals(torch.zeros(0), 1, method)[1].isnan()
    theta = torch.randn(4, 6)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = theta.to(dtype)
        wide = reference.marginals(narrow.float(), 2, method)
        for value, want in zip(reference.marginals(narrow, 2, method), wide, strict=True):
            assert value.dtype == dtype
            assert torch.equal(value, want.to(dtype))
    for size in (torch.tensor(2), torch.tensor([2, 2, 2, 2], dtype=torch.int32)):
        assert torch.equal(
            reference.marginals(theta, size, method)[0],
            reference.marginals(theta, torch.full((4,), 2), method)[0],
        )


def test_unknown_method():
    with pytest.raises(ValueError, match="method is 'exact'; it must be"):
        reference.marginals(torch.zeros(3), 1, "exact")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("huge", [1e30, 3e38])
def test_logits_at_the_end_of_float32(method, huge):
    theta = torch.tensor([huge, 0.0, 1.0, -huge, huge], requires_grad=True)
    for k in (1, 2, 3, 4):
        marginals, log_partition = reference.marginals(theta, k, method)
        (grad,) = torch.autograd.grad(marginals[0] + marginals[2], theta, retain_graph=True)
        (first,) = torch.autograd.grad(log_partition, theta)
        want = oracle.as_floats(oracle.subset(theta.tolist(), k).marginals)
        torch.testing.assert_close(
            marginals.detach().double(), torch.from_numpy(want), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(first, marginals.detach(), rtol=0, atol=1e-6)
        assert grad.isfinite().all()
