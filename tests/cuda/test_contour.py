# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the contour, fused and split, in the emulation: against 60-digit arithmetic
on the adversarial rows, and against the reference on rows that need the larger teams.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from discrete_grad import reference
from tests.accuracy.evaluate import Result, check, check_rows
from tests.cases import CASES, FLOAT32_CASES, padded
from tests.cuda.contour_kernels import Problem, Split, forward, library, third_cumulant, vjp
from tests.tolerances import bound

DTYPES = [np.float32, np.float64]
TORCH = {np.float32: torch.float32, np.float64: torch.float64}
# Rows of like length share a batch; each bucket is another shape of team.
BUCKETS = list(itertools.pairwise((0, 16, 64, 128, 300)))


def cases_of(dtype, bucket, stride=1):
    rows = FLOAT32_CASES if dtype == np.float32 else CASES
    return tuple(c for c in rows if bucket[0] < len(c.logits) <= bucket[1])[::stride]


def check_batch(cases, dtype, split=None):
    """Marginals, log-partition, their gradients, and both gradients at once."""
    logits, k, grad = padded(cases)
    problem, g = Problem(logits.astype(dtype), k), grad.astype(dtype)
    ones = np.ones(len(cases), dtype)
    mu, log_z, state = forward(problem, split)
    product, slope = vjp(problem, state, g, None, split), vjp(problem, state, None, ones, split)
    both = vjp(problem, state, g, 2 * ones, split)
    check("both", both, product + 2 * slope, 4 * bound("vjp", TORCH[dtype]))
    values = Result(*(v.astype(np.float64) for v in (mu, log_z, product, slope)))
    check_rows(cases, values, TORCH[dtype], "contour")


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda b: f"n{b[0]}-{b[1]}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_rows(dtype, bucket):
    check_batch(cases_of(dtype, bucket, {300: 9, 128: 3}.get(bucket[1], 1)), dtype)


