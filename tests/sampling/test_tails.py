# SPDX-License-Identifier: Apache-2.0
"""What a careless uniform variate does: a probability of 1e-9 that comes out as 6e-8 or as 0, and
ties.

A float32 uniform of 24 bits cannot tell 1e-9 from 0 (or, counting u = 0, from 2^-24 = 6e-8). Items
are chosen with 32 bits at the end where the small probability is, whether the item is nearly
certain to be in or to be out.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import discrete_grad as dg
from tests import stats


def _exceptions(
    logits: torch.Tensor, k: int, usual: torch.Tensor, draws: int, dtype: torch.dtype
) -> np.ndarray:
    """Positions, over all draws, of items whose state is not the usual one; the two undecided ones
    left out.
    """
    found = []
    for start in range(0, draws, 100):
        generator = torch.Generator().manual_seed(start)
        z = dg.subset.sample(logits.to(dtype), k, 100, generator=generator)
        assert bool((z.sum(-1) == k).all())
        found.append((z[:, 2:] != usual[2:]).nonzero()[:, 1])
    return torch.cat(found).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("end", ["rarely in", "rarely out"])
@pytest.mark.parametrize("odds", [3e-8, 1e-9])
def test_rare_items_are_as_rare_as_they_should_be(dtype, end, odds):
    """10^9 item draws at odds of 3e-8, then 1e-9: about 30 and 1 exceptions. 24 bits would give 60,
    or none.

    Two undecided items (positions 0 and 1) hold one place; an exception among the million others
    takes it.
    """
    n, draws = 1_000_000, 1000
    sign = 1.0 if end == "rarely in" else -1.0
    logits = torch.full((n,), sign * float(np.log(odds)), dtype=torch.float64)
    logits[:2] = 0.0
    usual = torch.zeros(n) if end == "rarely in" else torch.ones(n)
    k = 1 if end == "rarely in" else n - 1
    with dg.backend("cpp"):
        exact = dg.subset.marginals(logits, k)[2:]
        rare = exact if end == "rarely in" else 1 - exact
        expected = float(rare.sum()) * draws
        # P(a rare one takes the place) = (n - 2) odds / (2 + (n - 2) odds)
        assert expected == pytest.approx(draws * (n - 2) * odds / (2 + (n - 2) * odds), rel=1e-6)
        found = _exceptions(logits, k, usual.to(dtype), draws, dtype)
    p = stats.poisson_two_sided_p(len(found), expected)
    assert p > stats.P_VALUE, f"{len(found)} exceptions, {expected:.1f} expected, p = {p:.2g}"
    assert len(np.unique(found)) == len(found), "an item was the exception twice"


def test_rare_items_of_a_short_row(backend):
    """The tree's splits keep small probabilities too: 40 items at odds 1e-5 beside two at 1."""
    logits = torch.full((42,), float(np.log(1e-5)), dtype=torch.float64)
    logits[:2] = 0.0
    draws = 200_000
    z = dg.subset.sample(logits, 1, draws, generator=torch.Generator().manual_seed(1))
    expected = draws * 40e-5 / (2 + 40e-5)
    found = z[:, 2:].sum(0)
    assert stats.poisson_two_sided_p(int(found.sum()), expected) > stats.P_VALUE
    assert int(found.max()) <= 10


def test_equal_items_are_chosen_equally_by_position(backend):
    """Ties broken by position would favour one end of the row: the mean position and its spread are
    those of a draw without replacement.
    """
    n, k, draws = 2000, 50, 4000
    if backend == "reference":
        draws = 400
    index = dg.subset.sample_indices(
        torch.zeros(n), k, draws, generator=torch.Generator().manual_seed(2)
    ).double()
    centre = (n - 1) / 2
    variance = (n**2 - 1) / 12
    mean_variance = variance / k * (n - k) / (n - 1)
    z_mean = (index.mean(-1) - centre) / mean_variance**0.5  # one score per draw
    assert abs(float(z_mean.mean())) * draws**0.5 < stats.max_z_bound(1)
    assert abs(stats.sum_of_squares_z(z_mean.numpy())) < stats.max_z_bound(1)
    counts = np.bincount(index.long().flatten().numpy() * 8 // n, minlength=8)  # eighths of the row
    parity = np.bincount(index.long().flatten().numpy() % 2, minlength=2)
    shrink = (n - k) / (n - 1)  # counts under sampling without replacement vary less
    for observed in (counts, parity):
        expected = draws * k / len(observed)
        statistic = float(((observed - expected) ** 2 / expected).sum() / shrink)
        assert scipy.stats.chi2.sf(statistic, len(observed) - 1) > stats.P_VALUE
