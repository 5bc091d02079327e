# SPDX-License-Identifier: Apache-2.0
"""SFESS's samplers: constructors, shapes, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.compat import law
from discrete_grad.compat.sfess import (
    GumbelSampler,
    IMLESampler,
    SamplerArgs,
    SFESSSampler,
    SIMPLESampler,
    get_sampler,
)
from tests import stats
from tests.compat import laws

MODES = ("exact", "compat")
NAMES = ("simple", "imle", "gumbel", "sfess")
# Their tasks: the autoencoder, learning to explain (one mask, and one for each instance), and the
# nearest neighbours; (B, n, k).
TASKS = [(128, 10, 5), (1, 784, 50), (4, 784, 50), (32, 128, 10)]


def make(name, k=3, mode="exact", **options):
    return get_sampler(SamplerArgs(name=name, sample_k=k, mode=mode, **options), device="cpu")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_shapes_of_the_tasks(name, task):
    batch, n, k = task
    modes = MODES if name in ("simple", "sfess") else ("exact",)
    for mode, draws in zip(modes, (2, 1), strict=False):
        sampler = make(name, k, mode, n_samples=draws, tau=0.5)
        scores = torch.randn(batch, n, 1, requires_grad=True)
        samples, extra = sampler(scores)
        assert samples.shape == (draws, batch, n, 1)
        assert samples.dtype == torch.float32
        assert samples.sum(2).eq(k).all()
        assert ((samples == 0) | (samples == 1)).all()
        if name == "simple":
            assert extra.shape == scores.shape
            assert_close(extra.detach().sum(1), torch.full((batch, 1), float(k)))
        elif name == "sfess":
            assert extra.shape == (draws, batch)
        else:
            assert extra is None
        loss = (extra if name == "sfess" else samples * torch.randn(batch, n, 1)).sum()
        (gradient,) = torch.autograd.grad(loss, scores)
        assert gradient.shape == scores.shape
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_factory():
    assert get_sampler(None, "cpu") is None
    assert SamplerArgs(name="simple", sample_k=3) == SamplerArgs(
        name="simple", sample_k=3, n_samples=1, assign_value=False, noise_scale=1.0, beta=1.0,
        tau=1.0, hard=True, mode="exact",
    )  # fmt: skip
    sampler = make("imle", 4, n_samples=2, noise_scale=0.5, beta=3.0)
    assert isinstance(sampler, IMLESampler)
    assert (sampler.k, sampler.n_samples, sampler.noise_scale) == (4, 2, 0.5)
    assert sampler.target.beta == 3.0
    sampler = make("gumbel", 4, tau=0.2, hard=False)
    assert isinstance(sampler, GumbelSampler)
    assert (sampler.tau, sampler.hard) == (0.2, False)
    sampler = make("simple", 4, "compat", assign_value=True)
    assert isinstance(sampler, SIMPLESampler)
    assert (sampler.mode, sampler.assign_value, sampler.device) == ("compat", True, "cpu")
    sampler = make("sfess", 4, "compat")
    assert isinstance(sampler, SFESSSampler)
    assert sampler.mode == "compat"
    assert not list(sampler.parameters())
    assert not sampler.state_dict()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ensemble", [1, 2])
def test_simple_samples_and_gradients(mode, ensemble):
    """A sample's gradient goes to the marginals, as does that of the marginals themselves."""
    sampler = SIMPLESampler(3, "cpu", 4, mode=mode)
    scores = torch.randn(5, 8, ensemble, dtype=torch.float64, requires_grad=True)
    samples, marginals = sampler(scores)
    assert_close(marginals, law.marginals(scores.mT, 3, mode).mT)
    g, h = torch.randn_like(samples), torch.randn_like(marginals)
    (found,) = torch.autograd.grad((samples * g).sum() + (marginals * h).sum(), scores)
    upstream = (g.sum(0) + h).mT
    (expected,) = torch.autograd.grad(law.marginals(scores.mT, 3, mode), scores, upstream)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert sampler(scores, sample_from_score=False)[0] is None


def test_simple_assigns_values():
    sampler = SIMPLESampler(3, "cpu", 2, True)
    scores = torch.randn(5, 8, 1, requires_grad=True)
    samples, marginals = sampler(scores)
    chosen = samples > 0
    assert chosen.sum(2).eq(3).all()
    assert_close(samples[chosen], (marginals.expand_as(samples) + 1e-7)[chosen])
    assert torch.autograd.grad(samples.sum(), scores)[0].abs().sum() > 0
    mask, marginals = SIMPLESampler(3, "cpu", 1, True).validation(scores)
    best = dg.subset.mode(scores.detach().squeeze(-1), 3)
    assert_close(mask[0, :, :, 0], best * (marginals.squeeze(-1) + 1e-7))


@pytest.mark.parametrize("name", ["simple", "imle", "gumbel"])
def test_validation(name):
    """One sample: the k largest scores; more: samples. No gradient either way."""
    scores = torch.randn(6, 9, 1, requires_grad=True)
    mask, marginals = make(name).validation(scores)
    assert torch.equal(mask[0, :, :, 0], dg.subset.mode(scores.squeeze(-1), 3))
    assert marginals is None
    masks, _ = make(name, n_samples=5).validation(scores)
    assert masks.shape == (5, 6, 9, 1)
    assert not torch.equal(masks[0], masks[1])
    assert not mask.requires_grad
    assert not masks.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_ties_in_validation(mode):
    scores = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.5]).reshape(1, 5, 1)
    mask, _ = SIMPLESampler(2, "cpu", mode=mode).validation(scores)
    assert mask.flatten().tolist() == ([1, 1, 0, 0, 0] if mode == "exact" else [1, 1, 1, 1, 0])


