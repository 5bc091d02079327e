# SPDX-License-Identifier: Apache-2.0
"""N:M masks: the law of a group, its gradient, hardening, export, whole models, the schedule."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import discrete_grad as dg
from tests.nn import laws


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def magnitude(weight, n, m):
    """The mask of the n largest of every m, by sorting."""
    groups = weight.detach().abs().reshape(weight.shape[0], -1, m)
    top = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
    return torch.zeros_like(groups).scatter(-1, top, 1.0).reshape(weight.shape)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (8, 16)])
def test_starts_as_the_mask_of_the_largest_magnitudes(n, m):
    linear = nn.Linear(32, 5)
    layer = dg.nn.NMSparseLinear.from_linear(linear, n, m).eval()
    x = torch.randn(3, 32)
    want = functional.linear(x, linear.weight * magnitude(linear.weight, n, m), linear.bias)
    torch.testing.assert_close(layer(x), want)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert layer.flipped_groups() == 0


def test_every_draw_keeps_n_of_m():
    layer = dg.nn.NMSparseLinear(32, 50, 2, 4)
    masks = [(layer.masked_weight() != 0).reshape(50, 8, 4) for _ in range(2)]
    assert all(bool((mask.sum(-1) == 2).all()) for mask in masks)
    assert not torch.equal(*masks)


def test_the_masks_follow_the_law_at_the_temperature():
    layer = dg.nn.NMSparseLinear(4, 20000, 2, 4, temperature=0.5)
    logits = torch.tensor([0.6, -0.3, 0.0, 0.2])
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.mask_logits.copy_(logits)
        share = layer.masked_weight().mean(0)
    # Four standard deviations.
    torch.testing.assert_close(share, laws.inclusion(logits / 0.5, 2), rtol=0, atol=0.0142)


def test_the_gradient_is_that_of_simple():
    """Whatever was drawn: for a loss linear in the mask it is exact."""
    layer = dg.nn.NMSparseLinear(8, 3, 2, 4, temperature=0.75, dtype=torch.float64)
    slope = torch.randn(3, 8, dtype=torch.float64)
    layer.masked_weight().mul(slope).sum().backward()
    for row in range(3):
        for group in range(2):
            at = slice(4 * group, 4 * group + 4)
            theta = layer.mask_logits.detach()[row, group].clone().requires_grad_()
            cost = (slope * layer.weight.detach())[row, at]
            (want,) = torch.autograd.grad(laws.inclusion(theta / 0.75, 2) @ cost, theta)
            torch.testing.assert_close(layer.mask_logits.grad[row, group], want, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, slope * (layer.weight.grad != 0), rtol=0, atol=0)


def test_the_regularizer_is_the_expected_loss_of_squares():
    layer = dg.nn.NMSparseLinear(4, 1, 2, 4, dtype=torch.float64)
    mu = laws.inclusion(layer.mask_logits[0, 0].detach(), 2)
    squares = layer.weight.detach()[0].square()
    want = ((1 - mu) * squares).sum() / squares.sum()
    torch.testing.assert_close(layer.regularizer(), want)
    layer.regularizer().backward()
    assert layer.mask_logits.grad.abs().sum() > 0
    assert layer.weight.grad is None


def test_hardening_and_export():
    net = model()
    dg.nn.sparsify_(net, 2, 4)
    with torch.no_grad():
        net[0].mask_logits[0, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
        net[0].weight[0, :4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    x = torch.randn(6, 8)
    want = net.eval()(x)
    dg.nn.harden_masks_(net)
    net.train()
    assert torch.equal(net(x), want)
    with torch.no_grad():
        net[0].mask_logits.zero_()  # a fixed mask does not follow its logits
    assert torch.equal(net(x), want)
    net(x).sum().backward()
    assert net[0].mask_logits.grad is None
    assert net[0].weight.grad[0, :4].ne(0).tolist() == [False, False, True, True]
    dg.nn.bake_masks_(net)
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(net(x), want)
    assert net[0].weight[0, :4].tolist() == [0.0, 0.0, 2.0, 1.0]
    assert (net[2].weight.reshape(4, 4, 4) == 0).sum(-1).eq(2).all()


def test_flipped_groups():
    net = model()
    dg.nn.sparsify_(net, 2, 4)
    assert dg.nn.flipped_groups(net) == 0
    with torch.no_grad():
        net[0].mask_logits[3, 1] *= -1
        net[2].mask_logits[:2, 0] *= -1
    assert dg.nn.flipped_groups(net) == 3
    dg.nn.harden_masks_(net)
    assert dg.nn.flipped_groups(net) == 3


def test_sparsify_a_model():
    net = model()
    before = dict(net.named_parameters())
    layers = dg.nn.sparsify_(net, include=lambda name, layer: name != "2", freeze_weights=True)
    assert list(layers) == ["0"]
    assert layers["0"] is net[0]
    assert type(net[2]) is nn.Linear
    assert all(value is before[name] for name, value in net.named_parameters() if name in before)
    trained = [name for name, value in net.named_parameters() if value.requires_grad]
    assert trained == ["0.mask_logits", "2.weight", "2.bias"]


def test_a_shared_layer_has_one_mask():
    shared = nn.Linear(8, 8)
    net = nn.Sequential(shared, nn.Sequential(shared))
    layers = dg.nn.sparsify_(net)
    assert layers["0"] is layers["1.0"] is net[0] is net[1][0]
    dg.nn.bake_masks_(net)
    assert net[0] is net[1][0]
    assert type(net[0]) is nn.Linear


def test_learns_which_weights_matter():
    """Of a trained layer the inputs 0 and 1 of each group are never on: its masks leave them."""
    torch.manual_seed(2)
    layer = dg.nn.NMSparseLinear(8, 6, bias=False, strength=1.0)
    layer.weight.requires_grad_(False)
    with torch.no_grad():
        layer.weight[:, [0, 1, 4, 5]] += 0.5 * layer.weight[:, [0, 1, 4, 5]].sign()
    layer.reset_mask()
    schedule = dg.nn.TemperatureSchedule(layer, 1.0, 0.1, 100)
    optimiser = torch.optim.Adam([layer.mask_logits], lr=0.2)
    used = torch.tensor([0.0, 0.0, 1.0, 1.0] * 2)
    for _ in range(120):
        x = torch.randn(64, 8) * used
        loss = (layer(x) - x @ layer.weight.T).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    layer.harden()
    lost = (layer.masked_weight() - layer.weight) * used
    assert lost.square().sum() < 1e-2 * (layer.weight * used).square().sum()


@pytest.mark.parametrize("hardened", [False, True])
def test_state_dict(hardened, tmp_path):
    net = model()
    dg.nn.sparsify_(net)
    dg.nn.TemperatureSchedule(net, 0.5, 0.1, 10)
    with torch.no_grad():
        net[0].mask_logits.normal_()
    if hardened:
        dg.nn.harden_masks_(net)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    dg.nn.sparsify_(other)
    other.load_state_dict(torch.load(tmp_path / "net.pt"))
    assert other[0].hardened is hardened
    assert other[0].temperature == 0.5
    assert dg.nn.flipped_groups(other) == dg.nn.flipped_groups(net) > 0
    x = torch.randn(3, 8)
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_the_schedule():
    net = model()
    dg.nn.sparsify_(net)
    schedule = dg.nn.TemperatureSchedule(net, 2.0, 0.5, 4)
    seen = [net[2].temperature.item()]
    for _ in range(5):
        schedule.step()
        seen.append(net[2].temperature.item())
    want = [2.0, 2**0.5, 1.0, 0.5**0.5, 0.5, 0.5]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(want))
    moved = copy.deepcopy(net).double()
    again = dg.nn.TemperatureSchedule(moved, 2.0, 0.5, 4)
    again.load_state_dict(schedule.state_dict())
    assert again.temperature == schedule.temperature == 0.5
    assert moved[0].temperature == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dg.nn.NMSparseLinear(8, 4, 4, 4), "n must be from 1 to m - 1 = 3, got 4"),
        (lambda: dg.nn.NMSparseLinear(8, 4, 0, 4), "n must be from 1"),
        (lambda: dg.nn.NMSparseLinear(9, 4), "in_features must be a multiple of m = 4, got 9"),
        (lambda: dg.nn.NMSparseLinear(8, 4, temperature=0.0), "temperature must be greater than 0"),
        (lambda: dg.nn.NMSparseLinear(8, 4, strength=-1.0), "strength must be finite and at least"),
        (lambda: dg.nn.sparsify_(nn.Sequential(nn.ReLU())), "model must contain an nn.Linear"),
        (lambda: dg.nn.sparsify_(nn.Linear(8, 8)), "model must contain an nn.Linear"),
        (
            lambda: dg.nn.sparsify_(nn.Sequential(nn.Linear(9, 2))),
            "in_features of '0' must be a multiple of m = 4, got 9",
        ),
        (lambda: dg.nn.flipped_groups(model()), "model must contain an NMSparseLinear"),
        (
            lambda: dg.nn.TemperatureSchedule(model(), 1.0, 0.1, 5),
            "model must contain an NMSparseLinear, a SubsetRouter or a SubsetSAE",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types():
    with pytest.raises(TypeError, match="model must be a Module"):
        dg.nn.sparsify_("model")
    with pytest.raises(TypeError, match="linear must be a Linear"):
        dg.nn.NMSparseLinear.from_linear(nn.ReLU())
    with pytest.raises(TypeError, match="n must be an int"):
        dg.nn.NMSparseLinear(8, 4, 2.0)
