# SPDX-License-Identifier: Apache-2.0
"""The estimators to compare with: their law forward, their gradient backward."""

from __future__ import annotations

import itertools

import pytest
import torch

from discrete_grad.demo.estimators import (
    ESTIMATORS,
    score_function,
    simple,
    straight_through_gumbel,
)

N, K = 4, 2
LOGITS = torch.tensor([0.3, -0.8, 1.1, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, -0.5, 0.7, 2.0], dtype=torch.float64)


def loss(code: torch.Tensor) -> torch.Tensor:
    """Not linear in the code, [samples, batch, groups, n] -> [samples, batch]."""
    return ((code * WEIGHTS).sum(-1) ** 2).sum(-1)


def exact_gradient() -> torch.Tensor:
    """Of E[loss] in the logits of one row, by enumeration."""
    logits = LOGITS.clone().requires_grad_()
    chosen = torch.tensor(list(itertools.combinations(range(N), K)))
    hot = torch.zeros(len(chosen), N, dtype=torch.float64).scatter_(1, chosen, 1.0)
    probability = (hot @ logits).softmax(0)
    (probability * loss(hot[:, None, None])[:, 0]).sum().backward()
    return logits.grad


def gradients(function, rows: int, **options) -> torch.Tensor:
    """Independent estimates, one per row."""
    logits = LOGITS.repeat(rows, 1, 1).requires_grad_()
    function(logits, K, loss, torch.Generator().manual_seed(7), **options).sum().backward()
    return logits.grad[:, 0]


def test_score_function_is_unbiased():
    samples = gradients(score_function, 40_000, num_samples=3)
    error = samples.mean(0) - exact_gradient()
    z = error / (samples.std(0) / len(samples) ** 0.5)
    assert z.abs().max() < 4.5
    # The other two are biased for this loss: the test above can fail.
    assert (gradients(simple, 40_000).mean(0) - exact_gradient()).abs().max() > 0.05


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_value_is_the_loss_and_the_decoder_has_its_gradient(name):
    logits = torch.randn(5, 3, 6, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    seen = []

    def fn(code):
        seen.append(code.detach().clone())
        return scale * (code * torch.arange(6.0)).sum((-1, -2))

    value = ESTIMATORS[name].expectation(logits, 3, fn, torch.Generator().manual_seed(0))
    (code,) = seen
    assert torch.equal(code.sum(-1), torch.full(code.shape[:-1], 3.0))
    assert ((code - code.round()).abs() < 1e-6).all()  # k-hot, whatever the backward pass
    expected = (code * torch.arange(6.0)).sum((-1, -2)).mean(0)
    torch.testing.assert_close(value, 2 * expected)
    value.sum().backward()
    torch.testing.assert_close(scale.grad, expected.sum())
    assert (logits.grad != 0).flatten(1).any(1).all()


def test_straight_through_identity_passes_the_gradient_on():
    logits = LOGITS.repeat(8, 1, 1).requires_grad_()
    seen = []

    def fn(code):
        code.retain_grad()
        seen.append(code)
        return loss(code)

    straight_through_gumbel(
        logits, K, fn, torch.Generator().manual_seed(1), temperature=None
    ).sum().backward()
    torch.testing.assert_close(logits.grad, seen[0].grad[0])


def test_straight_through_relaxed_gradient_is_that_of_the_relaxed_top_k():
    """k softmaxes of scores / temperature, each lowered by log(1 - those before), by hand."""
    temperature = 0.7
    found = gradients(straight_through_gumbel, 16, temperature=temperature)

    logits = LOGITS.repeat(16, 1, 1).requires_grad_()
    noise = torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(7))
    perturbed = logits - noise.log()
    first = (perturbed / temperature).softmax(-1)
    second = ((perturbed + torch.log(1 - first)) / temperature).softmax(-1)
    hot = torch.zeros_like(perturbed).scatter(-1, perturbed.topk(K).indices, 1.0)
    hot.requires_grad_()
    (downstream,) = torch.autograd.grad(loss(hot[None]).sum(), hot)
    (first + second).backward(downstream)
    torch.testing.assert_close(found, logits.grad[:, 0])


def test_gumbel_top_k_draws_plackett_luce():
    """Chi-square over the six subsets: without replacement, in proportion to exp(logits)."""
    draws = 60_000
    seen = []

    def fn(code):
        seen.append(code.detach())
        return loss(code)

    straight_through_gumbel(
        LOGITS.repeat(draws, 1, 1), K, fn, torch.Generator().manual_seed(2), temperature=1.0
    )
    weight = LOGITS.exp() / LOGITS.exp().sum()
    statistic = 0.0
    for a, b in itertools.combinations(range(N), K):
        probability = weight[a] * weight[b] * (1 / (1 - weight[a]) + 1 / (1 - weight[b]))
        hits = (seen[0][0, :, 0, [a, b]].sum(-1) > 1.5).sum()
        statistic += ((hits - draws * probability) ** 2 / (draws * probability)).item()
    assert statistic < 25.7  # 5 degrees of freedom: p = 1e-4