def test_imle_gradient_is_that_of_the_fused_op():
    """z - MAP(theta - beta g + the same noise), averaged over the samples, not divided by beta."""
    scores = torch.randn(4, 9, 1, requires_grad=True)
    g = torch.randn(5, 4, 9, 1)
    gradients = []
    for call in (
        lambda: make("imle", n_samples=5, noise_scale=0.7, beta=2.0)(scores)[0],
        lambda: (
            dg.imle_topk(
                scores.mT, 3, 5, target=dg.TargetDistribution(beta=2.0), temperature=0.7
            ).mT
        ),
    ):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(call(), scores, g)[0])
    assert torch.equal(*gradients)
    # a multiple of 1/5, since nothing is divided by beta = 2
    assert_close(gradients[0] * 5, (gradients[0] * 5).round(), rtol=0, atol=1e-5)
    assert gradients[0].any()


def test_gumbel_forms():
    scores = torch.randn(4, 9, 1)
    soft, _ = make("gumbel", n_samples=2, tau=0.5, hard=False)(scores)
    assert_close(soft.sum(2), torch.full((2, 4, 1), 3.0))
    assert ((soft > 0.01) & (soft < 0.99)).any()
    hard, _ = make("gumbel", n_samples=2, tau=0.5)(scores)
    assert ((hard == 0) | (hard == 1)).all()


@pytest.mark.parametrize("mode", MODES)
def test_sfess_law(mode):
    """log p is that of theta = scores; only in "exact" are the samples drawn from it."""
    scores = torch.tensor([1.0, -0.6, 0.3, -1.5, 0.05, 0.8], dtype=torch.float64).reshape(1, 6, 1)
    sampler = SFESSSampler(3, "cpu", 20_000, mode=mode)
    samples, log_p = sampler(scores)
    codes = stats.subset_codes(samples[:, 0, :, 0].numpy())
    exact = laws.coded(laws.subset_law(scores.flatten().numpy(), 3))
    expected = torch.tensor([exact[code] for code in codes.tolist()]).double().log()
    assert_close(log_p.squeeze(1), expected, rtol=1e-10, atol=1e-10)
    p_value = stats.chi_square_p(codes, exact)
    assert p_value > stats.P_VALUE if mode == "exact" else p_value < 1e-9


@pytest.mark.parametrize("mode", MODES)
def test_sfess_gradient(mode):
    """The mean of loss * log p estimates the exact gradient in "exact" alone."""
    row = torch.tensor([1.0, -0.6, 0.3, -1.5, 0.05, 0.8], dtype=torch.float64)
    weights = torch.tensor([3.0, -2.0, 1.0, 0.5, -1.0, 2.0], dtype=torch.float64)
    scores = row.reshape(1, 6, 1).requires_grad_()
    samples, log_p = SFESSSampler(3, "cpu", 40_000, mode=mode)(scores)
    losses = (samples.squeeze(-1) @ weights).square()
    (found,) = torch.autograd.grad((losses * log_p).mean(), scores)

    chosen, exact = zip(*laws.subset_law(row.numpy(), 3).items(), strict=True)
    hot = torch.zeros(len(chosen), 6, dtype=torch.float64)
    for place, subset in enumerate(chosen):
        hot[place, list(subset)] = 1
    p = torch.tensor(exact, dtype=torch.float64)
    f = (hot @ weights).square()
    mu = p @ hot
    expected = (p * f) @ (hot - mu)
    each = (f.unsqueeze(1) * (hot - mu)).square()
    deviation = ((p @ each - expected.square()) / 40_000).sqrt()
    z = ((found.flatten() - expected) / deviation).abs().max().item()
    assert z < stats.max_z_bound(6) if mode == "exact" else z > 6


def test_k_above_n_counts_as_n():
    scores = torch.randn(3, 4, 1, requires_grad=True)
    for name in NAMES:
        samples, _ = make(name, 7)(scores)
        assert_close(samples.detach(), torch.ones(1, 3, 4, 1))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: make("sfess-vr"), ValueError, "name must be one of 'simple', 'imle', 'gumbel'"),
        (lambda: make("imle", mode="raw"), ValueError, "mode must be 'exact' or 'compat'"),
        (lambda: SIMPLESampler(3, "cpu", 0), ValueError, "n_samples must be at least 1, got 0"),
        (lambda: SIMPLESampler(-1, "cpu"), ValueError, "k must be at least 0, got -1"),
        (lambda: SFESSSampler(2.0, "cpu"), TypeError, "k must be an int, got float 2.0"),
        (lambda: GumbelSampler(3, 1, tau=0.0)(torch.zeros(1, 4, 1)), ValueError, "temperature"),
        (lambda: make("simple")(torch.zeros(3, 4)), ValueError, r"scores must have three dim.*4\)"),
        (lambda: make("simple")([0.0]), TypeError, "scores must be a torch.Tensor, got list"),
        (lambda: make("simple")(torch.ones(1, 4, 1).long()), TypeError, "dtype"),
        (lambda: make("sfess")(torch.zeros(3, 4, 2)), ValueError, "one ensemble member"),
    ],
)
def test_errors(act, error, message):
    with pytest.raises(error, match=message):
        act()
