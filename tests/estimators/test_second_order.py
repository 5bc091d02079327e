# SPDX-License-Identifier: Apache-2.0
"""dg.simple(order=2): where it stops to be unbiased, and what the unbiased estimator adds."""

from __future__ import annotations

import pytest
import torch

from discrete_grad.estimators.score_function import mean_loss
from discrete_grad.estimators.simple import _second_order
from tests.api import enumeration

LOGITS = torch.tensor([0.3, -1.2, 0.8, 1.6, -0.4, 0.1], dtype=torch.float64)
WEIGHT = torch.linspace(-1, 1.5, 6, dtype=torch.float64)


@pytest.mark.parametrize(
    ("degree", "bias_1", "bias_2", "bias_unbiased"),
    [(1, 0, 0, 0), (2, 1, 0, 0), (3, 1, 1, 0), (4, 1, 1, 0)],
)
def test_bias_by_the_degree_of_the_loss(backend, degree, bias_1, bias_2, bias_unbiased):
    """Of <w, z>^degree, over all 20 subsets (all pairs of them): 0 to 1e-12, or far from it."""
    hot, log_p = enumeration.law(LOGITS, 3)
    probability = log_p.exp()

    def loss(z):
        return (z @ WEIGHT) ** degree

    theta = LOGITS.clone().requires_grad_()
    _, live = enumeration.law(theta, 3)
    (true,) = torch.autograd.grad(live.exp() @ loss(hot), theta)

    z = hot.clone().requires_grad_()
    (g,) = torch.autograd.grad(probability @ loss(z), z)
    first = enumeration.covariance(LOGITS, 3) @ g.sum(0)

    theta = LOGITS.clone().requires_grad_()
    (second,) = torch.autograd.grad(probability @ loss(_second_order(theta, 3, hot)), theta)

    pairs = torch.cartesian_prod(torch.arange(20), torch.arange(20))
    rows = LOGITS.expand(400, 6).clone().requires_grad_()
    value = mean_loss(rows, 3, loss, hot[pairs].movedim(1, 0), "simple")
    (gradients,) = torch.autograd.grad(value.sum(), rows)
    unbiased = probability[pairs].prod(-1) @ gradients

    for found, biased in ((first, bias_1), (second, bias_2), (unbiased, bias_unbiased)):
        error = (found - true).abs().max()
        assert error > 1e-2 if biased else error < 1e-12
