# SPDX-License-Identifier: Apache-2.0
"""The ELBO: its KL divergence against enumeration, its reconstruction loss by definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from discrete_grad.demo.model import (
    CHOSEN,
    GROUPS,
    ITEMS,
    SubsetVAE,
    code_divergence,
    code_entropy,
    evaluate,
    reconstruction_floor,
)


@pytest.fixture(scope="module")
def all_subsets() -> torch.Tensor:
    chosen = torch.tensor(list(itertools.combinations(range(ITEMS), CHOSEN)))
    hot = torch.zeros(len(chosen), ITEMS, dtype=torch.float64)
    return hot.scatter_(1, chosen, 1.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_divergence_and_entropy_by_enumeration(backend, all_subsets, scale):
    logits = scale * torch.randn(1, GROUPS, ITEMS, dtype=torch.float64)
    log_prob = (all_subsets @ logits[0].T).log_softmax(0)
    entropy = -(log_prob.exp() * log_prob).sum(0)
    divergence = (log_prob.exp() * (log_prob + math.log(len(all_subsets)))).sum(0)
    torch.testing.assert_close(code_entropy(logits), entropy.sum()[None], rtol=0, atol=1e-10)
    torch.testing.assert_close(code_divergence(logits), divergence.sum()[None], rtol=0, atol=1e-10)
    # float32, in which the demo trains
    torch.testing.assert_close(
        code_divergence(logits.float()).double(), divergence.sum()[None], rtol=0, atol=2e-3
    )


def test_reconstruction_loss_is_a_log_likelihood():
    """Of ``trials`` Bernoulli observations per pixel, x of them 1."""
    model = SubsetVAE(pixels=5, trials=4)
    counts = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    code = torch.rand(3, 1, GROUPS, ITEMS).argsort(-1).lt(CHOSEN).float()
    loss = model.reconstruction_loss(counts / 4, code)
    assert loss.shape == (3, 1)
    p = model.decode(code).sigmoid()
    expected = -(counts * p.log() + (4 - counts) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(loss, expected)
    assert reconstruction_floor(counts / 4, 4) < loss.min()
    # The floor is reached where the predicted probability is the pixel itself.
    inner = torch.tensor([[0.25, 0.5, 0.75]])
    own = -4 * (inner * inner.log() + (1 - inner) * (1 - inner).log()).sum()
    assert reconstruction_floor(inner, 4) == pytest.approx(own.item(), rel=1e-6)


def test_evaluation_adds_up_and_repeats():
    model = SubsetVAE(pixels=30, trials=1)
    images = torch.rand(1100, 30)  # more than one batch of the evaluation
    value, again = (evaluate(model, images, 2, torch.Generator().manual_seed(3)) for _ in range(2))
    other = evaluate(model, images, 2, torch.Generator().manual_seed(4))
    assert value == again
    assert value.reconstruction != other.reconstruction
    assert value.divergence == other.divergence  # exact: no draw enters it
    assert value.elbo == pytest.approx(-value.reconstruction - value.divergence)
    with torch.no_grad():
        logits = model.encode(images)
        assert value.divergence == pytest.approx(code_divergence(logits).mean().item(), abs=1e-3)
        assert value.entropy == pytest.approx(code_entropy(logits).mean().item(), abs=1e-3)
        # The mean over many draws is near the value from two.
        many = evaluate(model, images, 20, torch.Generator().manual_seed(5))
    assert value.reconstruction == pytest.approx(many.reconstruction, rel=1e-2)
