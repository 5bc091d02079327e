# SPDX-License-Identifier: Apache-2.0
"""Sampling kernels: the subsets of the reference from the same seed, and the law they follow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import triton.language as tl

from discrete_grad.reference.sampling import sample as reference_sample
from discrete_grad.triton_kernels import halving_kernels, sampling
from discrete_grad.triton_kernels.blocks import Tile, halving_tile, tree_sampling_tile
from tests import stats
from tests.cases import CASES, INF, padded
from tests.sampling.laws import SHORT, subset_law, undecided

SEED = torch.tensor([1234567890123])
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


# A GPU overflows to infinity in silence; a step of Newton's method that does so is not taken.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def _large_tiles(monkeypatch):
    """The interpreter's time goes by programs and blocks: many rows in one, few blocks a row."""
    monkeypatch.setattr(
        sampling,
        "tree_sampling_tile",
        lambda n: tree_sampling_tile(n)._replace(rows=256),
    )
    monkeypatch.setattr(sampling, "halving_tile", lambda n, dtype: Tile(1, 512, 1))


def _rows(n: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Six rows with k: ties, plain, steep, excluded items, forced items, and a gap of 200."""
    logits = np.random.RandomState(n).standard_normal((6, n)) * np.array([[0, 1, 8, 1, 1, 1]]).T
    sizes = np.array([n // 2, n // 4, n // 3, n // 4, n // 2, n // 3 + 1])
    if n > 4:
        logits[3, ::3], logits[4, 1::4] = -INF, INF
        logits[5, np.arange(n) * 7 % n < n // 3] += 200
    return torch.from_numpy(logits).to(dtype), torch.from_numpy(np.clip(sizes, 0, n))


def _sample(logits, k, num_samples=1, seed=SEED):
    """k: an int, or one for each row."""
    if isinstance(k, int):
        return sampling.subset_sample(logits, k, None, num_samples, seed)
    return sampling.subset_sample(logits, int(k.max()), k, num_samples, seed)


def _differing(got: torch.Tensor, want: torch.Tensor) -> int:
    """Subsets that differ; NaN equals NaN."""
    equal = (got == want) | (got.isnan() & want.isnan())
    return int((~equal).any(-1).sum())


@DTYPE
@pytest.mark.parametrize("n", [1, 2, 5, 6, 17, 33, 64, 65, 66, 100, 200, 1000])
def test_same_subsets_as_the_reference(n, dtype):
    logits, sizes = _rows(n, dtype)
    draws = 20 if n <= 64 else 1
    got = _sample(logits, sizes, draws)
    assert got.shape == (draws, *logits.shape)
    assert got.dtype == dtype
    assert torch.equal(got.sum(-1), sizes.to(dtype).expand(draws, -1))
    # In float32 a number may fall between the roundings of a probability, rarely: not here.
    assert _differing(got, reference_sample(logits, sizes, draws, SEED)) == 0


@pytest.mark.parametrize("length", [64, 300], ids=["tree", "halving"])
def test_adversarial_rows(length):
    """float64 rows of the table, all in one batch: gaps, ties, steps, masks, certain rows."""
    first = 0 if length == 64 else 65
    cases = tuple(c for c in CASES if first <= len(c.logits) <= length)
    if length == 300:
        cases = cases[::3]
    logits, sizes, _ = padded(cases)
    rows, counts = torch.from_numpy(logits), torch.from_numpy(sizes)
    got = _sample(rows, counts)
    want = reference_sample(rows, counts, 1, SEED)
    different = [
        c.id for c, a, b in zip(cases, got[0], want[0], strict=True) if not torch.equal(a, b)
    ]
    assert not different


@DTYPE
def test_adversarial_short_rows_in_float32_too(dtype):
    """Exactly k ones always; the same subset but where two roundings may part."""
    cases = tuple(c for c in CASES if len(c.logits) <= 64 and c.fits_float32)
    logits, sizes, _ = padded(cases)
    rows, counts = torch.from_numpy(logits).to(dtype), torch.from_numpy(sizes)
    got = _sample(rows, counts, 4)
    assert torch.equal(got.sum(-1), counts.to(dtype).expand(4, -1))
    assert not bool((got > 0)[:, rows == -INF].any())
    assert bool((got > 0)[:, rows == INF].all())
    assert _differing(got, reference_sample(rows, counts, 4, SEED)) <= 1


@pytest.mark.parametrize("n", [40, 130], ids=["tree", "halving"])
def test_certain_and_invalid_rows(n):
    logits = torch.from_numpy(np.random.RandomState(0).standard_normal((8, n)))
    logits[2, n // 2] = torch.nan
    logits[3, 10:] = -INF  # 10 items to choose from
    logits[4, :12] = INF  # 12 items forced
    logits[5, :12] = INF
    sizes = torch.tensor([0, n, 5, 11, 11, 12, n + 1, -1])
    got = sampling.subset_sample(logits, n, sizes, 2, SEED)
    invalid = torch.tensor([False, False, True, True, True, False, True, True])
    assert bool(got[:, invalid].isnan().all())
    assert not bool(got[:, ~invalid].isnan().any())
    assert bool((got[:, 0] == 0).all())
    assert bool((got[:, 1] == 1).all())
    assert torch.equal(got[0, 5], (logits[5] == INF).double())
    index = sampling.subset_sample_indices(logits, 11, 2, SEED)
    assert bool((index[:, [2, 3, 4, 5]] == -1).all())
    assert bool((index[:, [0, 1, 6, 7]] >= 0).all())


@DTYPE
@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 3), (64, 20), (65, 20), (130, 100)])
def test_indices_agree_with_khot(n, k, dtype):
    logits, _ = _rows(n, dtype)
    logits = torch.where(logits.isfinite(), logits, 0).reshape(2, 3, n)
    draws = 2 if n <= 64 else 1
    khot = _sample(logits, k, draws)
    index = sampling.subset_sample_indices(logits, k, draws, SEED)
    assert index.shape == (draws, 2, 3, k)
    assert index.dtype == torch.int64
    assert bool((index.diff(dim=-1) > 0).all())
    assert torch.equal(torch.zeros_like(khot).scatter(-1, index, 1.0), khot)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("n", [12, 100])
def test_sixteen_bit_draws_are_those_of_float32(n, dtype):
    logits = _rows(n, torch.float32)[0][:3].to(dtype)
    narrow = _sample(logits, 5, 2)
    assert narrow.dtype == dtype
    assert torch.equal(narrow.float(), _sample(logits.float(), 5, 2))


def test_the_layout_of_logits_does_not_matter():
    logits = _rows(40, torch.float64)[0]
    want = _sample(logits, 20, 2)
    assert torch.equal(_sample(logits.t().contiguous().t(), 20, 2), want)
    assert torch.equal(_sample(logits.view(2, 3, 40), 20, 2), want.view(2, 2, 3, 40))
    assert torch.equal(_sample(logits[0], 20)[0], want[0, 0])


def test_how_draws_are_shared_out_does_not_matter(monkeypatch):
    """Several samples by one program, and programs with few rows, the last of them with fewer."""
    for n, draws in ((30, 7), (70, 2)):
        logits, sizes = _rows(n, torch.float64)
        want = _sample(logits, sizes, draws)
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "samples_each", lambda num_samples, groups: 3)
            patch.setattr(
                sampling,
                "tree_sampling_tile",
                lambda n: tree_sampling_tile(n)._replace(rows=4),
            )
            assert torch.equal(_sample(logits, sizes, draws), want)


@DTYPE
@pytest.mark.parametrize("n", [100, 300])
def test_blocks_of_the_rule(monkeypatch, n, dtype):
    """Rows of several blocks, the last ones of which are partly beyond the row."""
    monkeypatch.setattr(sampling, "halving_tile", halving_tile)
    logits, sizes = _rows(n, dtype)
    logits, sizes = logits[1:3], sizes[1:3]
    assert _differing(_sample(logits, sizes), reference_sample(logits, sizes, 1, SEED)) == 0


def test_a_long_row(monkeypatch):
    """Blocks of the rule for long rows, eight levels, and counts beyond a block."""
    monkeypatch.setattr(sampling, "halving_tile", halving_tile)
    n = 10_000
    logits = torch.from_numpy(np.random.RandomState(7).standard_normal((1, n)) * 3)
    assert torch.equal(_sample(logits, n // 3), reference_sample(logits, n // 3, 1, SEED))


def test_undecided_items_of_one_parity():
    """The half that holds the variance becomes B, or a draw would hardly ever be accepted."""
    n, logits = 200, torch.full((4, 200), -INF, dtype=torch.float64)
    everywhere = torch.from_numpy(np.random.RandomState(3).standard_normal((4, n)))
    for row, items in enumerate((slice(0, n, 2), slice(1, n, 2), slice(2, n, 4), slice(63, 66))):
        logits[row, items] = everywhere[row, items]
    sizes = torch.tensor([50, 31, 20, 2])
    assert torch.equal(_sample(logits, sizes), reference_sample(logits, sizes, 1, SEED))


def test_rejections_without_end_make_a_row_invalid(monkeypatch):
    """They cannot happen in a row of finite arithmetic; here after none at all."""
    monkeypatch.setattr(halving_kernels, "MAX_REJECTIONS", tl.constexpr(0))
    logits = _rows(100, torch.float32)[0][:2]
    logits[1] = INF
    z = sampling.subset_sample(logits, 7, torch.tensor([7, 100]), 1, SEED)
    assert bool(z[0, 0].isnan().all())
    assert bool((z[0, 1] == 1).all())
    assert bool((sampling.subset_sample_indices(logits[:1], 7, 1, SEED) == -1).all())


def test_empty():
    assert sampling.subset_sample(torch.empty(3, 0), 0, None, 2, SEED).shape == (2, 3, 0)
    assert sampling.subset_sample(torch.empty(0, 5), 2, None, 2, SEED).shape == (2, 0, 5)
    assert sampling.subset_sample(torch.zeros(3, 5), 2, None, 0, SEED).shape == (0, 3, 5)
    assert sampling.subset_sample_indices(torch.zeros(3, 5), 0, 2, SEED).shape == (2, 3, 0)
    with pytest.raises(ValueError, match="at most the number of items"):
        sampling.subset_sample_indices(torch.zeros(3, 5), 6, 1, SEED)
    with pytest.raises(ValueError, match="int64 tensor with one element"):
        sampling.subset_sample(torch.zeros(3, 5), 2, None, 1, torch.zeros(1))


@DTYPE
@pytest.mark.parametrize("name", ["normal-n10-k5", "masked-n11-k5", "steep-n8-k3"])
def test_law_of_the_tree(monkeypatch, name, dtype):
    """Chi-square over all subsets, one row a draw."""
    monkeypatch.setattr(sampling, "tree_sampling_tile", lambda n: Tile(8192, 16, 4))
    law = SHORT[name]
    logits = torch.from_numpy(law.logits).to(dtype).expand(40_960, -1)
    z = _sample(logits, law.k)[0].numpy()
    assert (z.sum(-1) == law.k).all()
    # subset_law codes the items that are not all but certain.
    assert (
        stats.chi_square_p(stats.subset_codes(z[:, undecided(law)]), subset_law(law))
        > stats.P_VALUE
    )


def test_law_of_halving():
    """Chi-square over the six subsets of four undecided items among 70, two in each half."""
    logits = np.full(70, -INF)
    logits[5:15] = INF
    open_items = [20, 31, 44, 67]
    logits[open_items] = [0.5, -0.25, 0.0, 1.0]
    subsets = list(itertools.combinations(range(4), 2))
    weights = np.exp([logits[open_items][list(s)].sum() for s in subsets])
    law = {
        1 << a | 1 << b: float(w)
        for (a, b), w in zip(subsets, weights / weights.sum(), strict=True)
    }
    z = _sample(torch.from_numpy(logits), 12, 200).numpy()
    assert (z.sum(-1) == 12).all()
    assert (z[:, 5:15] == 1).all()
    assert stats.chi_square_p(stats.subset_codes(z[:, open_items]), law) > stats.P_VALUE
