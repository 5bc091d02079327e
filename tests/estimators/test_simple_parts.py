# SPDX-License-Identifier: Apache-2.0
"""SIMPLE-F and SIMPLE-B: their draws, their backward formulas."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad import ops
from discrete_grad.estimators.perturb_and_map import perturbed_topk
from discrete_grad.estimators.simple_parts import simple_backward_only, simple_forward_only
from tests.api import enumeration

EXACT = {"rtol": 1e-12, "atol": 1e-12}
INF = float("inf")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("k", [2, torch.tensor([[1], [4]])], ids=["int", "per row"])
def test_forward(backend, k):
    logits = torch.randn(2, 3, 6, requires_grad=True)
    exact = simple_forward_only(logits, k, 5, generator=seeded())
    assert torch.equal(exact, dg.subset.sample(logits, k, 5, generator=seeded()))
    options = {"noise": "gumbel", "temperature": 0.6}
    perturbed = simple_backward_only(logits, k, 5, generator=seeded(), **options)
    assert torch.equal(perturbed, perturbed_topk(logits, k, 5, generator=seeded(), **options))
    for z in (exact, perturbed):
        z.sum().backward()
    for function in (simple_forward_only, simple_backward_only):
        assert function(logits, 2).shape == (2, 3, 6)


def test_simple_b_has_the_papers_noise(backend):
    logits = torch.randn(50, 6)
    z = simple_backward_only(logits, 2, generator=seeded())
    assert torch.equal(z, perturbed_topk(logits, 2, noise="sum_of_gamma", generator=seeded()))


@pytest.mark.parametrize("per_row", [False, True])
def test_simple_b_backward_is_the_mean_difference_of_marginals(backend, per_row):
    logits = torch.randn(2, 5, dtype=torch.float64)
    k = torch.tensor([2, 4]) if per_row else 3
    theta = logits.clone().requires_grad_()
    z = simple_backward_only(theta, k, 3, step=1.7, noise="gumbel")
    g = torch.randn(3, 2, 5, dtype=torch.float64)
    (ours,) = torch.autograd.grad(z, theta, g)
    for row in range(2):
        size = int(k[row]) if per_row else 3
        differences = [
            enumeration.marginals(logits[row], size)
            - enumeration.marginals(logits[row] - 1.7 * g[s, row], size)
            for s in range(3)
        ]
        assert_close(ours[row], sum(differences) / 3, **EXACT)


@pytest.mark.parametrize("per_row", [False, True])
def test_simple_f_backward_is_the_mean_difference_of_draws(backend, monkeypatch, per_row):
    logits = torch.randn(2, 6, dtype=torch.float64)
    k = torch.tensor([2, 4]) if per_row else 3
    theta = logits.clone().requires_grad_()
    drawn = []
    sample = ops.sample

    def recorded(logits, k, num_samples, seed):
        drawn.append((logits, sample(logits, k, num_samples, seed), seed))
        return drawn[-1][1]

    monkeypatch.setattr(ops, "sample", recorded)
    z = simple_forward_only(theta, k, 3, step=1.7)
    g = torch.randn(3, 2, 6, dtype=torch.float64)
    (ours,) = torch.autograd.grad(z, theta, g)
    first, second = drawn
    assert_close(second[0], logits - 1.7 * g, **EXACT)
    assert torch.equal(second[1].sum(-1), torch.as_tensor(k).expand(1, 3, 2).double())
    assert not torch.equal(first[2], second[2])  # independent of the forward draw
    assert_close(ours, (first[1] - second[1][0]).mean(0), **EXACT)
    torch.autograd.grad(simple_forward_only(theta, k).sum(), theta)
    assert not torch.equal(second[2], drawn[-1][2])  # and of other calls' draws


@pytest.mark.parametrize("function", [simple_forward_only, simple_backward_only])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_masked_items_dtypes_and_rows_without_a_subset(backend, function, dtype):
    logits = torch.randn(3, 6).to(dtype)
    logits[0, 1], logits[0, 4] = INF, -INF
    logits[1, 2] = float("nan")
    logits.requires_grad_()
    z = function(logits, 3, 40, step=2.0)
    assert z.dtype == dtype
    assert z.isnan().all(-1).all(0).tolist() == [False, True, False]
    (gradient,) = torch.autograd.grad(z, logits, torch.randn(40, 3, 6).to(dtype))
    assert gradient.dtype == dtype
    assert gradient[[0, 2]].isfinite().all()
    assert not gradient[0, [1, 4]].any()
    assert gradient[2].abs().sum() > 0


@pytest.mark.parametrize("function", [simple_forward_only, simple_backward_only])
def test_errors(function):
    with pytest.raises(ValueError, match="step must be greater than 0"):
        function(torch.zeros(4), 2, step=0.0)
    with pytest.raises(TypeError, match="step must be a float"):
        function(torch.zeros(4), 2, step=None)
    with pytest.raises(ValueError, match="k must be from 0 to n = 4"):
        function(torch.zeros(4), 5)
