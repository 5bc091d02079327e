# SPDX-License-Identifier: Apache-2.0
"""The rule of method="auto"."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from discrete_grad.ops import choose_method


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("n", "k"), [(4, 2), (8, 1), (32, 8), (32, 24), (16, None)])
def test_short_rows_take_the_recursion(device, n, k):
    assert choose_method(64, n, k, device) == "linear"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("n", "k"), [(256, 32), (8192, 8), (10**6, None), (300, 150)])
def test_long_rows_take_the_contour(device, n, k):
    assert choose_method(1024, n, k, device) == "contour"


def test_few_rows_do_not_fill_the_lanes_of_a_vector():
    assert choose_method(4, 8, 2, "cpu") == "contour"


def test_one_exported_program_serves_every_batch():
    class Marginals(torch.nn.Module):
        def forward(self, x):
            return dg.subset.marginals(x, 2)

    batch = torch.export.Dim("batch", min=2, max=512)
    exported = torch.export.export(
        Marginals(), (torch.randn(5, 6),), dynamic_shapes=({0: batch},)
    ).module()
    for rows in (2, 100):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(exported(x), dg.subset.marginals(x, 2))


def test_the_tree_of_a_gpu_stays_in_registers():
    assert choose_method(64, 64, 16, "cpu") == "linear"
    assert choose_method(64, 64, 16, "cuda") == "contour"


@pytest.mark.parametrize(("shape", "k"), [((5, 8, 6), 2), ((2, 6), 2), ((40, 700), 300)])
def test_auto_is_that_method(shape, k):
    logits = torch.randn(shape)
    named = choose_method(logits[..., 0].numel(), shape[-1], k, "cpu")
    auto = dg.subset.marginals(logits, k)
    assert torch.equal(auto, dg.subset.marginals(logits, k, method=named))
