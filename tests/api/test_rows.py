# SPDX-License-Identifier: Apache-2.0
"""Rows of a batch are independent: each has its own k, and one without a subset is NaN alone."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg

INF = float("inf")
EXACT = {"rtol": 1e-12, "atol": 1e-12}

FUNCTIONS = {
    "log_partition": lambda x, k: dg.subset.log_partition(x, k),
    "marginals": lambda x, k: dg.subset.marginals(x, k),
    "entropy": lambda x, k: dg.subset.entropy(x, k),
    "log_prob": lambda x, k: dg.subset.log_prob(x, k, torch.ones_like(x)),
    "kl, p": lambda x, k: dg.subset.kl_divergence(x, torch.zeros_like(x), k),
    "kl, q": lambda x, k: dg.subset.kl_divergence(torch.zeros_like(x), x, k),
    "covariance": lambda x, k: dg.subset.covariance(x, k),
    "mode": lambda x, k: dg.subset.mode(x, k),
    "sample": lambda x, k: dg.subset.sample(x, k),
    "simple": lambda x, k: dg.simple(x, k),
    "simple, order 2": lambda x, k: dg.simple(x, k, order=2),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_row_without_a_subset_is_nan_alone(backend, function):
    logits = torch.tensor(
        [
            [0.1, 0.2, 0.3, 0.4],
            [0.1, float("nan"), 0.3, 0.4],
            [0.1, -INF, -INF, -INF],
            [0.1, INF, INF, INF],
            [-0.1, 0.2, 0.5, 0.4],
        ]
    )
    value = function(logits, 2)
    assert [bool(row.isnan().all()) for row in value] == [False, True, True, True, False]
    assert not value[[0, 4]].isnan().any()
    per_row = function(logits[[0, 4, 0, 4]], torch.tensor([2, -1, 5, 3]))
    assert [bool(row.isnan().all()) for row in per_row] == [False, True, True, False]
    assert not per_row[[0, 3]].isnan().any()


# Draws of a batch are not the draws of its rows: they use other random numbers.
CERTAIN = {name: f for name, f in FUNCTIONS.items() if "simple" not in name and name != "sample"}


@pytest.mark.parametrize("function", CERTAIN.values(), ids=CERTAIN)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_one_k_for_each_row_is_each_row_alone(backend, function, dtype):
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    k = torch.tensor([[1], [3]], dtype=dtype)
    value = function(logits, k)
    for i in range(2):
        for j in range(3):
            assert_close(value[i, j], function(logits[i, j], int(k[i, 0])), **EXACT)
