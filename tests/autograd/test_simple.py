# SPDX-License-Identifier: Apache-2.0
"""SIMPLE: an exact subset forward, the gradient of the exact marginals backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from discrete_grad.ops import choose_method
from tests import oracle
from tests.autograd.functions import INF, ROWS, batch


@pytest.mark.parametrize("row", ROWS)
def test_gradient_is_the_marginals_vjp(backend, row):
    """Against 60-digit arithmetic; the same for every draw, since the loss is linear in z."""
    logits, k = ROWS[row]
    weight = torch.linspace(-1, 1, len(logits), dtype=torch.float64)
    exact = oracle.as_floats(oracle.subset(logits.tolist(), k, weight.tolist()).vjp)
    theta = logits.clone().requires_grad_()
    z = dg.simple(theta, k, generator=torch.Generator().manual_seed(1))
    assert z.shape == logits.shape
    assert z.sum() == k
    (got,) = torch.autograd.grad((z * weight).sum(), theta)
    np.testing.assert_allclose(got.numpy(), exact, rtol=0, atol=1e-13)


def test_gradient_of_a_nonlinear_loss_is_taken_at_the_sample(backend):
    """d/d theta = Cov(z) dL/dz, dL/dz at the drawn subset, summed over the draws."""
    logits, sizes = batch()
    theta = logits.clone().requires_grad_()
    z = dg.simple(theta, sizes, 5, generator=torch.Generator().manual_seed(2))
    assert z.shape == (5, 3, 6)
    target = torch.linspace(0, 1, 6, dtype=torch.float64)
    coupling = torch.randn(6, 6, dtype=torch.float64)
    loss = ((z @ coupling - target) ** 2).sum()
    at_sample = torch.autograd.grad(loss, z, retain_graph=True)[0]
    (got,) = torch.autograd.grad(loss, theta)
    want = torch.zeros(3, 6, dtype=torch.float64)
    for r in range(3):
        g = at_sample[:, r].sum(0)
        exact = oracle.subset(logits[r].tolist(), int(sizes[r]), g.tolist())
        want[r] = torch.from_numpy(oracle.as_floats(exact.vjp))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("rows", "n", "k"), [(64, 4, 2), (64, 64, 8), (2, 64, 8), (64, 300, 20)])
def test_gradient_takes_the_fastest_method(rows, n, k):
    """That of ``dg.subset.marginals``, whose method "auto" depends on the shape."""
    theta = torch.randn(rows, n, requires_grad=True)
    weight = torch.randn(rows, n)
    with dg.backend("cpp"):
        (of_marginals,) = torch.autograd.grad(dg.subset.marginals(theta, k), theta, weight)
        (of_simple,) = torch.autograd.grad(dg.simple(theta, k), theta, weight)
    # A saved contour is the same one to rounding only.
    tolerance = 0 if choose_method(rows, n, k, "cpu") == "linear" else 1e-6
    torch.testing.assert_close(of_simple, of_marginals, rtol=0, atol=tolerance)


def test_forward_is_the_sample(backend):
    logits, sizes = batch()
    seeded = [torch.Generator().manual_seed(3) for _ in range(2)]
    z = dg.simple(logits.requires_grad_(), sizes, 4, generator=seeded[0])
    assert torch.equal(z, dg.subset.sample(logits, sizes, 4, generator=seeded[1]))
    assert z.requires_grad
    assert not dg.subset.sample(logits, sizes).requires_grad


def test_no_gradient_asked_for(backend):
    z = dg.simple(ROWS["normal"][0], 3)
    assert not z.requires_grad
    with torch.no_grad():
        assert not dg.simple(ROWS["normal"][0].clone().requires_grad_(), 3).requires_grad


def test_double_backward(backend):
    """The gradient of SIMPLE's gradient is the derivative of Cov(theta) g."""
    logits, k = ROWS["normal"]
    g = torch.linspace(-1, 1, 7, dtype=torch.float64)
    h = g.square() - 0.3

    def second(z_of):
        theta = logits.clone().requires_grad_()
        cotangent = g.clone().requires_grad_()
        (first,) = torch.autograd.grad(z_of(theta), theta, cotangent, create_graph=True)
        return torch.autograd.grad(first, (theta, cotangent), h)

    got = second(lambda x: dg.simple(x, k, generator=torch.Generator().manual_seed(4)))
    with dg.backend("reference"):
        want = second(lambda x: dg.subset.marginals(x, k))
    for a, b in zip(got, want, strict=True):
        assert bool(b.any())
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_masked_items_and_expanded_gradients(backend):
    logits = torch.randn(4, 9, dtype=torch.float64)
    logits[:, 2], logits[:, 5] = -INF, INF
    theta = logits.requires_grad_()
    z = dg.simple(theta, 4, 3)
    (got,) = torch.autograd.grad(z[..., :4].sum(), theta)  # an expanded, strided gradient
    assert got.isfinite().all()
    assert not got[:, [2, 5]].any()
    assert got[:, [0, 1, 3]].all()
    (zero,) = torch.autograd.grad(dg.simple(theta, 4, 3).sum(), theta)  # the sum is k: no gradient
    torch.testing.assert_close(zero, torch.zeros_like(zero), rtol=0, atol=1e-13)


