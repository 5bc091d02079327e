# SPDX-License-Identifier: Apache-2.0
"""PR-MPNN's samplers: both forms of EdgeSIMPLEBatched, and I-MLE as a decorator."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.compat import law, pr_mpnn, pr_mpnn_backup
from tests import stats
from tests.compat import laws

MODES = ("exact", "compat")
BATCH, CANDIDATES, ENSEMBLE, SAMPLES, K = 4, 12, 3, 2, 5
# Graphs have different numbers of candidates; the last one fewer than K.
REAL = torch.arange(CANDIDATES) < torch.tensor([12, 9, 6, 3]).unsqueeze(1)


def scores_of(dtype=torch.float32):
    """As PR-MPNN pads a batch of graphs: [BATCH, CANDIDATES, ENSEMBLE], a leaf that is padded."""
    leaf = torch.randn(BATCH, CANDIDATES, ENSEMBLE, dtype=dtype, requires_grad=True)
    padding = (~REAL).unsqueeze(-1).to(dtype) * 1e10
    return leaf, leaf * REAL.unsqueeze(-1) - padding


def make(form, mode="exact"):
    """(sampler, validation) of (scores, k, times), however the form takes k and times."""
    if form == "main":
        sampler = pr_mpnn.EdgeSIMPLEBatched(mode=mode)
        return sampler, sampler.validation

    def call(scores, k, times):
        sampler = pr_mpnn_backup.EdgeSIMPLEBatched(
            1, "cpu", "edge_candid", val_ensemble=9, train_ensemble=times, mode=mode
        )
        sampler.k = k
        return sampler(scores)

    def validation(scores, k, times):
        sampler = pr_mpnn_backup.EdgeSIMPLEBatched(k, "cpu", "edge_candid", times, 9, "None")
        sampler._sampler.mode = mode
        return sampler.validation(scores)

    return call, validation


@pytest.mark.parametrize("form", ["main", "backup"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples(form, mode, dtype):
    sampler, _ = make(form, mode)
    leaf, scores = scores_of(dtype)
    mask, marginals = sampler(scores, K, SAMPLES)
    assert mask.shape == (SAMPLES, BATCH, CANDIDATES, ENSEMBLE)
    assert marginals.shape == (BATCH, CANDIDATES, ENSEMBLE)
    assert mask.dtype == marginals.dtype == dtype
    assert ((mask == 0) | (mask == 1)).all()
    sizes = torch.tensor([5, 5, 5, 3]).to(dtype)
    assert mask.sum(2).eq(sizes.unsqueeze(1)).all()
    assert_close(marginals.sum(1), sizes.unsqueeze(1).expand(BATCH, ENSEMBLE), rtol=0, atol=1e-5)
    # fake candidates are never chosen, and where too few are real, all of them are
    assert not mask.permute(1, 2, 0, 3)[~REAL].any()
    assert not marginals[~REAL].any()
    assert marginals[3, :3].eq(1).all()
    rows = scores.detach()[1, :9].mT
    assert_close(marginals[1, :9].mT, law.marginals(rows, K, mode), rtol=0, atol=1e-6)

    g, h = torch.randn_like(mask), torch.randn_like(marginals)
    (gradient,) = torch.autograd.grad((mask * g).sum() + (marginals * h).sum(), leaf)
    assert gradient.isfinite().all()
    assert not gradient[~REAL].any()
    upstream = (g.sum(0) + h)[1, :9].mT
    rows = rows.clone().requires_grad_()
    (expected,) = torch.autograd.grad(law.marginals(rows, K, mode), rows, upstream)
    assert_close(gradient[1, :9].mT, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["main", "backup"])
@pytest.mark.parametrize("mode", MODES)
def test_validation(form, mode):
    sampler, validation = make(form, mode)
    leaf, scores = scores_of()
    mask, marginals = validation(scores, K, 1)
    assert mask.shape == (1, BATCH, CANDIDATES, ENSEMBLE)
    assert_close(marginals, sampler(scores, K, 1)[1].detach())
    for graph, real in enumerate(REAL.sum(1).tolist()):
        best = dg.subset.mode(leaf.detach()[graph, :real].mT, min(K, real)).mT
        assert torch.equal(mask[0, graph, :real], best)
        assert not mask[0, graph, real:].any()
    masks, _ = validation(scores, K, 7)
    assert masks.shape == (7, BATCH, CANDIDATES, ENSEMBLE)
    assert not torch.equal(masks[0], masks[1])
    assert not any(x.requires_grad for x in (mask, masks, marginals))
    ties = torch.tensor([2.0, 1.0, 1.0, 0.5]).reshape(1, 4, 1)
    expected = [1, 1, 0, 0] if mode == "exact" else [1, 1, 1, 0]
    assert validation(ties, 2, 1)[0].flatten().tolist() == expected


@pytest.mark.parametrize("mode", MODES)
def test_laws(mode):
    """Chi-square of the masks of one graph, beside another with fewer candidates."""
    scores = torch.full((2, 7, 1), -1e10)
    row = torch.tensor([1.0, -0.6, 0.3, -1.5, 0.05, 0.8])
    scores[0, :6, 0], scores[1, :4, 0] = row, row[:4]
    mask, _ = pr_mpnn.EdgeSIMPLEBatched(mode=mode)(scores, 3, 20_000)
    definition = laws.subset_law if mode == "exact" else laws.plackett_luce
    for graph, real in ((0, 6), (1, 4)):
        codes = stats.subset_codes(mask[:, graph, :, 0].numpy())
        expected = laws.coded(definition(row[:real].double().numpy(), 3))
        assert stats.chi_square_p(codes, expected) > stats.P_VALUE


@pytest.mark.parametrize("mode", MODES)
def test_negated_scores_choose_what_is_deleted(mode):
    """As in a forward pass of PR-MPNN: one sampler, two calls with a k each."""
    sampler = pr_mpnn.EdgeSIMPLEBatched(mode=mode)
    scores = torch.linspace(-30, 30, 8).reshape(1, 8, 1)
    added, _ = sampler(scores, 3, 2)
    deleted, _ = sampler(-scores, 2, 2)
    assert added[0].flatten().tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert (1 - deleted[0]).flatten().tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_without_candidates(mode):
    scores = torch.full((2, 5, 1), -1e10)
    scores[0] = torch.randn(5, 1)
    scores.requires_grad_()
    mask, marginals = pr_mpnn.EdgeSIMPLEBatched(mode=mode)(scores, 2, 3)
    assert not mask[:, 1].any()
    assert not marginals[1].any()
    (gradient,) = torch.autograd.grad((mask * torch.randn(5, 1)).sum(), scores)
    assert gradient.isfinite().all()
    assert gradient[0].abs().sum() > 0


def test_backup_form_uses_its_attributes():
    sampler = pr_mpnn_backup.EdgeSIMPLEBatched(
        2, "cpu", policy="edge_candid", val_ensemble=3, train_ensemble=4
    )
    scores = torch.randn(2, 6, 1)
    assert sampler(scores)[0].shape[0] == 4
    assert sampler(scores, times_sampled=5)[0].shape[0] == 5
    assert sampler.validation(scores)[0].shape[0] == 3
    sampler.k = 4
    assert sampler(scores)[0].sum(2).eq(4).all()
    sampler.policy = "global_directed"
    with pytest.raises(ValueError, match="policy must be 'edge_candid', got 'global_directed'"):
        sampler(scores)


def select_from_candidates(logits, k):
    """A solver as clients write it: the k largest along the dimension of the candidates."""
    return torch.zeros_like(logits).scatter(1, logits.topk(k, dim=1).indices, 1.0), None


@pytest.mark.parametrize("samples", [1, 4])
def test_imle(samples):
    """Samples in front; the gradient of ``dg.imle_topk`` from the same noise."""

    @pr_mpnn_backup.imle(
        target_distribution=pr_mpnn_backup.TargetDistribution(alpha=1.0, beta=2.0),
        noise_distribution=pr_mpnn_backup.GumbelDistribution(0.0, 0.7, "cpu"),
        nb_samples=samples,
        input_noise_temperature=1.0,
        target_noise_temperature=1.0,
    )
    def train_scheme(logits):
        return select_from_candidates(logits, K)

    # Two dimensions, for which the fused op makes the same noise.
    logits = torch.randn(BATCH, CANDIDATES, requires_grad=True)
    g = torch.randn(samples, BATCH, CANDIDATES)
    torch.manual_seed(7)
    mask, nothing = train_scheme(logits)
    assert mask.shape == g.shape
    assert nothing is None
    (gradient,) = torch.autograd.grad(mask, logits, g)
    torch.manual_seed(7)
    target = dg.TargetDistribution(beta=2.0)
    fused = dg.imle_topk(logits, K, samples, target=target, temperature=0.7)
    assert gradient.abs().sum() > 0
    assert torch.equal(mask, fused)
    assert_close(gradient, torch.autograd.grad(fused, logits, g)[0])


def test_imle_of_an_ensemble_and_of_validation():
    scheme = pr_mpnn_backup.imle(
        lambda logits: select_from_candidates(logits, K),
        noise_distribution=pr_mpnn_backup.GumbelDistribution(0.0, 1.0, "cpu"),
        nb_samples=SAMPLES,
    )
    logits = torch.randn(BATCH, CANDIDATES, ENSEMBLE, requires_grad=True)
    mask, _ = scheme(logits)
    assert mask.shape == (SAMPLES, BATCH, CANDIDATES, ENSEMBLE)
    assert mask.sum(2).eq(K).all()
    (gradient,) = torch.autograd.grad((mask * torch.randn_like(mask)).sum(), logits)
    assert gradient.any()
    noiseless = pr_mpnn_backup.imle(
        lambda logits: select_from_candidates(logits, K),
        noise_distribution=pr_mpnn_backup.GumbelDistribution(0.0, 1.0, "cpu"),
        input_noise_temperature=0.0,
    )
    assert torch.equal(noiseless(logits)[0][0], select_from_candidates(logits, K)[0])


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda s: pr_mpnn.EdgeSIMPLEBatched(mode="x"), ValueError, "mode must be 'exact' or"),
        (lambda s: pr_mpnn.EdgeSIMPLEBatched()(s, -1, 1), ValueError, "k must be at least 0"),
        (lambda s: pr_mpnn.EdgeSIMPLEBatched()(s, 2.5, 1), TypeError, "k must be an int, got fl"),
        (lambda s: pr_mpnn.EdgeSIMPLEBatched()(s, 2, 0), ValueError, "times_sampled must be at l"),
        (lambda s: pr_mpnn.EdgeSIMPLEBatched()(s[0], 2, 1), ValueError, "three dimensions"),
        (lambda s: pr_mpnn_backup.EdgeSIMPLEBatched(2, "cpu", "semi"), ValueError, "policy must"),
        (
            lambda s: pr_mpnn_backup.EdgeSIMPLEBatched(
                2, "cpu", "edge_candid", logits_activation="logsigmoid"
            ),
            ValueError,
            "logits_activation must be None or 'None', got 'logsigmoid'",
        ),
        (
            lambda s: pr_mpnn_backup.EdgeSIMPLEBatched(2, "cpu", "edge_candid", 0),
            ValueError,
            "val_ensemble must be at least 1, got 0",
        ),
    ],
)
def test_errors(act, error, message):
    with pytest.raises(error, match=message):
        act(torch.zeros(2, 6, 1))
