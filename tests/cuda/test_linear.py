# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of method="linear" in the emulation, by threads and by trees in memory: against
60-digit arithmetic on the adversarial rows.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from discrete_grad import reference
from tests.accuracy.evaluate import Result, check, check_rows
from tests.cases import CASES, FLOAT32_CASES, padded
from tests.cuda.contour_kernels import Problem, library, linear_forward, linear_vjp
from tests.tolerances import bound

DTYPES = [np.float32, np.float64]
TORCH = {np.float32: torch.float32, np.float64: torch.float64}


def cases_of(dtype, least, most, stride=1):
    rows = FLOAT32_CASES if dtype == np.float32 else CASES
    return tuple(c for c in rows if least < len(c.logits) <= most)[::stride]


def check_batch(cases, dtype, k=None):
    """All four quantities; ``k`` None: each row has its own."""
    logits, counts, grad = padded(cases)
    problem = Problem(logits.astype(dtype), counts if k is None else k)
    g, ones = grad.astype(dtype), np.ones(len(cases), dtype)
    mu, log_z = linear_forward(problem)
    product, slope = linear_vjp(problem, g, None), linear_vjp(problem, None, ones)
    both = linear_vjp(problem, g, 2 * ones)
    check("both", both, product + 2 * slope, 4 * bound("vjp", TORCH[dtype]))
    values = Result(*(v.astype(np.float64) for v in (mu, log_z, product, slope)))
    check_rows(cases, values, TORCH[dtype], "linear")


@pytest.mark.parametrize("bucket", [(0, 4), (4, 8), (8, 17)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_short_rows(dtype, bucket):
    """A row a thread, in words of 16 bytes or item by item; both ways of counting."""
    check_batch(cases_of(dtype, *bucket), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_one_shape(dtype):
    """One k for all: trees of its degree."""
    shape = lambda c: (len(c.logits), c.k)  # noqa: E731
    cases = [c for c in cases_of(dtype, 0, 65) if shape(c) in ((4, 2), (16, 8), (33, 32), (40, 39))]
    for (_, k), some in itertools.groupby(sorted(cases, key=shape), key=shape):
        check_batch(tuple(some), dtype, k)


@pytest.mark.parametrize("bucket", [(17, 64), (64, 300)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_trees_in_shared_memory(dtype, bucket):
    """And, for rows of 300 items with tangents, in scratch memory."""
    check_batch(cases_of(dtype, *bucket, 3 if bucket[1] == 64 else 13), dtype)


@pytest.mark.parametrize("n", [4, 7, 20, 700])
def test_rows_without_an_answer_are_nan_alone(n):
    generator = np.random.RandomState(n)
    logits = generator.standard_normal((7, n))
    logits[1, 2] = np.nan
    logits[2, 1:] = -np.inf
    logits[3, :3] = np.inf
    logits[6, :2] = np.inf, -np.inf
    problem = Problem(logits, np.array([2, 2, 2, 2, n + 1, -1, 2]))
    bad = np.array([False, True, True, True, True, True, False])
    grad, scale = generator.standard_normal((7, n)), generator.standard_normal(7)
    mu, log_z = linear_forward(problem)
    gradient = linear_vjp(problem, grad, scale)
    for value in (mu, log_z[:, None], gradient):
        assert np.array_equal(np.isnan(value).all(1), bad)
        assert np.array_equal(np.isnan(value).any(1), bad)
    theta = torch.from_numpy(logits[~bad]).requires_grad_()
    want, want_z = reference.marginals(theta, 2, "linear")
    check("marginals", mu[~bad], want.detach().numpy(), 1e-13)
    check("log_partition", log_z[~bad], want_z.detach().numpy(), 2e-13, relative=True)
    loss = (want * torch.from_numpy(grad[~bad])).sum()
    loss = loss + (want_z * torch.from_numpy(scale[~bad])).sum()
    (slope,) = torch.autograd.grad(loss, theta)
    check("vjp", gradient[~bad], slope.numpy(), 1e-12)
    for outside in (-1, n + 1):
        assert np.isnan(linear_forward(Problem(logits, outside))[0]).all()
        assert np.isnan(linear_vjp(Problem(logits, outside), grad, None)).all()


@pytest.mark.parametrize("n", [1, 4, 40, 700])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_certain_subsets(n, all_of_them):
    """k = 0 and k = n: constants, whose only derivative is that of log Z."""
    logits = np.random.RandomState(1).standard_normal((3, n))
    scale = np.array([0.5, 2.0, -3.0])
    problem = Problem(logits, n if all_of_them else 0)
    mu, log_z = linear_forward(problem)
    assert (mu == float(all_of_them)).all()
    assert np.allclose(log_z, logits.sum(1) * float(all_of_them), atol=1e-12)
    assert not linear_vjp(problem, logits, None).any()
    assert (linear_vjp(problem, None, scale) == scale[:, None] * float(all_of_them)).all()


@pytest.mark.parametrize("n", [4, 8])
def test_marginals_keep_their_relative_accuracy(n):
    logits = np.zeros((1, n), np.float32)
    logits[0, 0] = -60
    mu, _ = linear_forward(Problem(logits, n // 2))
    # By symmetry: one item of weight e^-60 beside n - 1 of weight 1.
    want = np.exp(-60.0) * (n // 2) / (n - n // 2)
    assert abs(mu[0, 0] / want - 1) < 1e-5


@pytest.mark.parametrize("n", [20, 300])
def test_no_result_depends_on_the_schedule(n):
    generator = np.random.RandomState(2)
    problem = Problem(generator.standard_normal((5, n)), np.array([1, n // 2, n - 1, 0, 3]))
    grad = generator.standard_normal((5, n))
    results = []
    for schedule in (0, 1, 7):
        library().cuda_emulation_schedule(schedule)
        mu, log_z = linear_forward(problem)
        results.append(np.concatenate([mu.ravel(), log_z, linear_vjp(problem, grad, None).ravel()]))
    library().cuda_emulation_schedule(0)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
