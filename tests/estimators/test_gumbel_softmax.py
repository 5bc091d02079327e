# SPDX-License-Identifier: Apache-2.0
"""dg.gumbel_softmax_topk: the relaxed subset, its limits and gradients, and its hard form."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from discrete_grad.estimators.gumbel_softmax import gumbel_softmax_topk, relaxed_topk
from discrete_grad.estimators.perturb_and_map import perturbed_topk
from discrete_grad.noise import GumbelNoiseDistribution
from discrete_grad.rng import seed_for

INF = float("inf")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def by_definition(scores, k, temperature):
    """k rounds of a softmax, as the paper has them: safe only where no entry comes near to 1."""
    total = torch.zeros_like(scores)
    for _ in range(k):
        chosen = (scores / temperature).softmax(-1)
        total = total + chosen
        scores = scores + torch.log(1 - chosen)
    return total


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_relaxed_topk_is_its_definition(k, temperature):
    scores = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 7, dtype=torch.float64)
    ours = relaxed_topk(scores, k, temperature)
    theirs = by_definition(scores, k, temperature)
    assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    (ours,) = torch.autograd.grad(ours, scores, g)
    (theirs,) = torch.autograd.grad(theirs, scores, g)
    assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_it_relaxes_the_perturbed_topk(backend):
    """The same noise as perturb-and-MAP's: in the limit its subsets, and hard=True's."""
    logits = torch.randn(50, 9)
    hot = perturbed_topk(logits, 3, 4, generator=seeded())
    soft = gumbel_softmax_topk(logits, 3, 4, temperature=1e-4, generator=seeded())
    assert soft.shape == (4, 50, 9)
    # Rows whose 3rd and 4th lie within a few temperatures of one another are not decided yet.
    assert (soft - hot).abs().amax(-1).lt(1e-3).float().mean() > 0.98
    hard = gumbel_softmax_topk(logits, 3, 4, temperature=2.0, hard=True, generator=seeded())
    assert torch.equal(hard, hot)
    assert gumbel_softmax_topk(logits, 3).shape == (50, 9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1e-3, 0.5, 1e3])
def test_sums_to_k_with_finite_gradients(backend, dtype, temperature):
    """At logits of very different sizes, where textbook forms give log 0."""
    logits = (torch.randn(20, 12) * torch.logspace(-2, 3, 20).unsqueeze(-1)).to(dtype)
    logits.requires_grad_()
    soft = gumbel_softmax_topk(logits, 5, 3, temperature=temperature)
    assert soft.dtype == dtype
    assert (soft >= 0).all()
    rounding = {torch.bfloat16: 0.05, torch.float16: 0.01}.get(dtype, 1e-5)
    assert_close(soft.double().sum(-1), torch.full((3, 20), 5.0).double(), rtol=0, atol=rounding)
    (gradient,) = torch.autograd.grad(soft, logits, torch.randn_like(soft))
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    if temperature == 0.5:
        assert gradient.abs().sum() > 0


def test_gradient_where_an_entry_rounds_to_one():
    """float32 at scores where 1 - a_1 is 0 in float32, against float64 (where it is 1e-11)."""
    scores = torch.tensor([25.0, 0.3, -0.4, 0.2], dtype=torch.float64)
    g = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def gradient(dtype):
        x = scores.to(dtype).requires_grad_()
        (found,) = torch.autograd.grad(relaxed_topk(x, 2, 1.0), x, g.to(dtype))
        return found.double()

    wide = gradient(torch.float64)
    assert wide[1:].abs().min() > 0.01
    assert_close(gradient(torch.float32), wide, rtol=0, atol=1e-5)


def test_gradcheck(backend):
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def relaxed(x):
        return gumbel_softmax_topk(x, 2, 2, temperature=0.7, generator=seeded())

    assert torch.autograd.gradcheck(relaxed, logits)
    masked = torch.tensor([0.3, -INF, 0.8, 0.1, INF], dtype=torch.float64)
    free = torch.tensor([True, False, True, True, False])

    def relaxed_free(x):
        return relaxed(masked.masked_scatter(free, x))

    assert torch.autograd.gradcheck(relaxed_free, masked[free].requires_grad_())


def test_straight_through_gradient_is_the_relaxed_one(backend):
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 4, 6, dtype=torch.float64)
    gradients = []
    for hard in (False, True):
        z = gumbel_softmax_topk(logits, 2, 3, temperature=0.6, hard=hard, generator=seeded())
        gradients.append(torch.autograd.grad(z, logits, g)[0])
    assert gradients[0].abs().min() > 0
    assert torch.equal(*gradients)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_masked_items_are_as_if_they_were_not_there(backend, hard, k):
    """One item forced, one excluded: 1, 0, and the relaxed (k - 1)-subset of the others."""
    logits = torch.tensor([0.3, INF, 0.8, -INF, -0.4], dtype=torch.float64, requires_grad=True)
    z = gumbel_softmax_topk(logits, k, 3, hard=hard, temperature=0.8, generator=seeded())
    assert z[:, 1].eq(1).all()
    assert z[:, 3].eq(0).all()
    (gradient,) = torch.autograd.grad(z, logits, torch.randn(3, 5, dtype=torch.float64))
    assert gradient.isfinite().all()
    assert not gradient[[1, 3]].any()
    if not hard:
        seed = seed_for(logits, seeded())
        noise = GumbelNoiseDistribution().draw(torch.Size([3, 5]), seed, torch.float64)
        others = (logits + noise)[:, [0, 2, 4]]
        assert_close(z[:, [0, 2, 4]], by_definition(others, k - 1, 0.8))


@pytest.mark.parametrize("hard", [False, True])
def test_rows_without_a_subset(backend, hard):
    logits = torch.zeros(5, 4)
    logits[0, 1] = float("nan")
    logits[1, :3] = -INF
    logits[2, :3] = INF
    logits[3, :2] = -INF  # exactly k are left
    logits.requires_grad_()
    z = gumbel_softmax_topk(logits, 2, hard=hard)
    assert z.isnan().all(-1).tolist() == [True, True, True, False, False]
    assert_close(z[3], torch.tensor([0.0, 0.0, 1.0, 1.0]), rtol=0, atol=0.7 * (not hard))
    (gradient,) = torch.autograd.grad(z, logits, torch.randn(5, 4))
    assert gradient[3:].isfinite().all()


def test_rows_that_are_done_before_others(backend):
    """With 2, 1 and 0 items forced, the first row done after one round, with one item."""
    logits = torch.tensor(
        [[INF, INF, 0.3, -INF], [INF, 0.3, 0.1, -INF], [0.5, 0.3, 0.1, -0.2]], dtype=torch.float64
    ).requires_grad_()
    z = gumbel_softmax_topk(logits, 3, 5, temperature=0.5)
    assert_close(z[:, 0], torch.tensor([1.0, 1.0, 1.0, 0.0]).double().expand(5, 4))
    assert_close(z.sum(-1), torch.full((5, 3), 3.0).double())
    (gradient,) = torch.autograd.grad(z, logits, torch.randn(5, 3, 4, dtype=torch.float64))
    assert gradient.isfinite().all()
    assert gradient[2].abs().min() > 0


@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 0, 4), (0,)], ids=str)
@pytest.mark.parametrize("hard", [False, True])
def test_batch_shapes(backend, shape, hard):
    k = 2 if shape[-1] else 0
    logits = torch.randn(shape, requires_grad=True)
    z = gumbel_softmax_topk(logits, k, 3, hard=hard)
    assert z.shape == (3, *shape)
    z.sum().backward()
    assert logits.grad.shape == shape


def test_errors():
    logits = torch.zeros(4)
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        gumbel_softmax_topk(logits, 2, temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
        gumbel_softmax_topk(logits, 2, temperature=float("nan"))
    with pytest.raises(TypeError, match="temperature must be a float"):
        gumbel_softmax_topk(logits, 2, temperature="hot")
    with pytest.raises(TypeError, match="k must be an int for gumbel_softmax_topk"):
        gumbel_softmax_topk(logits, torch.tensor(2))
