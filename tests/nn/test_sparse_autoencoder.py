# SPDX-License-Identifier: Apache-2.0
"""SubsetSAE: the code against a dense one, the TopK form, learning, and no dense mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import discrete_grad as dg


def dense(sae, code):
    """The reconstruction by a dense code."""
    full = torch.zeros(*code.indices.shape[:-1], sae.num_latents).scatter(
        -1, code.indices, code.values
    )
    return full @ sae.decoder + sae.bias


@pytest.mark.parametrize("selection", ["sample", "mode"])
def test_code_and_reconstruction(selection):
    sae = dg.nn.SubsetSAE(6, 20, 4, selection=selection)
    x = torch.randn(2, 5, 6)
    reconstruction, code = sae(x)
    assert code.values.shape == code.indices.shape == (2, 5, 4)
    torch.testing.assert_close(reconstruction, dense(sae, code))
    activations = functional.linear(x, sae.encoder)
    torch.testing.assert_close(code.values, activations.gather(-1, code.indices).relu())
    top = activations.topk(4).indices.sort().values
    assert torch.equal(sae.eval().encode(x).indices, top)
    assert torch.equal(code.indices, top) == (selection == "mode")


def test_gradients_of_the_topk_form_are_those_of_the_dense_code():
    sae = dg.nn.SubsetSAE(6, 20, 4, selection="mode")
    x = torch.randn(5, 6)
    grads = []
    for sparse in (True, False):
        reconstruction, code = sae(x)
        reconstruction = reconstruction if sparse else dense(sae, code)
        loss = (reconstruction - x).square().sum()
        grads.append(torch.autograd.grad(loss, list(sae.parameters())))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want)


def test_latents_left_out_have_a_gradient_in_a_draw():
    sae = dg.nn.SubsetSAE(6, 20, 4, temperature=1.0)
    _, code = sae(torch.randn(1, 6))
    code.values.square().sum().backward()
    others = torch.ones(20, dtype=torch.bool).index_fill(0, code.indices[0], False)
    assert sae.latent_bias.grad[others].abs().min() > 0


def test_the_temperature_decides_how_often_the_draw_is_the_mode():
    x = torch.randn(2000, 6)
    shares = []
    for temperature in (1.0, 0.1, 0.001):
        torch.manual_seed(2)
        sae = dg.nn.SubsetSAE(6, 20, 4, temperature=temperature)
        drawn = sae.encode(x).indices
        mode = sae.eval().encode(x).indices
        shares.append((drawn == mode).all(-1).float().mean())
    assert shares[0] < 0.1 < shares[1] < 0.9 < shares[2]


def test_no_tensor_of_the_size_of_a_dense_code_beside_the_activations():
    """Of the decoder: nothing [batch, n] is made by it."""

    class Shapes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.sizes = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.sizes += [
                t.numel()
                for t in torch.utils._pytree.tree_leaves(out)
                if isinstance(t, torch.Tensor)
            ]
            return out

    sae = dg.nn.SubsetSAE(6, 5000, 4)
    code = sae.encode(torch.randn(300, 6))
    with Shapes() as seen:
        sae.decode(code)
    assert max(seen.sizes) < 300 * 5000 / 100


@pytest.mark.parametrize("selection", ["sample", "mode"])
def test_learns_a_dictionary(selection):
    torch.manual_seed(0)
    atoms = functional.normalize(torch.randn(12, 16), dim=-1)
    sae = dg.nn.SubsetSAE(16, 32, 3, selection=selection, temperature=0.2)
    schedule = dg.nn.TemperatureSchedule(sae, 0.2, 0.02, 200)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-2)
    errors = []
    for _ in range(250):
        hot = dg.subset.sample(torch.zeros(128, 12), 3)
        x = (hot * (1 + torch.rand(128, 12))) @ atoms
        loss = (sae(x)[0] - x).square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        sae.normalize_decoder_()
        schedule.step()
        errors.append(loss.item())
    share = (sae.eval()(x)[0] - x).square().sum() / (x - x.mean(0)).square().sum()
    assert share < 0.15
    torch.testing.assert_close(sae.decoder.norm(dim=-1), torch.ones(32))


def test_state_dict():
    sae, copy = (dg.nn.SubsetSAE(6, 20, 4).eval() for _ in range(2))
    sae.temperature.fill_(0.3)
    copy.load_state_dict(sae.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(sae(x)[0], copy(x)[0])
    assert copy.temperature == sae.temperature


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((6, 20, 21), {}, "k must be at most num_latents = 20"),
        ((6, 20, 4), {"temperature": 0.0}, "temperature must be greater than 0"),
        ((6, 20, 4), {"selection": "all"}, "selection must be one of"),
    ],
)
def test_bad_arguments(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        dg.nn.SubsetSAE(*arguments, **settings)
