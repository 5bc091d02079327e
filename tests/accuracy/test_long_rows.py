# SPDX-License-Identifier: Apache-2.0
"""Rows of a million items: against the exact two-group law, and float32 against float64 on rows
without structure.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests import oracle
from tests.accuracy.evaluate import check, evaluate
from tests.tolerances import bound

N = 10**6
KS = (10, 10**3, 10**5, 999_990)
# The sum k = sum mu adds up a million rounded marginals; this is how far it may drift.
SUM_RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-6}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize(
    ("n1", "a", "b"), [(400_000, 1.5, -0.75), (1000, 6.0, -4.0)], ids=["mixed", "few-strong"]
)
def test_two_groups(dtype, k, n1, a, b):
    """Exact moments of a million items from a sum over one integer, for any gradient."""
    logits = np.where(np.arange(N) < n1, a, b)
    order = np.random.RandomState(5).permutation(N)  # a block structure must not help
    grad = np.round(np.random.RandomState(6).uniform(-1, 1, N) * 2**10) / 2**10
    groups = oracle.two_groups(n1, N - n1, a, b, k)
    with dg.backend("cpp"):
        got = evaluate(logits[order], k, grad[order], dtype)
    mu = np.where(np.arange(N) < n1, float(groups.mu1), float(groups.mu2))
    check("marginals", got.marginals, mu[order], bound("marginals", dtype))
    check("vjp", got.vjp, groups.vjp(grad, n1)[order], bound("vjp", dtype))
    check("gradient of log_partition", got.log_partition_grad, mu[order], bound("marginals", dtype))
    log_z = np.array(float(groups.log_partition))
    check("log_partition", got.log_partition, log_z, bound("log_partition", dtype), relative=True)


def test_two_groups_reference():
    logits, k, n1 = np.where(np.arange(N) < 400_000, 1.5, -0.75), 10**5, 400_000
    grad = np.random.RandomState(6).uniform(-1, 1, N)
    groups = oracle.two_groups(n1, N - n1, 1.5, -0.75, k)
    with dg.backend("reference"):
        got = evaluate(logits, k, grad, torch.float64)
    mu = np.where(np.arange(N) < n1, float(groups.mu1), float(groups.mu2))
    check("marginals", got.marginals, mu, bound("marginals", torch.float64))
    check("vjp", got.vjp, groups.vjp(grad, n1), bound("vjp", torch.float64))


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_float32_against_float64(k, scale):
    """Logits without structure; |g| <= 1, with a mean, so that a VJP that is not centred shows."""
    rng = np.random.RandomState(7)
    logits = (rng.standard_normal(N) * scale).astype(np.float32).astype(np.float64)
    grad = rng.uniform(-0.2, 1.0, N).astype(np.float32).astype(np.float64)
    with dg.backend("cpp"):
        double = evaluate(logits, k, grad, torch.float64)
        single = evaluate(logits, k, grad, torch.float32)
    assert abs(double.marginals.sum() / k - 1) < SUM_RELATIVE[torch.float64]
    assert abs(single.marginals.sum() / k - 1) < SUM_RELATIVE[torch.float32]
    assert abs(double.vjp.sum()) < 1e-9  # Cov is symmetric and annihilates the ones
    float32 = torch.float32
    check("marginals", single.marginals, double.marginals, bound("marginals", float32))
    check("vjp", single.vjp, double.vjp, bound("vjp", float32))
    check(
        "log_partition",
        single.log_partition,
        double.log_partition,
        bound("log_partition", float32),
        relative=True,
    )


def test_small_k_of_many_in_relative_terms():
    """k = 10 of 10^6: marginals near 1e-5, where an absolute bound of 1e-6 would see only one
    digit.
    """
    rng = np.random.RandomState(8)
    logits = rng.standard_normal(N).astype(np.float32).astype(np.float64)
    grad = rng.uniform(-1, 1, N).astype(np.float32).astype(np.float64)
    with dg.backend("cpp"):
        double = evaluate(logits, 10, grad, torch.float64)
        single = evaluate(logits, 10, grad, torch.float32)
    relative = np.abs(single.marginals - double.marginals) / double.marginals
    assert relative.max() < 1e-5
    scale = np.abs(double.vjp).max()
    assert np.abs(single.vjp - double.vjp).max() < 1e-5 * scale
