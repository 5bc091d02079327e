# SPDX-License-Identifier: Apache-2.0
"""SubsetLayer: what each estimator draws, the gradient it carries, its state and its errors."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from discrete_grad.nn import subset_layer
from tests.nn import laws

NAMES = tuple(subset_layer._DRAWS)
HARD = [name for name in NAMES if name != "gumbel_softmax"]
LOGITS = torch.tensor([0.3, -1.0, 1.2, 0.0, 0.7], dtype=torch.float64)
COSTS = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.5], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_draws_in_training_and_the_mode_in_evaluation(name):
    layer = dg.nn.SubsetLayer(3, name, num_samples=4)
    logits = torch.randn(2, 6, 9, requires_grad=True)
    hot = layer(logits)
    assert hot.shape == (4, 2, 6, 9)
    torch.testing.assert_close(hot.sum(-1), torch.full((4, 2, 6), 3.0))
    hot.sum(0).mul(torch.randn(2, 6, 9)).sum().backward()
    assert logits.grad.abs().sum() > 0
    hot = layer.eval()(logits)
    assert torch.equal(hot, dg.subset.mode(logits, 3).expand(4, 2, 6, 9))


@pytest.mark.parametrize("name", NAMES)
def test_the_draws_are_those_of_the_function(name):
    """Same seed, same values, same gradient; several draws' gradients add up in each of them."""
    layer = dg.nn.SubsetLayer(3, name, num_samples=4)
    estimator = dg.estimators.get(name)
    weight = torch.randn(9)
    slopes, values = [], []
    for run in (
        lambda x: (layer(x) @ weight).square().mean(0).sum(),
        lambda x: estimator(x, 3, lambda z: (z @ weight).square(), 4).sum(),
    ):
        torch.manual_seed(5)
        logits = torch.linspace(-1, 1, 18).reshape(2, 9).requires_grad_()
        value = run(logits)
        value.backward()
        values.append(value.detach())
        slopes.append(logits.grad)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(slopes[0], slopes[1])
    assert slopes[0].abs().sum() > 0


@pytest.mark.parametrize("name", HARD)
def test_indices_are_the_items_of_the_hot_vector(name):
    logits = torch.randn(3, 8)
    drawn = []
    for output in ("hot", "indices"):
        torch.manual_seed(1)
        drawn.append(dg.nn.SubsetLayer(3, name, num_samples=5, output=output)(logits))
    hot, (indices, gates) = drawn
    assert torch.equal(indices, hot.nonzero()[:, -1].reshape(5, 3, 3))
    assert torch.equal(gates, torch.ones(5, 3, 3))


def test_the_gates_gradient_is_exact_for_linear_losses(monkeypatch):
    """E[sum_{i in S} gate_i c_i] has the gradient of <c, mu>, by enumeration. Gates cut out of the
    k-hot vector would give that of another loss.
    """
    theta = LOGITS.clone().requires_grad_()
    layer = dg.nn.SubsetLayer(2, output="indices")

    def loss(x):
        indices, gates = layer(x)
        return (gates * COSTS[indices]).sum()

    got = laws.expected_gradient(monkeypatch, theta, 2, loss)
    (want,) = torch.autograd.grad(laws.inclusion(theta, 2) @ COSTS, theta)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    cut = dg.subset.covariance(theta.detach(), 2) @ (COSTS * laws.inclusion(theta.detach(), 2))
    assert (cut - want).abs().max() > 0.1


def test_samples_in_evaluation():
    layer = dg.nn.SubsetLayer(3, evaluation="sample").eval()
    torch.manual_seed(0)
    hot = layer(torch.zeros(200, 9))
    torch.manual_seed(0)
    assert torch.equal(hot, dg.subset.sample(torch.zeros(200, 9), 3))


