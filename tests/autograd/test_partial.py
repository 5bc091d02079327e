# SPDX-License-Identifier: Apache-2.0
"""Gradients for some inputs only, accumulated, in 16 bits and under autocast."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from tests.autograd.functions import ROWS


def test_marginals_and_log_partition_from_one_graph(backend):
    """Both outputs' gradients add up, whichever of them is used."""
    logits = torch.randn(3, 9, dtype=torch.float64)
    g = torch.randn(3, 9, dtype=torch.float64)

    def run(use_mu, use_log_z):
        theta = logits.clone().requires_grad_()
        mu, log_z = dg.subset.marginals(theta, 4), dg.subset.log_partition(theta, 4)
        terms = [(mu * g).sum()] * use_mu + [log_z.sin().sum()] * use_log_z
        return torch.autograd.grad(sum(terms), theta)[0]

    torch.testing.assert_close(run(1, 1), run(1, 0) + run(0, 1), rtol=0, atol=1e-13)
    assert bool(run(1, 0).any())
    assert bool(run(0, 1).any())


@pytest.mark.parametrize("needs", ["p", "q"])
def test_kl_with_one_side_fixed(backend, needs):
    p, q = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    both = [p.clone().requires_grad_(), q.clone().requires_grad_()]
    want = torch.autograd.grad(dg.subset.kl_divergence(*both, 2).sum(), both)
    one = p.clone().requires_grad_() if needs == "p" else q.clone().requires_grad_()
    args = (one, q) if needs == "p" else (p, one)
    (got,) = torch.autograd.grad(dg.subset.kl_divergence(*args, 2).sum(), one)
    torch.testing.assert_close(got, want[needs == "q"], rtol=0, atol=1e-13)


def test_second_derivative_by_the_cotangent_only(backend):
    """Cov g is linear in g: its derivative by g is Cov, with the logits held fixed in the second
    pass.
    """
    logits, k = ROWS["normal"]
    theta = logits.clone().requires_grad_()
    g = torch.linspace(-1, 1, 7, dtype=torch.float64).requires_grad_()
    (product,) = torch.autograd.grad(dg.subset.marginals(theta, k), theta, g, create_graph=True)
    h = torch.linspace(0, 1, 7, dtype=torch.float64)
    (by_g,) = torch.autograd.grad(product, g, h)
    torch.testing.assert_close(by_g, dg.subset.covariance(logits, k) @ h, rtol=0, atol=1e-13)


def test_accumulation_into_a_leaf(backend):
    theta = torch.randn(2, 5, dtype=torch.float64).requires_grad_()
    g = torch.randn(2, 5, dtype=torch.float64)
    for _ in range(3):
        (dg.subset.marginals(theta, 2) * g).sum().backward()
    (once,) = torch.autograd.grad((dg.subset.marginals(theta, 2) * g).sum(), theta)
    torch.testing.assert_close(theta.grad, 3 * once, rtol=0, atol=1e-13)


def test_a_changed_input_is_noticed():
    """Saved tensors are versioned: an in-place change before the backward pass is an error, not a
    wrong gradient. (The reference saves tensors of its own, so its gradient stays right.)
    """
    theta = torch.randn(2, 5, dtype=torch.float64).requires_grad_()
    for changed in (False, True):
        x = theta * 1
        with dg.backend("cpp"):
            out = dg.subset.marginals(x, 2).square().sum()
        if not changed:
            out.backward()
            continue
        with torch.no_grad():
            x.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_sixteen_bit_gradients_are_float32_ones_rounded(backend, dtype):
    logits = torch.randn(4, 20).to(dtype)
    g = torch.randn(4, 20).to(dtype)

    def gradient(x, cotangent):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(dg.subset.marginals(x, 6), x, cotangent)[0]

    narrow, wide = gradient(logits, g), gradient(logits.float(), g.float())
    assert narrow.dtype == dtype
    torch.testing.assert_close(narrow.float(), wide, rtol=torch.finfo(dtype).eps, atol=1e-6)


class TestAutocast:
    """Inside autocast the ops compute in float32 and return it, as PyTorch's own softmax does."""

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: dg.subset.marginals(x, 5),
            lambda x: dg.subset.log_partition(x, 5),
            lambda x: dg.subset.count_log_prob(x, 5),
            lambda x: dg.subset.entropy(x, 5),
            lambda x: dg.subset.sample(x, 5, 2, generator=torch.Generator().manual_seed(1)),
            lambda x: dg.simple(x, 5, 2, generator=torch.Generator().manual_seed(1)),
        ],
        ids=["marginals", "log_partition", "count_log_prob", "entropy", "sample", "simple"],
    )
    def test_values(self, backend, function):
        layer = torch.nn.Linear(8, 24)
        x = torch.randn(3, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = layer(x)
            assert logits.dtype == torch.bfloat16
            got = function(logits)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, function(logits.float()), rtol=0, atol=1e-6)

    def test_training_step(self, backend):
        """Forward inside, backward outside: the layer gets the float32 gradient of the bfloat16
        logits.
        """
        layer = torch.nn.Linear(8, 24)
        x, weight = torch.randn(3, 8), torch.randn(24)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = layer(x)
            logits.retain_grad()
            loss = (dg.subset.marginals(logits, 5) * weight).sum() + (
                dg.simple(logits, 5) * weight
            ).sum()
        loss.backward()
        theta = logits.detach().float().requires_grad_()
        (want,) = torch.autograd.grad(2 * (dg.subset.marginals(theta, 5) * weight).sum(), theta)
        assert logits.grad.dtype == torch.bfloat16
        torch.testing.assert_close(logits.grad.float(), want, rtol=2**-6, atol=1e-5)
        assert bool(layer.weight.grad.any())

    def test_float64_stays(self, backend):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (
                dg.subset.marginals(torch.randn(5, dtype=torch.float64), 2).dtype == torch.float64
            )
