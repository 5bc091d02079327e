# SPDX-License-Identifier: Apache-2.0
"""The rule of method="auto"."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from discrete_grad.ops import choose_method


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("n", "k"), [(4, 2), (8, 1), (32, 8), (32, 24), (16, None), (0, 0)])
def test_short_rows_take_the_recursion(device, n, k):
    assert choose_method(n, k, device) == "linear"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("n", "k"), [(256, 32), (8192, 8), (10**6, None), (300, 150)])
def test_long_rows_take_the_contour(device, n, k):
    assert choose_method(n, k, device) == "contour"


def test_the_tree_of_a_gpu_stays_in_registers():
    assert choose_method(64, 16, "cpu") == "linear"
    assert choose_method(64, 16, "cuda") == "contour"


@pytest.mark.parametrize(("n", "k"), [(6, 2), (700, 300)])
def test_auto_is_that_method(n, k):
    logits = torch.randn(2, n)
    named = choose_method(n, k, "cpu")
    assert torch.equal(dg.subset.marginals(logits, k), dg.subset.marginals(logits, k, method=named))
