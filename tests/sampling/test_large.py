# SPDX-License-Identifier: Apache-2.0
"""Twenty thousand items: z-scores of every marginal, of 1,000 pairwise covariances, and of random
projections.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests import stats

N = 20_000
# Two rows: few undecided items, so that single covariances are far from 0; and many, so that every
# level halves much.
ROWS = {"steep-k60": (6.0, 60, 10_000), "flat-k5000": (1.5, 5000, 2000)}


def _row(name: str) -> tuple[torch.Tensor, int, int]:
    scale, k, draws = ROWS[name]
    logits = np.random.RandomState(9).standard_normal(N) * scale
    return torch.from_numpy(logits), k, draws


def _draws(logits: torch.Tensor, k: int, draws: int, seed: int):
    """Chunks of k-hot draws as float32 [chunk, n]."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, draws, 500):
        index = dg.subset.sample_indices(logits, k, min(500, draws - start), generator=generator)
        assert index.shape[-1] == k
        assert bool((index.diff(dim=-1) > 0).all()), (
            "indices are ascending, so they are k different ones"
        )
        assert int(index.min()) >= 0
        assert int(index.max()) < N
        yield torch.zeros(len(index), N).scatter_(1, index, 1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", ROWS)
def test_marginals_covariances_and_projections(name, dtype):
    logits, k, draws = _row(name)
    with dg.backend("cpp"):
        mu = dg.subset.marginals(logits, k)
        variance = mu * (1 - mu)
        # 40 x 25 pairs of the most undecided items, and rows of the covariance matrix for them.
        ranked = variance.argsort(descending=True)
        first, second = ranked[:40], ranked[40:65]
        basis = torch.zeros(40, N, dtype=torch.float64)
        basis[torch.arange(40), first] = 1.0
        cov = _cov_times(logits, k, basis)
        directions = torch.from_numpy(np.random.RandomState(10).standard_normal((50, N)))
        projected = (directions * _cov_times(logits, k, directions)).sum(-1)

        total = torch.zeros(N, dtype=torch.float64)
        both = torch.zeros(40, 25, dtype=torch.float64)
        power2 = torch.zeros(50, dtype=torch.float64)
        power4 = torch.zeros(50, dtype=torch.float64)
        centre = directions @ mu
        for z in _draws(logits.to(dtype), k, draws, seed=12):
            total += z.sum(0, dtype=torch.float64)
            both += (z[:, first].T @ z[:, second]).double()
            deviation = (z @ directions.float().T).double() - centre
            power2 += deviation.square().sum(0)
            power4 += deviation.pow(4).sum(0)
    frequency = (total / draws).numpy()
    assert abs(frequency.sum() - k) < 1e-8

    z_marginals = stats.marginal_z(frequency, mu.numpy(), draws)
    often = (mu * draws > 20).numpy() & ((1 - mu) * draws > 20).numpy()
    z_often = stats.marginal_z(frequency[often], mu.numpy()[often], draws)
    assert np.abs(z_often).max() < stats.max_z_bound(z_often.size)
    assert abs(stats.sum_of_squares_z(z_often)) < stats.max_z_bound(1) * 1.5
    rare = mu.numpy() * draws < 0.01  # together often enough to be counted
    expected_rare = float(mu.numpy()[rare].sum() * draws)
    if expected_rare > 1:
        assert (
            stats.poisson_two_sided_p(round(float(total.numpy()[rare].sum())), expected_rare)
            > stats.P_VALUE
        )
    assert z_marginals.size > 0.9 * N

    f, s = first.numpy(), second.numpy()
    mu_np = mu.numpy()
    z_cov = stats.covariance_z(
        (both / draws).numpy(),
        mu_np[f][:, None],
        mu_np[s][None],
        frequency[f][:, None],
        frequency[s][None],
        cov[:, second].numpy(),
        draws,
    )
    assert z_cov.size == 1000
    assert np.abs(z_cov).max() < stats.max_z_bound(1000)
    assert abs(stats.sum_of_squares_z(z_cov)) < stats.max_z_bound(1)

    spread = ((power4 / draws - projected.square()).clamp_min(0) / draws).sqrt()
    z_projected = ((power2 / draws - projected) / spread).numpy()
    assert np.abs(z_projected).max() < stats.max_z_bound(50)


def _cov_times(logits: torch.Tensor, k: int, vectors: torch.Tensor) -> torch.Tensor:
    """Cov(z) v for each row of `vectors`, by the vector-Jacobian product of the marginals."""
    rows = logits.expand(len(vectors), N).clone().requires_grad_()
    (product,) = torch.autograd.grad(dg.subset.marginals(rows, k), rows, vectors)
    return product


def test_reference_at_twenty_thousand():
    """The reference by halving too: fewer draws, the marginals only."""
    logits, k, _ = _row("steep-k60")
    draws = 100
    with dg.backend("reference"):
        mu = dg.subset.marginals(logits, k).numpy()
        z = dg.subset.sample(logits, k, draws, generator=torch.Generator().manual_seed(4)).numpy()
    assert (z.sum(-1) == k).all()
    often = (mu * draws > 20) & ((1 - mu) * draws > 20)
    score = stats.marginal_z(z.mean(0)[often], mu[often], draws)
    assert score.size > 25
    assert np.abs(score).max() < stats.max_z_bound(score.size)
