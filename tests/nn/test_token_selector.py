# SPDX-License-Identifier: Apache-2.0
"""TokenSelector: which tokens it keeps, the scores' gradient by enumeration, masks, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import discrete_grad as dg
from tests.nn import laws


def test_keeps_the_best_in_evaluation_in_their_order():
    selector = dg.nn.TokenSelector(2).eval()
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 0.0, 0.0, 6.0]])
    kept = selector(tokens, scores)
    assert kept.indices.tolist() == [[1, 3], [0, 3]]
    assert torch.equal(kept.tokens, torch.stack([tokens[0, [1, 3]], tokens[1, [0, 3]]]))
    assert torch.equal(kept.gates, torch.ones(2, 2))


def test_draws_in_training_by_the_scorer():
    torch.manual_seed(0)
    selector = dg.nn.TokenSelector(3, nn.Linear(5, 1))
    tokens = torch.randn(4, 10, 5, requires_grad=True)
    kept = selector(tokens)
    assert kept.tokens.shape == (4, 3, 5)
    for row, items in enumerate(kept.indices):
        assert torch.equal(kept.tokens[row], tokens[row, items])
    assert not torch.equal(kept.indices, selector(tokens).indices)
    kept.tokens.square().sum().backward()
    assert selector.scorer.weight.grad.abs().sum() > 0
    assert tokens.grad.abs().sum() > 0


def test_the_draws_follow_the_law():
    scores = torch.tensor([1.0, 0.0, -1.0, 0.5, 0.0])
    selector = dg.nn.TokenSelector(2, evaluation="sample").eval()
    indices = selector(torch.zeros(20000, 5, 1), scores.expand(20000, 5)).indices
    share = torch.zeros(5).scatter_add(0, indices.flatten(), torch.ones(40000)) / 20000
    # Four standard deviations of a share.
    torch.testing.assert_close(share, laws.inclusion(scores, 2), rtol=0, atol=4 * 0.5 / 20000**0.5)


def test_the_scores_gradient_is_exact_for_linear_losses(monkeypatch):
    """A loss <w, sum of the kept tokens> is sum_i mu_i <w, x_i> in expectation."""
    selector = dg.nn.TokenSelector(2)
    tokens = torch.randn(5, 3, dtype=torch.float64)
    weight = torch.randn(3, dtype=torch.float64)
    theta = torch.randn(5, dtype=torch.float64, requires_grad=True)
    got = laws.expected_gradient(
        monkeypatch, theta, 2, lambda x: (selector(tokens, x).tokens @ weight).sum()
    )
    (want,) = torch.autograd.grad(laws.inclusion(theta, 2) @ (tokens @ weight), theta)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_masked_tokens_are_never_kept():
    tokens = torch.randn(50, 6, 2)
    mask = torch.tensor([True, False, True, False, True, True])
    for selector in (dg.nn.TokenSelector(2), dg.nn.TokenSelector(2).eval()):
        indices = selector(tokens, torch.zeros(50, 6), mask).indices
        assert set(indices.flatten().tolist()) <= {0, 2, 4, 5}


def test_a_row_with_too_few_tokens_is_nan():
    mask = torch.tensor([[True, False, False], [True, True, False]])
    kept = dg.nn.TokenSelector(2)(torch.ones(2, 3, 4), torch.zeros(2, 3), mask).tokens
    assert bool(kept[0].isnan().all())
    assert torch.equal(kept[1], torch.ones(2, 4))


def test_selecting_is_learnt():
    """Of twelve tokens the two with a marked first entry are to be kept."""
    torch.manual_seed(3)
    selector = dg.nn.TokenSelector(2, nn.Linear(4, 1))
    optimiser = torch.optim.Adam(selector.parameters(), lr=0.1)
    for _ in range(100):
        tokens = torch.randn(32, 12, 4)
        tokens[..., 0] = 0
        tokens[:, :2, 0] = 1
        loss = -selector(tokens).tokens[..., 0].sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (selector.eval()(tokens).tokens[..., 0] == 1).float().mean() > 0.95


def test_errors():
    tokens = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match="scores must be given"):
        dg.nn.TokenSelector(2)(tokens)
    with pytest.raises(ValueError, match="scores beside a scorer"):
        dg.nn.TokenSelector(2, nn.Linear(3, 1))(tokens, torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"scores must have the shape \(2, 5\)"):
        dg.nn.TokenSelector(2)(tokens, torch.zeros(5))
    with pytest.raises(ValueError, match="k must be from 0 to n = 5"):
        dg.nn.TokenSelector(6)(tokens, torch.zeros(2, 5))
    with pytest.raises(ValueError, match="k must be at least 1"):
        dg.nn.TokenSelector(0)
    with pytest.raises(TypeError, match="scorer must be a Module"):
        dg.nn.TokenSelector(2, lambda x: x)
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        dg.nn.TokenSelector(2)(tokens, torch.zeros(2, 5), torch.ones(2, 5))
    with pytest.raises(ValueError, match="tokens must have shape"):
        dg.nn.TokenSelector(2)(torch.zeros(3), torch.zeros(3))
