# SPDX-License-Identifier: Apache-2.0
"""dg.simple: exact draws forward; the gradients of order 1 and 2 against enumeration."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.estimators.simple import _second_order
from tests.api import enumeration as exact

INF = float("inf")
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("k", [2, torch.tensor([[1], [4]])], ids=["int", "per row"])
def test_forward_is_the_exact_sample(backend, order, k):
    logits = torch.randn(2, 3, 6, requires_grad=True)
    z = dg.simple(logits, k, 5, order=order, generator=seeded())
    assert z.shape == (5, 2, 3, 6)
    assert z.requires_grad
    assert torch.equal(z, dg.subset.sample(logits, k, 5, generator=seeded()))
    assert ((z == 0) | (z == 1)).all()
    assert torch.equal(z.sum(-1), torch.as_tensor(k).expand(5, 2, 3).float())


@pytest.mark.parametrize("order", [1, 2])
def test_num_samples(backend, order):
    logits = torch.randn(3, 6)
    single = dg.simple(logits, 2, order=order, generator=seeded())
    assert single.shape == (3, 6)
    assert torch.equal(single, dg.simple(logits, 2, 1, order=order, generator=seeded())[0])
    assert dg.simple(logits, 2, 0, order=order).shape == (0, 3, 6)


def test_generator_rules_and_default_generator_moves_on(backend):
    logits = torch.zeros(40)
    first = dg.simple(logits, 20, 4, generator=seeded(1))
    assert torch.equal(first, dg.simple(logits, 20, 4, generator=seeded(1)))
    assert not torch.equal(first, dg.simple(logits, 20, 4, generator=seeded(2)))
    state = torch.get_rng_state()
    dg.simple(logits, 20, 4, generator=seeded(1))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    one, two = dg.simple(logits, 20), dg.simple(logits, 20)
    assert not torch.equal(one, two)
    torch.manual_seed(5)
    assert torch.equal(one, dg.simple(logits, 20))


ROWS = {
    "normal": [0.3, -1.2, 0.8, 2.0, -0.4],
    "masked": [0.3, INF, 0.8, -INF, -0.4],
    "steep": [0.3, 40.0, 0.8, -40.0, -0.4],
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_order_1_backward_is_the_covariance_times_the_gradient(backend, row):
    logits = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    z = dg.simple(logits, 2, 7)
    g = torch.randn(7, 5, dtype=torch.float64)
    (ours,) = torch.autograd.grad(z, logits, g)
    assert_close(ours, exact.covariance(logits.detach(), 2) @ g.sum(0), **EXACT)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_order_2_backward_is_its_formula(backend, row):
    logits = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    z = dg.simple(logits, 2, 7, order=2)
    g = torch.randn(7, 5, dtype=torch.float64)
    (ours,) = torch.autograd.grad(z, logits, g)
    deviation = z.detach() - exact.marginals(logits.detach(), 2)
    sigma = exact.covariance(logits.detach(), 2)
    expected = (g @ sigma + deviation * (deviation * g).sum(-1, keepdim=True)) / 2
    assert_close(ours, expected.sum(0), **EXACT)


def test_order_2_differentiated_again_takes_the_deviation_for_a_constant(backend):
    """As documented: of (1/2) [Sigma g + (z - mu) <z - mu, g>] only Sigma depends on theta."""
    row = torch.tensor(ROWS["normal"], dtype=torch.float64)
    g, v = torch.randn(2, 5, dtype=torch.float64)
    logits, reference = row.clone().requires_grad_(), row.clone().requires_grad_()
    z = dg.simple(logits, 2, order=2)
    (first,) = torch.autograd.grad(z, logits, g, create_graph=True)
    (ours,) = torch.autograd.grad(first, logits, v)
    (theirs,) = torch.autograd.grad(exact.covariance(reference, 2) @ g, reference, v)
    assert_close(ours, theirs / 2, **EXACT)


def expected_gradients(logits, k, loss):
    """The mean over all subsets of the order-1 and order-2 estimates, and the true gradient."""
    hot, log_p = exact.law(logits, k)
    value = (log_p.exp() * loss(hot)).sum()
    (true,) = torch.autograd.grad(value, logits, retain_graph=True)
    weights = log_p.exp().detach()
    second = _second_order(logits, k, hot)
    (order_2,) = torch.autograd.grad((weights * loss(second)).sum(), logits)
    z = hot.clone().requires_grad_()
    (g,) = torch.autograd.grad((weights * loss(z)).sum(), z)
    order_1 = exact.covariance(logits.detach(), k) @ g.sum(0)
    return order_1, order_2, true


def test_order_2_is_unbiased_for_quadratic_losses(backend):
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    matrix, vector = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    order_1, order_2, true = expected_gradients(
        logits, 3, lambda z: ((z @ matrix) * z).sum(-1) + z @ vector
    )
    assert_close(order_2, true, **EXACT)
    # The same test sees the bias of order 1, so it is able to fail.
    assert (order_1 - true).abs().max() > 1e-2


def test_order_1_is_unbiased_for_linear_losses(backend):
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    vector = torch.randn(6, dtype=torch.float64)
    _, _, true = expected_gradients(logits, 3, lambda z: z @ vector)
    (ours,) = torch.autograd.grad((dg.simple(logits, 3) * vector).sum(), logits)
    assert_close(ours, true, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", [1, 2])
def test_dtypes_are_kept(backend, dtype, order):
    logits = torch.randn(4, 9).to(dtype).requires_grad_()
    z = dg.simple(logits, 4, order=order)
    assert z.dtype == dtype
    assert ((z == 0) | (z == 1)).all()
    (z * torch.randn(9).to(dtype)).sum().backward()
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("order", [1, 2])
def test_a_nan_row_poisons_no_other_gradient(backend, order):
    logits = torch.randn(3, 5)
    logits[1, 2] = float("nan")
    logits.requires_grad_()
    z = dg.simple(logits, 2, order=order)
    assert z.isnan().all(-1).tolist() == [False, True, False]
    (z * torch.randn(5)).sum().backward()
    assert logits.grad[[0, 2]].isfinite().all()


@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 0, 4), (0,)], ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_batch_shapes(backend, shape, order):
    k = 2 if shape[-1] else 0
    logits = torch.randn(shape, requires_grad=True)
    z = dg.simple(logits, k, 3, order=order)
    assert z.shape == (3, *shape)
    z.sum().backward()
    assert logits.grad.shape == shape