@pytest.mark.parametrize("transform", ["grad", "jacrev", "vmap-grad"])
def test_functorch(backend, transform):
    """Inside torch.func the same gradient; under vmap, randomness has to be asked for."""
    logits, k = ROWS["normal"]
    weight = torch.linspace(-1, 1, 7, dtype=torch.float64)
    exact = oracle.as_floats(oracle.subset(logits.tolist(), k, weight.tolist()).vjp)

    def loss(x):
        return (dg.simple(x, k) * weight).sum()

    if transform == "grad":
        got = torch.func.grad(loss)(logits)
    elif transform == "jacrev":
        got = torch.func.jacrev(loss)(logits)
    elif backend == "cpp":
        got = torch.func.vmap(torch.func.grad(loss), randomness="different")(logits.expand(3, 7))[2]
    else:  # the reference's sampler reads values on the host, which vmap cannot
        with pytest.raises(RuntimeError, match="vmap"):
            torch.func.vmap(torch.func.grad(loss), randomness="different")(logits.expand(3, 7))
        return
    torch.testing.assert_close(got, torch.from_numpy(exact), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", ["sample", "simple"])
def test_vmap_randomness(sampler):
    """randomness="different" gives every mapped row its own draw, "same" one draw to equal rows,
    and neither is an error, not a repeat. (The reference's sampler reads values: no vmap.)
    """
    function = dg.subset.sample if sampler == "sample" else dg.simple
    logits = torch.zeros(50, 40, dtype=torch.float64)
    with dg.backend("cpp"):
        different = torch.func.vmap(lambda x: function(x, 10), randomness="different")(logits)
        assert bool((different.sum(-1) == 10).all())
        assert len(different.unique(dim=0)) == 50
        same = torch.func.vmap(lambda x: function(x, 10), randomness="same")(logits)
        assert bool((same.sum(-1) == 10).all())
        assert len(same.unique(dim=0)) == 1
        with pytest.raises(RuntimeError, match="randomness"):
            torch.func.vmap(lambda x: function(x, 10))(logits)


def test_checkpoint_draws_the_same_subset_again(backend):
    """Recomputation in the backward pass restores the generator, so the loss and its gradient
    belong together.
    """
    from torch.utils.checkpoint import checkpoint

    logits = torch.randn(20, 30, dtype=torch.float64)
    seen = []

    def block(x):
        z = dg.simple(x, 7)
        seen.append(z.detach())
        return (z.square() @ torch.linspace(0, 1, 30, dtype=torch.float64)).square()

    theta = logits.requires_grad_()
    checkpoint(block, theta, use_reentrant=False).sum().backward()
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_memory_kept_for_the_backward_pass_does_not_grow_with_k_or_draws():
    """What autograd saves: the logits and O(1) numbers a row."""
    sizes = []
    with dg.backend("cpp"):
        for k, draws in ((2, 1), (500, 50)):
            saved = []

            def pack(t, saved=saved):
                saved.append(t.numel() * t.element_size())
                return t

            theta = torch.randn(8, 1000).requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                dg.simple(theta, k, draws)
                dg.subset.marginals(theta, k, method="contour")
            sizes.append(sum(saved))
    assert sizes[0] == sizes[1]
    assert sizes[1] <= 2 * (8 * 1000 * 4) + 8 * 512