@pytest.mark.parametrize("name", ["simple", "imle"])
@pytest.mark.parametrize("number", [None, 0, 1, 2])
def test_the_number_of_samples(name, number):
    logits = torch.randn(4, 9)
    leading = () if number is None else (number,)
    for training in (True, False):
        for output in ("hot", "indices"):
            layer = dg.nn.SubsetLayer(3, name, output=output, num_samples=number).train(training)
            drawn = layer(logits)
            for part in [drawn] if output == "hot" else drawn:
                assert part.shape == (*leading, 4, 9 if output == "hot" else 3)


def test_evaluation_leaves_the_generator_alone():
    before = torch.get_rng_state()
    for output in ("hot", "indices"):
        dg.nn.SubsetLayer(3, output=output).eval()(torch.zeros(4, 9))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_of_its_own():
    layer = dg.nn.SubsetLayer(3)
    logits = torch.zeros(4, 9)
    first, second = (layer(logits, generator=torch.Generator().manual_seed(8)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_state_of_aimle_is_in_the_module():
    layer = dg.nn.SubsetLayer(3, "aimle", num_samples=2)
    assert "state.target.beta" in layer.state_dict()
    logits = torch.randn(4, 9, requires_grad=True)
    for _ in range(3):
        layer(logits).mul(torch.randn(9)).sum().backward()
    beta = layer.state.target.beta.clone()
    assert beta != 1.0
    copy = dg.nn.SubsetLayer(3, "aimle", num_samples=2)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy.state.target.beta, beta)
    evaluated = dg.nn.SubsetLayer(3, "aimle", num_samples=2, evaluation="sample").eval()
    evaluated(logits).mul(torch.randn(9)).sum().backward()
    assert evaluated.state.target.beta == 1.0  # frozen in evaluation


def test_options_reach_the_estimator():
    logits = torch.tensor([[5.0, 0.0, 4.0, 0.0]]).expand(500, 4)
    layer = dg.nn.SubsetLayer(2, "imle", temperature=0.0)
    assert torch.equal(layer(logits), dg.subset.mode(logits, 2))
    target = dg.AdaptiveTargetDistribution(initial_beta=3.0)
    layer = dg.nn.SubsetLayer(2, "aimle", target=target, noise="sum_of_gamma")
    assert layer.state.target is target
    assert "noise='sum_of_gamma'" in repr(layer)


def test_a_row_without_a_subset_is_nan_in_that_row_alone():
    logits = torch.zeros(2, 4)
    logits[0, 1:] = -torch.inf
    for layer in (
        dg.nn.SubsetLayer(2, output="indices"),
        dg.nn.SubsetLayer(2, output="indices").eval(),
    ):
        gates = layer(logits).gates
        assert bool(gates[0].isnan().all())
        assert torch.equal(gates[1], torch.ones(2))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((3, "simpel"), {}, "estimator must be one of 'simple'"),
        ((3, "score_function"), {}, "estimator must be one of"),
        ((-1,), {}, "k must be at least 0"),
        ((3,), {"output": "mask"}, "output must be one of 'hot', 'indices'"),
        ((3,), {"evaluation": "mean"}, "evaluation must be one of 'sample', 'mode'"),
        ((3,), {"num_samples": -1}, "num_samples must be at least 0"),
        ((3, "gumbel_softmax"), {"output": "indices"}, "output must be 'hot'"),
    ],
)
def test_bad_arguments(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        dg.nn.SubsetLayer(*arguments, **settings)


def test_bad_calls():
    with pytest.raises(TypeError, match="k must be an int"):
        dg.nn.SubsetLayer(2.0)
    with pytest.raises(ValueError, match="k must be from 0 to n = 4"):
        dg.nn.SubsetLayer(5)(torch.zeros(4))
    with pytest.raises(ValueError, match="k must be from 0 to n = 4"):
        dg.nn.SubsetLayer(5, output="indices").eval()(torch.zeros(4))
    with pytest.raises(TypeError, match="noize"):
        dg.nn.SubsetLayer(2, "imle", noize="gumbel")(torch.zeros(4))