@pytest.mark.parametrize("bucket", [(0, 64), (64, 300)], ids=lambda b: f"n{b[0]}-{b[1]}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_split_rows(dtype, bucket):
    cases = cases_of(dtype, bucket, 11 if bucket[1] == 64 else 19)
    check_batch(cases, dtype, Split(4, (bucket[1] + 3) // 4))


def random_rows(seed, rows, n, dtype):
    generator = np.random.RandomState(seed)
    logits = (2 * generator.standard_normal((rows, n))).astype(np.float32)
    grad = generator.uniform(-1, 1, (rows, n)).astype(np.float32)
    return logits.astype(dtype), grad.astype(dtype)


def check_against_reference(problem, grad, split=None):
    """Rows too long for the oracle: the reference in double, which is held to it elsewhere."""
    dtype = problem.logits.dtype.type
    theta, k = torch.from_numpy(problem.logits).double(), torch.from_numpy(np.array(problem.k))
    exact, log_partition = reference.marginals(theta, k, "contour")
    mu, log_z, state = forward(problem, split)
    check("marginals", mu, exact.numpy(), bound("marginals", TORCH[dtype]))
    limit = bound("log_partition", TORCH[dtype])
    check("log_partition", log_z, log_partition.numpy(), limit, relative=True)
    want = reference.vjp(theta, k, torch.from_numpy(grad).double()).numpy()
    check("vjp", vjp(problem, state, grad, None, split), want, bound("vjp", TORCH[dtype]))


@pytest.mark.parametrize("n", [300, 900, 2047, 4096, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_larger_teams(dtype, n):
    """Beyond 2048 items double rows are split, by the rule's own parts."""
    logits, grad = random_rows(n, 2, n, dtype)
    check_against_reference(Problem(logits, np.array([n // 50, n // 2])), grad)


def test_a_row_that_is_split_by_the_rule():
    logits, grad = random_rows(5, 1, 40_000, np.float32)
    check_against_reference(Problem(logits, np.array([9_000])), grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tilt_that_the_shared_steps_leave_unfinished(dtype):
    """A gap of many times the spread of the logits: the sum is flat there."""
    logits = np.linspace(-1, 1, 300).astype(np.float32).astype(dtype)
    logits[::3] += 300
    grad = np.linspace(1, -1, 300).astype(np.float32).astype(dtype)
    problem = Problem(logits[None].repeat(3, 0), np.array([99, 100, 101]))
    check_against_reference(problem, grad[None].repeat(3, 0), Split(3, 100))


@pytest.mark.parametrize("split", [None, Split(3, 4)], ids=["fused", "split"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_an_answer_are_nan_alone(dtype, split):
    logits, grad = random_rows(1, 7, 10, dtype)
    clean = Problem(logits.copy(), 3)
    logits[1, 3] = np.nan
    logits[2, 2:] = -np.inf  # two live, three wanted
    logits[3, :4] = np.inf  # four forced
    problem = Problem(logits, np.array([3, 3, 3, 3, -1, 11, 3]))
    bad = np.array([False, True, True, True, True, True, False])
    mu, log_z, state = forward(problem, split)
    gradient = vjp(problem, state, grad, np.ones(7, dtype), split)
    for value in (mu, log_z[:, None], gradient, state):
        assert np.array_equal(np.isnan(value).all(1), bad)
        assert np.array_equal(np.isnan(value).any(1), bad)
    expected, _, _ = forward(clean, split)
    assert np.array_equal(mu[~bad], expected[~bad])


@pytest.mark.parametrize("split", [None, Split(2, 3)], ids=["fused", "split"])
@pytest.mark.parametrize("k", [0, 6])
def test_certain_subsets(k, split):
    """Constants, whose only derivative is that of log Z; the state says which items."""
    logits, grad = random_rows(2, 3, 6, np.float64)
    problem = Problem(logits, k)
    mu, log_z, state = forward(problem, split)
    assert (mu == float(k > 0)).all()
    assert np.allclose(log_z, logits.sum(1) * float(k > 0), atol=1e-14)
    assert (state[:, 0] == (np.inf if k else -np.inf)).all()
    assert not state[:, 2:].any()
    scale = np.array([0.5, 2.0, -3.0])
    assert (vjp(problem, state, grad, scale, split) == scale[:, None] * float(k > 0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [12, 40, 300])
def test_a_missing_state_is_made_again(dtype, n):
    logits, grad = random_rows(3, 5, n, dtype)
    problem = Problem(logits, n // 3)
    _, _, state = forward(problem, only_state=True)
    assert np.array_equal(state, forward(problem)[2])
    ones = np.ones(5, dtype)
    assert np.array_equal(vjp(problem, None, grad, ones), vjp(problem, state, grad, ones))


@pytest.mark.parametrize(
    ("n", "split"),
    [(40, None), (300, None), (300, Split(2, 150))],
    ids=["warp", "block", "split"],
)
def test_no_result_depends_on_the_schedule(n, split):
    """What a missing barrier would change; every warp has items here. Nor on the rows beside."""
    logits, grad = random_rows(4, 4, n, np.float32)
    logits[2, :10] = -np.inf
    problem = Problem(logits, np.array([1, n + 1, n // 2, n - 1]))
    results = []
    for schedule in (0, 1, 7):
        library().cuda_emulation_schedule(schedule)
        mu, log_z, state = forward(problem, split)
        gradient = vjp(problem, state, grad, np.ones(4, np.float32), split)
        results.append(np.concatenate([mu.ravel(), log_z, state.ravel(), gradient.ravel()]))
    library().cuda_emulation_schedule(0)
    assert np.array_equal(results[0], results[1], equal_nan=True)
    assert np.array_equal(results[0], results[2], equal_nan=True)
    alone, _, _ = forward(Problem(logits[3:].copy(), n - 1), split)
    assert np.array_equal(alone, forward(problem, split)[0][3:])


def test_the_third_cumulant_does_not_depend_on_the_schedule():
    logits, a = random_rows(6, 2, 300, np.float64)
    problem = Problem(logits, np.array([20, 150]))
    results = []
    for schedule in (0, 1, 7):
        library().cuda_emulation_schedule(schedule)
        results.append(third_cumulant(problem, a, logits))
    library().cuda_emulation_schedule(0)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("n", [11, 9000])
def test_third_cumulant(n):
    """Second derivatives of the marginals, against those of the reference under autograd; the long
    row in several parts, against the derivative of the VJP.
    """
    generator = torch.Generator().manual_seed(4)
    rows = 6 if n == 11 else 2
    logits = torch.randn(rows, n, dtype=torch.float64, generator=generator)
    logits[1, :2] = -torch.inf
    a, b = torch.randn(2, rows, n, dtype=torch.float64, generator=generator)
    k = torch.tensor([4, 3])
    if n == 11:
        logits[2, 5] = torch.inf
        k = torch.tensor([4, 3, 6, 0, 11, 1])
        theta = logits.clone().requires_grad_()
        mu, _ = reference.marginals(theta, k, "contour")
        (first,) = torch.autograd.grad((mu * a).sum(), theta, create_graph=True)
        (want,) = torch.autograd.grad((first * b).sum(), theta)
    else:
        step = 1e-4 * torch.where(logits.isfinite(), b, 0)
        up, down = (reference.vjp(logits + sign * step, k, a) for sign in (1, -1))
        want = (up - down) / 2e-4
    problem = Problem(logits.numpy(), k.numpy())
    found = third_cumulant(problem, a.numpy(), b.numpy())
    check("third cumulant", found, want.numpy(), 1e-12 if n == 11 else 1e-7)
    invalid = third_cumulant(Problem(logits.numpy(), n + 1), a.numpy(), b.numpy())
    assert np.isnan(invalid).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows(dtype):
    problem = Problem(np.empty((0, 5), dtype), 2)
    mu, log_z, state = forward(problem)
    assert mu.shape == (0, 5)
    assert vjp(problem, state, mu, log_z).shape == (0, 5)
