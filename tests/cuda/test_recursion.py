# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the log recursion, in the emulation: marginals and log-partition, the law of
the count and its two derivatives, against 60-digit arithmetic and the reference.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.subset import count_log_prob as public_count_log_prob
from tests import oracle
from tests.accuracy.evaluate import check
from tests.cases import BY_ID, CASES, FLOAT32_CASES, padded
from tests.cuda.tree_kernels import (
    count_law,
    count_law_second,
    count_law_vjp,
    library,
    recursion,
    uses_scratch,
)
from tests.tolerances import RECURSION_RELATIVE_FLOAT64, RECURSION_RELATIVE_FLOOR, bound

INF = float("inf")
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@pytest.fixture(params=[0, 1, 7], ids=["forward", "reverse", "drawn"])
def schedule(request):
    """The order in which the threads of a block run."""
    library().cuda_emulation_schedule(request.param)
    yield request.param
    library().cuda_emulation_schedule(0)


def check_batch(cases, dtype, length, in_memory):
    """One call with a k for each row; rows padded by exclusion to ``length``."""
    logits, k, _ = padded(cases)
    wide = np.full((len(cases), max(length, logits.shape[1])), -INF)
    wide[:, : logits.shape[1]] = logits
    theta = torch.from_numpy(wide).to(dtype)
    sizes = torch.from_numpy(k)
    assert uses_scratch(theta, sizes) == in_memory
    mu, log_z = recursion(theta, sizes)
    mu, log_z = mu.double().numpy(), log_z.double().numpy()
    for row, case in enumerate(cases):
        n = len(case.logits)
        exact = oracle.subset_cached(case.logits, case.k, case.grad)
        want = oracle.as_floats(exact.marginals)
        tolerance = bound("marginals", dtype, "recursion")
        check(f"{case.id}: marginals", mu[row, :n], want, tolerance)
        assert not mu[row, n:].any(), f"{case.id}: an excluded item is not exactly 0"
        want_z = np.array(float(exact.log_partition))
        tolerance = bound("log_partition", dtype, "recursion")
        check(f"{case.id}: log_partition", log_z[row], want_z, tolerance, relative=True)
        if dtype == torch.float64:
            kept = want >= RECURSION_RELATIVE_FLOOR
            error = np.abs(mu[row, :n] - want)[kept] / want[kept]
            worst = error.max(initial=0.0)
            assert worst <= RECURSION_RELATIVE_FLOAT64, f"{case.id}: relative error {worst:.3g}"
            below = mu[row, :n][~kept]
            assert ((below >= 0) & (below < 2 * RECURSION_RELATIVE_FLOOR)).all(), case.id


def cases_of(dtype, shortest, longest, stride=1):
    rows = FLOAT32_CASES if dtype == torch.float32 else CASES
    return tuple(c for c in rows if shortest < len(c.logits) <= longest)[::stride]


@DTYPE
@pytest.mark.parametrize(
    ("shortest", "longest", "stride"),
    [(0, 9, 1), (9, 33, 1), (33, 65, 2), (65, 200, 4)],
)
def test_rows(dtype, shortest, longest, stride):
    check_batch(cases_of(dtype, shortest, longest, stride), dtype, 0, in_memory=False)


@DTYPE
def test_rows_in_memory(dtype):
    check_batch(cases_of(dtype, 9, 300, 17), dtype, 640, in_memory=True)


@DTYPE
@pytest.mark.parametrize("k", [1, 7, 26, 32])
def test_same_k_for_all_rows(dtype, k, schedule):
    """The tree then keeps degrees up to min(k, n - k) only, and blocks serve several rows."""
    logits = 2 * torch.randn(70, 33, dtype=dtype)
    assert not uses_scratch(logits, k)
    mu, log_z = recursion(logits, k)
    want, want_z = reference.marginals(logits.double(), k, "recursion")
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(mu.double(), want, rtol=tolerance, atol=0)
    torch.testing.assert_close(log_z.double(), want_z, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "k"), [(1500, 40), (1201, 1195)])
def test_long_rows(n, k):
    logits = 3 * torch.randn(2, n, dtype=torch.float64)
    assert uses_scratch(logits, k)
    mu, log_z = recursion(logits, k)
    want, want_z = reference.marginals(logits, k, "recursion")
    torch.testing.assert_close(mu, want, rtol=1e-10, atol=0)
    torch.testing.assert_close(log_z, want_z, rtol=1e-13, atol=0)


