# SPDX-License-Identifier: Apache-2.0
"""Chi-square over all subsets: the sampler draws from the law itself, not from one with the same
means.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests import oracle, stats
from tests.sampling.laws import LONG, SHORT, Law, subset_law, undecided

DRAWS = 400_000
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def draw(law, draws, dtype, seed=0, chunk=50_000):
    """k-hot draws as NumPy [draws, n]; exactly k ones and no forced or excluded item misplaced."""
    logits = torch.from_numpy(law.logits).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        z = dg.subset.sample(logits, law.k, size, generator=generator)
        assert z.dtype == dtype
        assert z.shape == (size, len(law.logits))
        assert bool(((z == 0) | (z == 1)).all())
        assert bool((z.sum(-1) == law.k).all())
        parts.append(z.to(torch.int8).numpy())
    return np.concatenate(parts)


def check_law(law, dtype, draws):
    z = draw(law, draws, dtype)
    decided = np.abs(law.logits) >= 20
    assert (z[:, decided] == (law.logits[decided] > 0)).all()
    p = stats.chi_square_p(stats.subset_codes(z[:, undecided(law)]), subset_law(law))
    assert p > stats.P_VALUE, f"chi-square over {len(subset_law(law))} subsets: p = {p:.3g}"


@DTYPE
@pytest.mark.parametrize("name", SHORT)
def test_short_rows(backend, name, dtype):
    check_law(SHORT[name], dtype, DRAWS if backend == "cpp" else DRAWS // 4)


@DTYPE
@pytest.mark.parametrize("name", LONG)
def test_long_rows_with_few_undecided_items(backend, name, dtype):
    """More than 64 items, so by halving. The reference draws less often: it is slow, and
    test_seeds.py shows that its draws are those of the kernels.
    """
    check_law(LONG[name], dtype, DRAWS if backend == "cpp" else DRAWS // 40)


@pytest.mark.parametrize("n", [65, 128, 200])
def test_halving_gives_the_tree_law(n):
    """Rows of which every item is undecided, cut into three parts: the counts (a, b) in the first
    two are tabulated.

    P(a, b) is a ratio of elementary symmetric polynomials, computed by 60-digit convolution.
    """
    rng = np.random.RandomState(n)
    logits, k = rng.standard_normal(n) * 0.5 + np.where(np.arange(n) % 4 == 0, 2.0, -1.0), n // 8
    part = np.arange(n) % 3
    tables = []
    for p in range(3):
        rows = oracle.count_log_prob(logits[part == p].tolist(), k)
        tables.append(np.array([float(v) for v in rows]))
    log_law = np.full((k + 1, k + 1), -np.inf)
    for a in range(k + 1):
        for b in range(k + 1 - a):
            log_law[a, b] = tables[0][a] + tables[1][b] + tables[2][k - a - b]
    law = np.exp(log_law - log_law.max())
    law /= law.sum()
    with dg.backend("cpp"):
        z = draw(Law(logits, k), DRAWS, torch.float64, seed=n)
    counts = np.stack([z[:, part == p].sum(1) for p in range(2)], 1).astype(np.int64)
    codes = counts[:, 0] * (k + 1) + counts[:, 1]
    flat = {int(code): float(p) for code, p in enumerate(law.ravel()) if p > 0}
    p = stats.chi_square_p(codes, flat)
    assert p > stats.P_VALUE, f"p = {p:.3g}"


@DTYPE
def test_uneven_halves(dtype):
    """One half varies twice as much as the other, and proposes counts far outside the other's law:
    they must be refused there too, where the contour of few nodes sees an alias of its peak.

    The count in the even half has P(a) P(k - a), by 60-digit convolution of both.
    """
    n, k, draws = 400, 130, 100_000
    logits = np.where(np.arange(n) % 2 == 0, 0.0, -1.75)
    tables = [
        np.array([float(v) for v in oracle.count_log_prob(half.tolist(), k)])
        for half in (logits[::2], logits[1::2])
    ]
    log_law = tables[0] + tables[1][::-1]
    law = np.exp(log_law - log_law.max())
    law /= law.sum()
    with dg.backend("cpp"):
        z = draw(Law(logits, k), draws, dtype, seed=5)
    counts = z[:, ::2].sum(1).astype(np.int64)
    possible = counts[law[counts] > 1e-12]
    assert len(possible) == draws, f"{draws - len(possible)} draws of probability below 1e-12"
    p = stats.chi_square_p(counts, {a: float(w) for a, w in enumerate(law) if w > 0})
    assert p > stats.P_VALUE, f"p = {p:.3g}"


@DTYPE
def test_different_k_in_each_row(backend, dtype):
    """Each row follows its own law in one call: chi-square row by row."""
    logits = SHORT["normal-n10-k5"].logits
    sizes = torch.tensor([0, 1, 4, 9, 10])
    rows = torch.from_numpy(logits).to(dtype).expand(5, 10)
    z = dg.subset.sample(rows, sizes, 40_000, generator=torch.Generator().manual_seed(1))
    assert bool((z.sum(-1) == sizes).all())
    for row, k in enumerate(sizes.tolist()):
        law = SHORT["normal-n10-k5"]._replace(k=k)
        p = stats.chi_square_p(stats.subset_codes(z[:, row].numpy()), subset_law(law))
        assert p > stats.P_VALUE, f"k = {k}: p = {p:.3g}"


def test_rows_and_draws_are_independent(backend):
    """Neighbouring rows and neighbouring draws are not correlated: chi-square over pairs of
    subsets.
    """
    logits = torch.zeros(2, 5, dtype=torch.float64)
    z = dg.subset.sample(logits, 2, 100_000, generator=torch.Generator().manual_seed(2))
    codes = stats.subset_codes(z.numpy())  # [draws, 2]
    values = np.unique(codes)
    assert len(values) == 10
    uniform = {int(a * 32 + b): 0.01 for a in values for b in values}
    for pair in (codes[:, 0] * 32 + codes[:, 1], codes[:-1, 0] * 32 + codes[1:, 0]):
        assert stats.chi_square_p(pair[::2], uniform) > stats.P_VALUE


def test_simple_draws_from_the_law(backend):
    """The forward value of dg.simple is the exact sample, not a relaxation of it."""
    law = SHORT["normal-n10-k5"]
    logits = torch.from_numpy(law.logits).requires_grad_()
    z = dg.simple(logits, law.k, 100_000, generator=torch.Generator().manual_seed(3)).detach()
    assert bool(((z == 0) | (z == 1)).all())
    assert stats.chi_square_p(stats.subset_codes(z.numpy()), subset_law(law)) > stats.P_VALUE
