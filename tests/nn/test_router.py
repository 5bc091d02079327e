# SPDX-License-Identifier: Apache-2.0
"""SubsetRouter: gates against enumerated inclusion probabilities, gradients, load, capacity."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from tests.nn import laws

EXPERTS, K = 5, 2
COSTS = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.5], dtype=torch.float64)


def router(**settings):
    """Whose logits are the hidden states."""
    made = dg.nn.SubsetRouter(EXPERTS, EXPERTS, K, dtype=torch.float64, **settings)
    with torch.no_grad():
        made.linear.weight.copy_(torch.eye(EXPERTS))
    return made


def rows(*batch):
    return torch.randn(*batch, EXPERTS, dtype=torch.float64)


def test_the_signature_of_a_router():
    made = dg.nn.SubsetRouter(16, 8, 3, gates="normalized")
    hidden = torch.randn(2, 7, 16)
    weights, indices, aux = made(hidden)
    assert weights.shape == indices.shape == (2, 7, 3)
    assert indices.dtype == torch.int64
    assert bool((indices.diff(dim=-1) > 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))
    assert aux.marginals.shape == aux.logits.shape == (2, 7, 8)
    assert aux.tokens_per_expert.sum() == 2 * 7 * 3
    assert "gates='normalized'" in repr(made)


def test_the_gates_are_the_exact_inclusion_probabilities():
    hidden = rows(6)
    exact = torch.stack([laws.inclusion(row, K) for row in hidden])
    for module in (router(selection="sample"), router(), router(selection="sample").eval()):
        weights, indices, aux = module(hidden)
        torch.testing.assert_close(aux.marginals, exact, rtol=0, atol=1e-13)
        torch.testing.assert_close(weights, exact.gather(-1, indices), rtol=0, atol=1e-13)
    _, top = hidden.topk(K)
    assert torch.equal(indices, top.sort().values)
    chosen = exact.gather(-1, indices)
    normal = router(gates="normalized")(hidden).weights
    torch.testing.assert_close(normal, chosen / chosen.sum(-1, keepdim=True), rtol=0, atol=1e-13)
    uniform = router(gates="uniform", selection="sample")(hidden).weights
    torch.testing.assert_close(uniform, torch.full_like(uniform, 0.5))


@pytest.mark.parametrize(
    ("gates", "weight"), [("inclusion", lambda mu: mu), ("uniform", lambda mu: 1 / K)]
)
def test_the_gradient_of_an_expected_linear_loss_is_exact(monkeypatch, gates, weight):
    """E_S[sum_{e in S} w_e c_e] = sum_e mu_e w_e c_e, the draw's own part of the gradient included:
    by enumeration.
    """
    made = router(gates=gates, selection="sample")
    theta = rows().requires_grad_()

    def loss(hidden):
        weights, indices, _ = made(hidden)
        return (weights * COSTS[indices]).sum()

    got = laws.expected_gradient(monkeypatch, theta, K, loss)
    mu = laws.inclusion(theta, K)
    (want,) = torch.autograd.grad((mu * weight(mu) * COSTS).sum(), theta)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gates", ["inclusion", "normalized", "uniform"])
def test_experts_that_are_not_chosen_have_a_gradient(gates):
    made = router(gates=gates, selection="sample")
    hidden = rows().requires_grad_()
    weights, indices, _ = made(hidden)
    (weights * torch.tensor([1.0, 3.0])).sum().backward()
    others = torch.ones(EXPERTS, dtype=torch.bool).index_fill(0, indices, False)
    assert hidden.grad[others].abs().min() > 0


def test_the_k_most_probable_in_training():
    made = router()
    hidden = rows(4).requires_grad_()
    weights, indices, _ = made(hidden)
    assert torch.equal(indices, hidden.topk(K).indices.sort().values)
    weights.sum().backward()
    theta = hidden.detach().requires_grad_()
    dg.subset.marginals(theta, K).gather(-1, indices).sum().backward()
    torch.testing.assert_close(hidden.grad, theta.grad)  # no part of a draw


def test_samples_in_evaluation():
    hidden = rows().expand(400, EXPERTS)
    indices = router(evaluation="sample").eval()(hidden).indices
    assert len(indices.unique(dim=0)) > 3


def test_the_temperature_of_the_law():
    made = router()
    schedule = dg.nn.TemperatureSchedule(made, 2.0, 0.5, 2)
    hidden = rows(3)
    for temperature in (2.0, 1.0, 0.5):
        want = torch.stack([laws.inclusion(row / temperature, K) for row in hidden])
        torch.testing.assert_close(made(hidden).aux.marginals, want, rtol=0, atol=1e-13)
        schedule.step()


def test_load_and_balance():
    made = router()
    hidden = rows(3, 40)
    aux = made(hidden).aux
    exact = aux.marginals.reshape(-1, EXPERTS)
    torch.testing.assert_close(aux.expected_tokens, exact.sum(0))
    share = exact.mean(0) / K
    torch.testing.assert_close(aux.balance_loss, EXPERTS * share.square().sum())
    counts = made.eval()(hidden).indices.flatten().bincount(minlength=EXPERTS)
    assert torch.equal(made(hidden).aux.tokens_per_expert, counts)


def test_the_balance_loss_is_one_when_balanced_and_falls():
    made = router()
    torch.testing.assert_close(
        made(torch.zeros(4, EXPERTS, dtype=torch.float64)).aux.balance_loss.item(), 1.0
    )
    collapsed = torch.tensor([40.0, 40.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(4, -1)
    torch.testing.assert_close(made(collapsed).aux.balance_loss.item(), EXPERTS / K)
    hidden = rows(50).add(torch.arange(EXPERTS)).requires_grad_()
    losses = []
    for _ in range(60):
        loss = made(hidden).aux.balance_loss
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, hidden)
        hidden = (hidden - 40 * slope).detach().requires_grad_()
    assert losses[0] > 1.3
    assert losses[-1] < 1.02


def test_overflow():
    statistics = dg.nn.RouterStatistics(
        torch.zeros(()),
        torch.tensor([8, 2, 1, 1]),  # 12 assignments, 3 for each expert
        torch.zeros(4),
        torch.zeros(6, 4),
        torch.zeros(6, 4),
    )
    for factor, share in ((1.0, 5 / 12), (2.0, 2 / 12), (3.0, 0.0)):
        torch.testing.assert_close(statistics.overflow(factor).item(), share)
    with pytest.raises(ValueError, match="capacity_factor must be greater than 0"):
        statistics.overflow(0.0)


def test_padding_is_left_out_of_the_statistics():
    made = router().eval()
    hidden = rows(2, 6)
    mask = torch.tensor([[True] * 6, [True, True, False, False, False, False]])
    aux, alone = made(hidden, mask).aux, made(hidden[mask]).aux
    assert torch.equal(aux.tokens_per_expert, alone.tokens_per_expert)
    torch.testing.assert_close(aux.expected_tokens, alone.expected_tokens)
    torch.testing.assert_close(aux.balance_loss, alone.balance_loss)
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        made(hidden, mask.float())
    with pytest.raises(ValueError, match=r"mask must broadcast to the shape \(2, 6\)"):
        made(hidden, mask[:, :3])


def test_a_token_that_is_nan():
    hidden = torch.randn(3, 16)
    hidden[1] = torch.nan
    for made in (dg.nn.SubsetRouter(16, 8, 3, selection="sample"), dg.nn.SubsetRouter(16, 8, 3)):
        weights = made(hidden).weights
        assert weights.isnan().all(-1).tolist() == [False, True, False]


def test_state_dict():
    made, copy = (
        dg.nn.SubsetRouter(16, 8, 3, bias=True).eval(),
        dg.nn.SubsetRouter(16, 8, 3, bias=True).eval(),
    )
    assert set(made.state_dict()) == {"linear.weight", "linear.bias", "temperature"}
    copy.load_state_dict(made.state_dict())
    hidden = torch.randn(5, 16)
    assert torch.equal(made(hidden).weights, copy(hidden).weights)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((16, 8, 9), {}, "k must be at most num_experts = 8, got 9"),
        ((16, 8, 0), {}, "k must be at least 1"),
        ((0, 8, 2), {}, "d_model must be at least 1"),
        ((16, 8, 2), {"gates": "softmax"}, "gates must be one of 'inclusion'"),
        ((16, 8, 2), {"temperature": 0.0}, "temperature must be greater than 0"),
        ((16, 8, 2), {"gates": "uniform"}, "gates must not be 'uniform' with selection='mode'"),
        ((16, 8, 2), {"selection": "top"}, "selection must be one of"),
        ((16, 8, 2), {"evaluation": "top"}, "evaluation must be one of"),
    ],
)
def test_bad_arguments(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        dg.nn.SubsetRouter(*arguments, **settings)
