# SPDX-License-Identifier: Apache-2.0
"""The recursion kernels against 60-digit arithmetic: absolute and relative accuracy, every kind of
row, and every way of sharing out the tree.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.triton_kernels import blocks, marginals, recursion, tree
from discrete_grad.triton_kernels.rows import as_rows
from tests import oracle
from tests.accuracy.evaluate import check
from tests.cases import BY_ID, CASES, FLOAT32_CASES, padded
from tests.tolerances import RECURSION_RELATIVE_FLOAT64, RECURSION_RELATIVE_FLOOR, bound

INF = float("inf")
DTYPES = [torch.float32, torch.float64]
# Rows of like length share a batch; of the longer ones, every few.
BUCKETS = {(0, 9): 1, (9, 33): 1, (33, 65): 5, (65, 300): 14}


def cases_of(dtype, bucket, stride):
    rows = FLOAT32_CASES if dtype == torch.float32 else CASES
    return tuple(c for c in rows if bucket[0] < len(c.logits) <= bucket[1])[::stride]


def check_batch(cases, dtype, *, log=True):
    """One call with a k for each row; rows padded by exclusion."""
    logits, k, _ = padded(cases)
    rows = as_rows(torch.from_numpy(logits).to(dtype), 0, torch.from_numpy(k))
    mu, log_z = (out.double().numpy() for out in recursion.marginals_by_tree(rows, log=log))
    method = "recursion" if log else "linear"
    for row, case in enumerate(cases):
        n = len(case.logits)
        exact = oracle.subset_cached(case.logits, case.k, case.grad)
        want = oracle.as_floats(exact.marginals)
        check(f"{case.id}: marginals", mu[row, :n], want, bound("marginals", dtype, method))
        assert not mu[row, n:].any(), f"{case.id}: an excluded item is not exactly 0"
        want_z = np.array(float(exact.log_partition))
        tolerance = bound("log_partition", dtype, method)
        check(f"{case.id}: log_partition", log_z[row], want_z, tolerance, relative=True)
        if log and dtype == torch.float64:
            kept = want >= RECURSION_RELATIVE_FLOOR
            error = np.abs(mu[row, :n] - want)[kept] / want[kept]
            worst = error.max(initial=0.0)
            assert worst <= RECURSION_RELATIVE_FLOAT64, f"{case.id}: relative error {worst:.3g}"
            below = mu[row, :n][~kept]
            assert ((below >= 0) & (below < 2 * RECURSION_RELATIVE_FLOOR)).all(), case.id


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda b: f"n{b[0]}-{b[1]}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows(dtype, bucket):
    check_batch(cases_of(dtype, bucket, BUCKETS[bucket]), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_rows_that_do_not_fit_registers(dtype):
    check_batch(cases_of(dtype, (33, 65), 9), dtype, log=False)


@pytest.fixture
def several_programs_a_row(monkeypatch):
    """Small tiles and one launch for each level."""
    monkeypatch.setattr(tree, "TREE_TILE", blocks.Tile(4, 32, 1))
    monkeypatch.setattr(tree, "tree_share", lambda rows, coefficients: blocks.TreeShare(1, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_programs_a_row(several_programs_a_row, dtype):
    cases = cases_of(dtype, (9, 33), 12)
    check_batch(cases, dtype)
    check_batch(cases, dtype, log=False)


def test_rows_in_blocks_and_in_turns(monkeypatch):
    """Tiles shorter than a row, and scratch memory for few rows at a time."""
    small = blocks.Tile(2, 8, 1)
    monkeypatch.setattr(recursion, "tilt_tile", lambda n, dtype: small)
    monkeypatch.setattr(recursion, "leaves_tile", lambda n: small)
    monkeypatch.setattr(recursion, "join_tile", lambda columns, dtype: blocks.Tile(2, 4, 1))
    monkeypatch.setattr(tree, "_SCRATCH_BYTES", 20_000)
    check_batch(cases_of(torch.float64, (15, 33), 4), torch.float64)


def test_same_k_for_all_rows():
    """The tree then keeps degrees up to min(k, n - k) only."""
    for k in (3, 29, 32):
        logits = torch.randn(5, 33, dtype=torch.float64)
        mu, log_z = recursion.marginals(logits, k, None)
        want, want_z = reference.marginals(logits, k, "recursion")
        torch.testing.assert_close(mu, want, rtol=1e-12, atol=0)
        torch.testing.assert_close(log_z, want_z, rtol=1e-13, atol=1e-13)


def test_invalid_rows_are_nan_and_alone():
    logits = torch.tensor(
        [
            [0.5, -1.0, 2.0, 0.25],
            [0.5, float("nan"), 2.0, 0.25],
            [-INF, -INF, -INF, 1.0],
            [INF, INF, INF, 1.0],
            [0.5, -1.0, 2.0, 0.25],
            [0.5, -1.0, 2.0, 0.25],
            [0.5, -1.0, 2.0, 0.25],
            [1.0, -INF, INF, 2.0],
        ]
    )
    k = torch.tensor([2, 2, 2, 2, 5, -1, 4, 3])
    mu, log_z = recursion.marginals(logits, 0, k)
    invalid = torch.tensor([False, True, True, True, True, True, False, False])
    assert mu[invalid].isnan().all()
    assert log_z[invalid].isnan().all()
    want, want_z = reference.marginals(logits, k, "recursion")
    torch.testing.assert_close(mu[~invalid], want[~invalid], rtol=0, atol=1e-6)
    torch.testing.assert_close(log_z[~invalid], want_z[~invalid], rtol=0, atol=2e-6)
    for outside in (-1, 5):
        mu, log_z = recursion.marginals(logits, outside, None)
        assert mu.isnan().all()
        assert log_z.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit(dtype):
    """Computed in float32 and rounded once (the interpreter cuts bfloat16 off instead)."""
    case = BY_ID["size-n17-k5"]
    logits = torch.from_numpy(case.logits).to(dtype)
    mu, log_z = recursion.marginals(logits, case.k, None)
    assert mu.dtype == log_z.dtype == dtype
    assert log_z.shape == ()
    want, want_z = reference.marginals(logits.double(), case.k, "recursion")
    step = 2 if dtype == torch.bfloat16 else 1
    tolerance = step * bound("marginals", dtype) + 1e-5
    torch.testing.assert_close(mu.double(), want, rtol=0, atol=tolerance)
    tolerance = step * bound("log_partition", dtype)
    torch.testing.assert_close(log_z.double(), want_z, rtol=tolerance, atol=0)


def test_shapes():
    logits = torch.randn(2, 3, 6).transpose(0, 1)
    mu, log_z = recursion.marginals(logits, 2, None)
    assert mu.shape == (3, 2, 6)
    assert log_z.shape == (3, 2)
    want, _ = reference.marginals(logits, 2, "recursion")
    torch.testing.assert_close(mu, want, rtol=0, atol=1e-6)
    mu, log_z = recursion.marginals(torch.empty(0, 6), 2, None)
    assert mu.shape == (0, 6)
    assert log_z.shape == (0,)
    mu, log_z, state = marginals.subset_marginals(logits, 2, None, "recursion")
    torch.testing.assert_close(mu, want, rtol=0, atol=1e-6)
    assert state.shape == (3, 2, 0)
