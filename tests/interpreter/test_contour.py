# SPDX-License-Identifier: Apache-2.0
"""The contour kernels, fused and split, through the public functions and their autograd."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import discrete_grad as dg
from discrete_grad import reference
from discrete_grad.triton_kernels import blocks, contour, marginals, split
from discrete_grad.triton_kernels.rows import cdiv
from tests.accuracy.evaluate import check, check_rows, evaluate
from tests.cases import CASES, FLOAT32_CASES, padded
from tests.tolerances import bound

DTYPES = [torch.float32, torch.float64]
# Rows of like length share a batch, so that a program's tile is not mostly padding.
BUCKETS = list(itertools.pairwise((0, 8, 40, 64, 300)))


def cases_of(dtype, bucket, stride):
    """Every so many of the rows: each takes the interpreter up to a second."""
    rows = FLOAT32_CASES if dtype == torch.float32 else CASES
    return tuple(c for c in rows if bucket[0] < len(c.logits) <= bucket[1])[::stride]


def check_batch(cases, dtype):
    logits, k, grad = padded(cases)
    got = evaluate(logits, k, grad, dtype, "contour")
    check_rows(cases, got, dtype, "contour")


@pytest.fixture
def every_row_is_long(monkeypatch):
    """The split path with several parts, each of several blocks, for rows of any length."""
    monkeypatch.setattr(contour, "fits_tile", lambda n, dtype: False)

    def small(n, rows, dtype):
        return blocks.Split(4, cdiv(cdiv(n, 4), 32) * 32, 32, 1)

    monkeypatch.setattr(split, "split_row", small)


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda b: f"n{b[0]}-{b[1]}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_rows(dtype, bucket):
    check_batch(cases_of(dtype, bucket, 8 if bucket[1] > 64 else 3), dtype)


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda b: f"n{b[0]}-{b[1]}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_split_rows(every_row_is_long, dtype, bucket):
    check_batch(cases_of(dtype, bucket, 12 if bucket[1] > 64 else 6), dtype)


@pytest.mark.parametrize("steps", [0, 1])
def test_rows_whose_tilt_the_passes_leave_unfinished(every_row_is_long, monkeypatch, steps):
    monkeypatch.setattr(split, "_STEPS", steps)
    check_batch(cases_of(torch.float32, (40, 64), 6), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_beyond_a_tile(dtype):
    """The rule's own parts and blocks."""
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(2, 20_000, generator=generator, dtype=torch.float64)
    logits = logits.float().double()
    grad = torch.rand(2, 20_000, generator=generator, dtype=torch.float64).float().double()
    k = torch.tensor([37, 9_000])
    theta = logits.to(dtype).requires_grad_()
    mu = dg.subset.marginals(theta, k)
    (gradient,) = torch.autograd.grad(mu, theta, grad.to(dtype))
    exact, log_partition = reference.marginals(logits, k, "contour")
    found = (mu.double() - exact).abs().max()
    assert found <= bound("marginals", dtype)
    product = reference.vjp(logits, k, grad)
    assert (gradient.double() - product).abs().max() <= bound("vjp", dtype)
    error = (dg.subset.log_partition(logits.to(dtype), k) - log_partition).abs() / log_partition
    assert error.max() <= bound("log_partition", dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [12, 40])
def test_16_bit_rows(dtype, n):
    """Computed in float32. The interpreter truncates to bfloat16: one unit in the last place."""
    logits = torch.randn(9, n, generator=torch.Generator().manual_seed(n)).to(dtype)
    unit = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    exact, log_partition = reference.marginals(logits.double(), n // 3, "contour")
    mu = dg.subset.marginals(logits, n // 3, method="contour")
    assert mu.dtype == dtype
    assert (mu.double() - exact).abs().max() <= unit + 1e-6
    error = dg.subset.log_partition(logits, n // 3, method="contour").double() - log_partition
    assert (error.abs() / log_partition.abs().clamp_min(1)).max() <= 2 * unit


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_an_answer_are_nan_alone(request, dtype, long):
    if long:
        request.getfixturevalue("every_row_is_long")
    logits = torch.randn(7, 10, dtype=dtype, generator=torch.Generator().manual_seed(1))
    clean = logits.clone()
    logits[1, 3] = torch.nan
    logits[2, 2:] = -torch.inf  # two live, three wanted
    logits[3, :4] = torch.inf  # four forced
    k = torch.tensor([3, 3, 3, 3, -1, 11, 3])
    bad = torch.tensor([False, True, True, True, True, True, False])
    theta = logits.clone().requires_grad_()
    mu = dg.subset.marginals(theta, k, method="contour")
    log_partition = dg.subset.log_partition(theta, k, method="contour")
    (gradient,) = torch.autograd.grad(mu[..., 0].sum() + log_partition.sum(), theta)
    for value in (mu, log_partition, gradient):
        rows = value.reshape(7, -1)
        assert torch.equal(rows.isnan().all(-1), bad)
        assert torch.equal(rows.isnan().any(-1), bad)
    expected, _ = reference.marginals(clean[[0, 6]].double(), 3, "contour")
    check("marginals", mu[[0, 6]].detach().double().numpy(), expected.numpy(), 1e-6)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 5), (2, 0), (0, 4)])
