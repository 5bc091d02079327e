# SPDX-License-Identifier: Apache-2.0
"""The linear kernels against 60-digit arithmetic: in registers, and by the tree in memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.triton_kernels import linear
from tests import oracle
from tests.accuracy.evaluate import Result, check, check_rows
from tests.cases import BY_ID, CASES, FLOAT32_CASES, padded
from tests.tolerances import bound

INF = float("inf")
DTYPES = [torch.float32, torch.float64]


def cases_of(dtype):
    return FLOAT32_CASES if dtype == torch.float32 else CASES


def check_batch(cases, dtype, k):
    """All four quantities; ``k`` None: a tensor with a k for each row."""
    logits, counts, grad = padded(cases)
    theta, g = torch.from_numpy(logits).to(dtype), torch.from_numpy(grad).to(dtype)
    problem = (theta, 0, torch.from_numpy(counts)) if k is None else (theta, k, None)
    ones = torch.ones(len(cases), dtype=dtype)
    mu, log_z = linear.marginals(*problem)
    vjp, slope = linear.vjp(*problem, g, None), linear.vjp(*problem, None, ones)
    both = linear.vjp(*problem, g, 2 * ones)
    torch.testing.assert_close(both, vjp + 2 * slope, rtol=0, atol=4 * bound("vjp", dtype))
    values = (out.double().numpy() for out in (mu, log_z, vjp, slope))
    check_rows(cases, Result(*values), dtype, "linear")


@pytest.mark.parametrize("dtype", DTYPES)
def test_short_rows_with_a_k_each(dtype):
    """All rows of at most 17 items, chosen and unchosen counted; in registers."""
    for first, last in ((0, 4), (4, 17)):
        check_batch(tuple(c for c in cases_of(dtype) if first < len(c.logits) <= last), dtype, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_short_rows_of_one_shape(dtype):
    """n and k compiled in: every k of the smallest rows, and longer rows with few to choose."""
    shape = lambda c: (len(c.logits), c.k)  # noqa: E731
    small = [c for c in cases_of(dtype) if len(c.logits) <= 5]
    longer = [c for c in cases_of(dtype) if shape(c) in ((16, 8), (33, 32), (40, 39), (64, 60))]
    for (_, k), cases in itertools.groupby(sorted(small + longer, key=shape), key=shape):
        check_batch(tuple(cases), dtype, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_by_the_tree_in_memory(dtype):
    check_batch(tuple(c for c in cases_of(dtype) if 36 < len(c.logits) <= 65)[::9], dtype, None)


@pytest.mark.parametrize("n", [4, 20])
def test_invalid_rows_are_nan_and_alone(n):
    logits = torch.randn(7, n)
    logits[1, 2] = float("nan")
    logits[2, 1:] = -INF
    logits[3, :3] = INF
    logits[6, :2] = torch.tensor([INF, -INF])
    k = torch.tensor([2, 2, 2, 2, n + 1, -1, 2])
    invalid = torch.tensor([False, True, True, True, True, True, False])
    grad, scale = torch.randn(7, n), torch.randn(7)
    mu, log_z = linear.marginals(logits, 0, k)
    vjp = linear.vjp(logits, 0, k, grad, scale)
    for out in (mu, log_z, vjp):
        assert out[invalid].isnan().all()
        assert out[~invalid].isfinite().all()
    theta = logits[~invalid].double().requires_grad_()
    want, want_z = reference.marginals(theta, 2, "linear")
    torch.testing.assert_close(mu[~invalid].double(), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_z[~invalid].double(), want_z, rtol=0, atol=2e-6)
    loss = (want * grad[~invalid]).sum() + (want_z * scale[~invalid]).sum()
    (want_vjp,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(vjp[~invalid].double(), want_vjp, rtol=0, atol=2e-6)
    for outside in (-1, n + 1):
        mu, log_z = linear.marginals(logits, outside, None)
        assert mu.isnan().all()
        assert log_z.isnan().all()
        assert linear.vjp(logits, outside, None, grad, None).isnan().all()


@pytest.mark.parametrize("n", [4, 40])
@pytest.mark.parametrize("k", ["none", "all"])
def test_certain_subsets(n, k):
    """k = 0 and k = n: constants, whose only derivative is that of log Z."""
    logits, scale = torch.randn(3, n, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    size = 0 if k == "none" else n
    mu, log_z = linear.marginals(logits, size, None)
    assert (mu == float(size > 0)).all()
    torch.testing.assert_close(log_z, logits.sum(-1) * float(size > 0))
    assert not linear.vjp(logits, size, None, torch.randn(3, n).double(), None).any()
    want = scale.unsqueeze(-1).expand(3, n) * float(size > 0)
    assert torch.equal(linear.vjp(logits, size, None, None, scale), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit(dtype):
    """Computed in float32 and rounded once (the interpreter cuts bfloat16 off instead)."""
    case = BY_ID["size-n8-k4"]
    logits, grad = (torch.from_numpy(x).to(dtype) for x in (case.logits, case.grad))
    mu, log_z = linear.marginals(logits, case.k, None)
    vjp = linear.vjp(logits, case.k, None, grad, None)
    assert mu.dtype == log_z.dtype == vjp.dtype == dtype
    exact = oracle.subset(logits.double().tolist(), case.k, grad.double().tolist())
    step = 2 if dtype == torch.bfloat16 else 1
    want = oracle.as_floats(exact.marginals)
    check("marginals", mu.double().numpy(), want, step * bound("marginals", dtype))
    check("vjp", vjp.double().numpy(), oracle.as_floats(exact.vjp), step * bound("vjp", dtype))
    want_z = np.array(float(exact.log_partition))
    tolerance = step * bound("log_partition", dtype)
    check("log_partition", log_z.double().numpy(), want_z, tolerance, relative=True)


def test_shapes():
    logits = torch.randn(2, 3, 6).transpose(0, 1)
    mu, log_z = linear.marginals(logits, 2, None)
    assert mu.shape == (3, 2, 6)
    assert log_z.shape == (3, 2)
    grad = torch.randn(2, 3, 6).transpose(0, 1)
    theta = logits.double().requires_grad_()
    want, _ = reference.marginals(theta, 2, "linear")
    torch.testing.assert_close(mu.double(), want, rtol=0, atol=1e-6)
    (want_vjp,) = torch.autograd.grad(want, theta, grad.double())
    vjp = linear.vjp(logits, 2, None, grad, None)
    torch.testing.assert_close(vjp.double(), want_vjp, rtol=0, atol=2e-6)
    mu, log_z = linear.marginals(torch.empty(0, 6), 2, None)
    assert mu.shape == (0, 6)
    assert log_z.shape == (0,)
