# SPDX-License-Identifier: Apache-2.0
"""What a careless uniform variate does: a probability of 1e-8 that comes out as 6e-8 or as 0, and
choices that favour a position.

A float32 uniform of 24 bits cannot tell 1e-8 from 0 (or, where u = 0 counts, from 2^-24 = 6e-8).
Items are chosen with 32 bits at the end where the small probability is, whether the item is nearly
certain to be out or to be in.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

import discrete_grad as dg
from discrete_grad import ops
from discrete_grad.reference import philox
from tests import stats

INF = float("inf")
ITEM, ACCEPT = 1, 2

# (seed, position, word): 32-bit words below 64 of the stream of the first row's item draws, found
# by search; the acceptance number of the same seed is below 1/2 (see the test).
RARE_WORDS = [(6268, 14752, 46), (7853, 9762, 57), (10368, 6744, 22), (19111, 4747, 18)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("end", ["rarely in", "rarely out"])
@pytest.mark.parametrize(("seed", "position", "word"), RARE_WORDS)
def test_decisions_at_odds_of_1e_8(backend, dtype, end, seed, position, word):
    """An item whose number v is near 1e-8 is the exception if and only if its odds exceed v.

    The item is the only one open in the half that is drawn first; two items at even odds in the
    other half make room for it, and the acceptance number decides for it.
    """
    key, row = torch.tensor([seed]), torch.tensor(0)
    v = philox.uniform(key, row, ITEM, 0, torch.tensor(position)).item()
    assert v == (word + 0.5) * 2.0**-32
    assert philox.uniform(key, row, ACCEPT, 0, torch.tensor(0)).item() < 0.5
    logits = torch.full((2 * position + 40,), -INF, dtype=dtype)
    logits[[1, 3]] = 0.0
    rare = 2 * position  # place `position` among the even ones
    for ratio in (0.75, 1.3):
        odds = math.log(v * ratio)
        logits[rare] = odds if end == "rarely in" else -odds
        z = ops.sample(logits, 1 if end == "rarely in" else 2, 1, key)[0]
        usual = 0.0 if end == "rarely in" else 1.0
        exception = z[rare].item() != usual
        assert exception == (ratio > 1), f"odds {v * ratio:.3g}, uniform {v:.3g}"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_rare_items_are_as_rare_as_they_should_be(dtype):
    """10^9 item draws, half of them at odds of 2.5e-8 to be in, half to be out: some 12 exceptions
    at each end. Numbers of 24 bits would give 30, or none.

    Two undecided items (positions 0 and 1) hold one place, and make up for an exception.
    """
    n, draws, odds = 1_000_000, 1000, 2.5e-8
    logits = torch.full((n,), math.log(odds), dtype=torch.float64)
    logits[n // 2 :] *= -1
    logits[:2] = 0.0
    k = n // 2 + 1
    exceptions = []
    with dg.backend("cpp"):
        exact = dg.subset.marginals(logits, k)
        for start in range(0, draws, 50):
            generator = torch.Generator().manual_seed(start)
            z = dg.subset.sample(logits.to(dtype), k, 50, generator=generator)
            assert bool((z.sum(-1) == k).all())
            exceptions.append((z != (logits > 0)).nonzero()[:, 1])
    found = torch.cat(exceptions)
    found = found[found >= 2].numpy()
    for end, count, expected in (
        ("in", (found < n // 2).sum(), float(exact[2 : n // 2].sum()) * draws),
        ("out", (found >= n // 2).sum(), float((1 - exact[n // 2 :]).sum()) * draws),
    ):
        # One exception at most per draw: its odds, times 1/2 for the place it takes or leaves.
        assert expected == pytest.approx(draws * n / 2 * odds / 2, rel=0.05)
        p = stats.poisson_two_sided_p(int(count), expected)
        assert p > stats.P_VALUE, f"rarely {end}: {count} of {expected:.1f} expected, p = {p:.2g}"
    assert len(np.unique(found)) == len(found), "an item was the exception twice"


def test_rare_items_of_a_short_row(backend):
    """The tree's splits keep small probabilities too: 40 items at odds 1e-5 beside two at 1."""
    logits = torch.full((42,), math.log(1e-5), dtype=torch.float64)
    logits[:2] = 0.0
    draws = 200_000
    z = dg.subset.sample(logits, 1, draws, generator=torch.Generator().manual_seed(1))
    expected = draws * 40e-5 / (2 + 40e-5)
    found = z[:, 2:].sum(0)
    assert stats.poisson_two_sided_p(int(found.sum()), expected) > stats.P_VALUE
    assert int(found.max()) <= 10


def test_small_uniforms_are_all_different():
    """The lowest of 2^20 numbers are distinct and follow the uniform law; steps of 2^-24 would tie
    some 30 of the lowest 1,000.
    """
    key, row = torch.tensor([7]), torch.tensor(0)
    for dtype in (torch.float64, torch.float32):
        v = philox.uniform(key, row, ITEM, 0, torch.arange(2**20), dtype)
        assert v.dtype == dtype
        assert 0 < v.min().item() < 2.0**-16
        assert v.max().item() < 1
        lowest = v.sort().values[:1000]
        assert len(lowest.unique()) == 1000
        assert scipy.stats.kstest(v.double().numpy()[:100_000], "uniform").pvalue > stats.P_VALUE
        scaled = lowest.double().numpy() / lowest[-1].item()
        assert scipy.stats.kstest(scaled[:-1], "uniform").pvalue > stats.P_VALUE


def test_equal_items_are_chosen_equally_by_position(backend):
    """Ties broken by position would favour one end of the row: the mean position and its spread are
    those of a draw without replacement.
    """
    n, k = 2000, 50
    draws = 400 if backend == "reference" else 4000
    index = dg.subset.sample_indices(
        torch.zeros(n), k, draws, generator=torch.Generator().manual_seed(2)
    )
    shrink = (n - k) / (n - 1)  # what is drawn without replacement varies less
    spread = math.sqrt((n**2 - 1) / 12 / k * shrink)
    z_mean = (index.double().mean(-1) - (n - 1) / 2) / spread  # one score per draw
    assert abs(float(z_mean.mean())) * draws**0.5 < stats.max_z_bound(1)
    assert abs(stats.sum_of_squares_z(z_mean.numpy())) < stats.max_z_bound(1)
    flat = index.flatten().numpy()
    for part, parts in ((flat * 8 // n, 8), (flat % 2, 2), (flat % 64, 64)):
        observed = np.bincount(part, minlength=parts)
        sizes = np.bincount(np.arange(n) % 64, minlength=64) if parts == 64 else n / parts
        expected = draws * k * sizes / n
        statistic = float(((observed - expected) ** 2 / expected).sum() / shrink)
        assert scipy.stats.chi2.sf(statistic, parts - 1) > stats.P_VALUE