def test_nothing_to_do(shape):
    k = min(shape[-1], 2)
    theta = torch.randn(shape, requires_grad=True)
    mu = dg.subset.marginals(theta, k, method="contour")
    log_partition = dg.subset.log_partition(theta, k, method="contour")
    assert mu.shape == shape
    assert torch.equal(log_partition, torch.zeros(shape[:-1]))
    (gradient,) = torch.autograd.grad(mu.sum() + log_partition.sum(), theta)
    assert gradient.shape == shape


def test_layouts_do_not_matter():
    base = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(2))
    logits = base.transpose(1, 2)  # items are not contiguous
    k = torch.tensor([[2], [3], [4], [9]]).expand(4, 6)
    found = dg.subset.marginals(logits, k, method="contour")
    assert torch.equal(found, dg.subset.marginals(logits.contiguous(), k, method="contour"))
    grad = torch.randn(4, 9, 6).transpose(1, 2)
    one, other = (
        marginals.subset_marginals_vjp(logits, 9, k, "contour", None, g, None)
        for g in (grad, grad.contiguous())
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("long", [False, True])
def test_without_a_state_the_rows_are_solved_again(request, long):
    """As in SIMPLE's backward pass, which follows a sampler."""
    if long:
        request.getfixturevalue("every_row_is_long")
    logits = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    logits[1, :3] = -torch.inf
    logits[2, :2] = torch.inf
    k = torch.tensor([4, 9, 5, 0, 12])
    grad, slope = torch.randn(5, 12).double(), torch.randn(5).double()
    _, _, state = marginals.subset_marginals(logits, 12, k, "contour")
    for g, c in ((grad, None), (None, slope), (grad, slope)):
        saved, solved = (
            marginals.subset_marginals_vjp(logits, 12, k, "contour", s, g, c) for s in (state, None)
        )
        check("vjp", solved.numpy(), saved.numpy(), 1e-14)


@pytest.mark.parametrize("long", [False, True])
def test_second_derivatives(request, long):
    """The third cumulant against the reference under plain autograd."""
    if long:
        request.getfixturevalue("every_row_is_long")
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(6, 11, dtype=torch.float64, generator=generator)
    logits[1, :2] = -torch.inf
    logits[2, 5] = torch.inf
    k = torch.tensor([4, 3, 6, 0, 11, 1])
    a, b = torch.randn(2, 6, 11, dtype=torch.float64, generator=generator)

    def twice(function):
        theta = logits.clone().requires_grad_()
        (first,) = torch.autograd.grad((function(theta) * a).sum(), theta, create_graph=True)
        return torch.autograd.grad((first * b).sum(), theta)[0]

    found = twice(lambda theta: dg.subset.marginals(theta, k, method="contour"))
    want = twice(lambda theta: reference.marginals(theta, k, "contour")[0])
    check("second derivative", found.numpy(), want.numpy(), 1e-12)
    invalid = marginals.subset_third_cumulant(logits[:1], 12, None, a[:1], b[:1])
    assert invalid.isnan().all()


def test_unknown_method():
    with pytest.raises(ValueError, match="method must be 'contour', 'linear' or 'recursion'"):
        marginals.subset_marginals(torch.randn(4), 2, None, "dp")


def test_results_do_not_depend_on_the_rows_beside():
    logits = torch.randn(70, 6, generator=torch.Generator().manual_seed(6))
    together = dg.subset.marginals(logits, 2, method="contour")
    alone = torch.stack([dg.subset.marginals(row, 2, method="contour") for row in logits[::7]])
    assert np.allclose(together[::7].numpy(), alone.numpy(), atol=2e-7, rtol=0)
