# SPDX-License-Identifier: Apache-2.0
"""dg.straight_through_topk: exact or perturbed draws forward, the identity backward."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from discrete_grad.estimators.perturb_and_map import perturbed_topk
from discrete_grad.estimators.straight_through import straight_through_topk

INF = float("inf")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("k", [2, torch.tensor([[1], [4]])], ids=["int", "per row"])
def test_forward_is_an_exact_draw(backend, k):
    logits = torch.randn(2, 3, 6, requires_grad=True)
    z = straight_through_topk(logits, k, 5, generator=seeded())
    assert torch.equal(z, dg.subset.sample(logits, k, 5, generator=seeded()))
    assert straight_through_topk(logits, k, generator=seeded()).shape == (2, 3, 6)


@pytest.mark.parametrize(("noise", "temperature"), [("gumbel", 0.7), ("normal", None)])
def test_forward_with_noise_is_perturb_and_map(backend, noise, temperature):
    logits = torch.randn(2, 3, 6, requires_grad=True)
    z = straight_through_topk(
        logits, 2, 5, noise=noise, temperature=temperature, generator=seeded()
    )
    scale = 1.0 if temperature is None else temperature
    expected = perturbed_topk(logits, 2, 5, noise=noise, temperature=scale, generator=seeded())
    assert torch.equal(z, expected)


@pytest.mark.parametrize("noise", [None, "gumbel"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_backward_is_the_identity(backend, noise, dtype):
    logits = torch.randn(3, 6).to(dtype).requires_grad_()
    z = straight_through_topk(logits, 2, 4, noise=noise)
    assert z.dtype == dtype
    assert ((z == 0) | (z == 1)).all()
    g = torch.randn(4, 3, 6).to(dtype)
    (ours,) = torch.autograd.grad(z, logits, g)
    torch.testing.assert_close(ours, g.sum(0))


@pytest.mark.parametrize("noise", [None, "gumbel"])
def test_masked_items_and_rows_without_a_subset(backend, noise):
    logits = torch.randn(3, 6)
    logits[0, 1], logits[0, 4] = INF, -INF
    logits[1, 2] = float("nan")
    logits.requires_grad_()
    z = straight_through_topk(logits, 3, 4, noise=noise)
    assert z[:, 0, 1].eq(1).all()
    assert z[:, 0, 4].eq(0).all()
    assert z.isnan().all(-1).all(0).tolist() == [False, True, False]
    assert not z[:, [0, 2]].isnan().any()
    (ours,) = torch.autograd.grad(z, logits, torch.ones(4, 3, 6))
    expected = torch.full((3, 6), 4.0)
    expected[0, [1, 4]] = 0.0
    assert torch.equal(ours[[0, 2]], expected[[0, 2]])


def test_errors():
    with pytest.raises(ValueError, match="temperature must be None where noise is None"):
        straight_through_topk(torch.zeros(4), 2, temperature=0.5)
    with pytest.raises(ValueError, match="noise"):
        straight_through_topk(torch.zeros(4), 2, noise="cauchy")
    with pytest.raises(ValueError, match="k must be from 0 to n = 4"):
        straight_through_topk(torch.zeros(4), 5)