def test_rows_in_turns():
    """More rows than the scratch memory of one turn holds: the last ones equal the first."""
    rows, n = 30, 40_000
    logits = torch.randn(3, n, dtype=torch.float64)[torch.arange(rows) % 3]
    assert uses_scratch(logits, 1)
    mu, log_z = recursion(logits, 1)
    want = torch.softmax(logits[:3], dim=-1)
    torch.testing.assert_close(mu[:3], want, rtol=1e-11, atol=0)
    assert torch.equal(mu.view(-1, 3, n), mu[:3].expand(rows // 3, 3, n))
    assert torch.equal(log_z.view(-1, 3), log_z[:3].expand(rows // 3, 3))


@pytest.mark.parametrize("length", [0, 420], ids=["shared", "memory"])
def test_invalid_rows_are_nan_and_alone(length):
    rows = [
        [0.5, -1.0, 2.0, 0.25],
        [0.5, float("nan"), 2.0, 0.25],
        [-INF, -INF, -INF, 1.0],
        [INF, INF, INF, 1.0],
        [0.5, -1.0, 2.0, 0.25],
        [0.5, -1.0, 2.0, 0.25],
        [0.5, -1.0, 2.0, 0.25],
        [1.0, -INF, INF, 2.0],
    ]
    logits = torch.full((8, max(4, length)), -INF, dtype=torch.float64)
    logits[:, :4] = torch.tensor(rows)
    k = torch.tensor([2, 2, 2, 2, 5, -1, 4, 3])
    assert uses_scratch(logits, k) == (length > 0)
    mu, log_z = recursion(logits, k)
    invalid = torch.tensor([False, True, True, True, True, True, False, False])
    assert mu[invalid].isnan().all()
    assert log_z[invalid].isnan().all()
    want, want_z = reference.marginals(logits, k, "recursion")
    torch.testing.assert_close(mu[~invalid], want[~invalid], rtol=0, atol=1e-13)
    torch.testing.assert_close(log_z[~invalid], want_z[~invalid], rtol=0, atol=1e-13)
    for outside in (-1, logits.shape[1] + 1):
        mu, log_z = recursion(logits[:1], outside)
        assert mu.isnan().all()
        assert log_z.isnan().all()


def test_one_item():
    logits = torch.tensor([[0.75], [-INF], [INF], [torch.nan], [2.0]])
    mu, log_z = recursion(logits, torch.tensor([1, 0, 1, 1, 0]))
    torch.testing.assert_close(mu[:, 0], torch.tensor([1, 0, 1, torch.nan, 0]), equal_nan=True)
    torch.testing.assert_close(log_z, torch.tensor([0.75, 0, 0, torch.nan, 0]), equal_nan=True)


COUNT_IDS = [
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


@DTYPE
@pytest.mark.parametrize("name", COUNT_IDS)
def test_law_of_the_count(name, dtype):
    case = BY_ID[name].logits
    n = len(case)
    exact = np.array([float(v) for v in oracle.count_log_prob(case, n + 2)])
    for max_count in sorted({0, n // 3, n + 2}):
        logits = torch.from_numpy(case).to(dtype).reshape(1, n)
        assert not uses_scratch(logits, max_count, 0)
        got = count_law(logits, max_count)
        label = f"{name}, max_count {max_count}"
        tolerance = bound("count_log_prob", dtype)
        want = exact[: max_count + 1]
        check(label, got[0].double().numpy(), want, tolerance, relative=True)


def test_law_of_the_count_in_memory():
    logits = 2 * torch.randn(3, 1201, dtype=torch.float64)
    logits[1, ::3], logits[2, 7] = -INF, INF
    for max_count in (900, 1210):
        assert uses_scratch(logits, max_count, 0)
        got = count_law(logits, max_count)
        want = reference.count_log_prob(logits, max_count)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def expected(logits, max_count, grad, tangent):
    """(vjp, (grad_grad, grad_logits)) by autograd through the reference."""
    theta, g = logits.clone().requires_grad_(), grad.clone().requires_grad_()
    table = reference.count_log_prob(theta, max_count)
    possible = table > -INF
    weighted = (torch.where(possible, table, 0.0) * g).sum()
    (vjp,) = torch.autograd.grad(weighted, theta, create_graph=True)
    second = torch.autograd.grad((vjp * tangent).sum(), (g, theta))
    return vjp.detach(), second


def check_derivatives(n, max_count):
    """A batch with excluded and forced items; counts above n and impossible ones give nothing."""
    logits = 3 * torch.randn(4, n, dtype=torch.float64)
    logits[1, ::4] = -INF
    logits[2, [3, 7]] = INF
    logits[3, 0], logits[3, 1] = INF, -INF
    grad = torch.randn(4, max_count + 1, dtype=torch.float64)
    tangent = torch.randn(4, n, dtype=torch.float64)
    vjp, (grad_grad, grad_logits) = expected(logits, max_count, grad, tangent)
    got = count_law_vjp(logits, max_count, grad)
    torch.testing.assert_close(got, vjp, rtol=1e-10, atol=1e-10)
    got_grad, got_logits = count_law_second(logits, max_count, grad, tangent)
    finite = logits.isfinite()
    torch.testing.assert_close(got_logits[finite], grad_logits[finite], rtol=1e-9, atol=1e-9)
    assert not got_logits[~finite].any()
    torch.testing.assert_close(got_grad, grad_grad, rtol=1e-10, atol=1e-10)
    narrow = count_law_vjp(logits.float(), max_count, grad.float())
    torch.testing.assert_close(narrow.double(), vjp, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("max_count", [0, 1, 4, 11, 14])
def test_derivatives_of_the_law(max_count, schedule):
    check_derivatives(11, max_count)


@pytest.mark.parametrize(("n", "max_count"), [(420, 200), (430, 440)])
def test_derivatives_of_the_law_in_memory(n, max_count):
    assert uses_scratch(torch.zeros(4, n, dtype=torch.float64), max_count, 1)
    check_derivatives(n, max_count)


@pytest.mark.parametrize("n", [5, 620])
def test_nan_rows_of_the_law_are_alone(n):
    logits = torch.randn(3, n)
    logits[1, 2] = float("nan")
    grad, tangent = torch.ones(3, n + 3), torch.ones(3, n)
    for out in (
        count_law(logits, n + 2),
        count_law_vjp(logits, n + 2, grad),
        *count_law_second(logits, n + 2, grad, tangent),
    ):
        assert out[1].isnan().all()
        assert not out[[0, 2]].isnan().any()


def test_agrees_with_the_cpu_kernels():
    logits = 2 * torch.randn(40, 48)
    got = count_law(logits, 20)
    torch.testing.assert_close(got, public_count_log_prob(logits, 20), rtol=1e-5, atol=1e-5)
