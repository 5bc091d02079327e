# SPDX-License-Identifier: Apache-2.0
"""Small training loops in the style of the two projects, and the adapters under torch.compile."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from discrete_grad.compat import circuit, pr_mpnn, pr_mpnn_backup, sfess

MODES = ("exact", "compat")


def train(parameters, loss, steps, rate):
    """Mean losses of the first and of the last five steps."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        seen.append(value.item())
    return sum(seen[:5]) / 5, sum(seen[-5:]) / 5


@pytest.mark.parametrize(
    ("name", "mode", "n", "k"),
    [
        ("simple", "exact", 784, 50),
        ("simple", "compat", 784, 50),
        ("imle", "exact", 784, 50),
        ("gumbel", "exact", 64, 6),
    ],
)
def test_learning_to_explain(name, mode, n, k):
    """k of n pixels carry the target; the fixed classifier sees the pixels of the mask alone."""
    draws, batch = 2, 8
    planted = torch.randperm(n)[:k]
    weight = torch.zeros(n)
    weight[planted] = 1.0
    selector = torch.nn.Sequential(torch.nn.Linear(n, 32), torch.nn.ReLU(), torch.nn.Linear(32, n))
    args = sfess.SamplerArgs(
        name=name, sample_k=k, n_samples=draws, noise_scale=1.0, beta=1e3, tau=0.5, mode=mode
    )
    sampler = sfess.get_sampler(args, device="cpu")
    x = torch.rand(batch, n) + 0.5

    def loss():
        mask, _ = sampler(selector(x).unsqueeze(-1))
        assert mask.shape == (draws, batch, n, 1)
        explained = (mask.squeeze(-1) * x) @ weight
        return (explained / (x @ weight) - 1).square().mean()

    first, last = train(selector.parameters(), loss, 30, 5e-3)
    assert last < 0.6 * first


@pytest.mark.parametrize("mode", MODES)
def test_score_function(mode):
    """SFESS's surrogate: loss + log p * (loss without its mean), averaged over the samples."""
    draws, n, k = 32, 12, 3
    logits = torch.nn.Parameter(torch.zeros(4, n) + 0.1)
    target = torch.zeros(n)
    target[:k] = 1.0
    sampler = sfess.get_sampler(
        sfess.SamplerArgs(name="sfess", sample_k=k, n_samples=draws, mode=mode), "cpu"
    )

    def loss():
        mask, log_p = sampler(logits.unsqueeze(-1))
        losses = (mask.squeeze(-1) - target).square().mean(-1)
        surrogate = log_p * (losses - losses.mean(0)).detach()
        return (losses + surrogate - surrogate.detach()).mean()

    first, last = train([logits], loss, 40, 0.1)
    assert last < 0.5 * first


def rewiring_loss(add, delete, scores, existing, real, kept, planted):
    """PR-MPNN's weights in training: marginals of added edges, 1 - mask of deleted ones."""
    _, marginals = add(scores - (~real).unsqueeze(-1) * 1e10)
    mask, _ = delete(-existing)
    added = (marginals * planted.unsqueeze(-1))[real].sum() / planted.sum()
    kept_weight = (1 - mask)[:, kept].mean()
    return 2 - added / scores.shape[-1] - kept_weight


@pytest.mark.parametrize("form", ["main", "backup"])
@pytest.mark.parametrize("mode", MODES)
def test_rewiring(form, mode):
    """Each forward pass adds k_add candidates and deletes k_del edges with one sampler."""
    graphs, candidates, edges, ensemble, draws, k_add, k_del = 4, 20, 10, 3, 2, 4, 3
    real = torch.arange(candidates) < torch.tensor([20, 15, 12, 3]).unsqueeze(1)
    planted = (torch.arange(candidates) < k_add) & real
    kept = torch.arange(edges).expand(graphs, edges) >= k_del
    scores = torch.nn.Parameter(torch.randn(graphs, candidates, ensemble) * 0.1)
    existing = torch.nn.Parameter(torch.randn(graphs, edges, ensemble) * 0.1)
    if form == "main":
        sampler = pr_mpnn.EdgeSIMPLEBatched(mode=mode)
        calls = [lambda s, k=k: sampler(s, k, draws) for k in (k_add, k_del)]
    else:
        module = pr_mpnn_backup.EdgeSIMPLEBatched(
            k_add, "cpu", "edge_candid", train_ensemble=draws, mode=mode
        )

        def call(s, k):
            module.k = k
            return module(s)

        calls = [lambda s, k=k: call(s, k) for k in (k_add, k_del)]

    def loss():
        return rewiring_loss(*calls, scores, existing, real, kept, planted)

    first, last = train([scores, existing], loss, 60, 0.1)
    assert last < 0.5 * first


def test_rewiring_by_imle():
    graphs, candidates, k = 4, 20, 4
    planted = (torch.arange(candidates) < k).expand(graphs, candidates)
    scores = torch.nn.Parameter(torch.randn(graphs, candidates, 2) * 0.1)

    @pr_mpnn_backup.imle(
        target_distribution=pr_mpnn_backup.TargetDistribution(alpha=1.0, beta=100.0),
        noise_distribution=pr_mpnn_backup.GumbelDistribution(0.0, 1.0, "cpu"),
        nb_samples=3,
    )
    def scheme(logits):
        return torch.zeros_like(logits).scatter(1, logits.topk(k, dim=1).indices, 1.0), None

    def loss():
        mask, _ = scheme(scores)
        return 1 - (mask * planted.unsqueeze(-1)).sum(2).mean() / k

    first, last = train([scores], loss, 40, 0.1)
    assert last < 0.5 * first


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_cases():
    cases = {}
    for mode in MODES:
        args = {"sample_k": 3, "n_samples": 2, "mode": mode}
        for name in ("simple", "sfess"):
            cases[f"{name}-{mode}"] = sfess.get_sampler(sfess.SamplerArgs(name=name, **args), "cpu")
        main = pr_mpnn.EdgeSIMPLEBatched(mode=mode)
        cases[f"pr_mpnn-{mode}"] = lambda s, main=main: main(s, 3, 2)
        layer = circuit.Layer(8, 3, "cpu", mode=mode)
        cases[f"circuit-{mode}"] = lambda s, layer=layer: (
            layer.sample(s.squeeze(-1), 3, 2),
            layer.log_pr(s.squeeze(-1)),
        )
    for name in ("imle", "gumbel"):
        cases[name] = sfess.get_sampler(
            sfess.SamplerArgs(name=name, sample_k=3, n_samples=2), "cpu"
        )
    return cases


# Dynamo's own: it instantiates the autograd.Function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("case", compiled_cases())
def test_compiled(case):
    """Without a graph break: the eager values and gradients from the same seed."""
    function = compiled_cases()[case]
    weight = torch.randn(2, 4, 8, 1)
    results = []
    # The reference's sampler reads values, which no compiler can trace.
    with dg.backend("cpp"):
        for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
            torch.manual_seed(3)
            scores = torch.randn(4, 8, 1).requires_grad_()
            samples, extra = call(scores)
            loss = (samples * weight).sum() if samples.requires_grad else 0.0
            loss = loss + (0.0 if extra is None else extra.exp().square().sum())
            loss.backward()
            results.append((samples.detach(), scores.grad))
    assert results[0][1].abs().sum() > 0
    torch.testing.assert_close(results[1], results[0])
