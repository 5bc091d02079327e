# SPDX-License-Identifier: Apache-2.0
"""The CUDA samplers, in the emulation: the subsets that the C++ kernels draw from the same seed,
and the law that they follow.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad  # noqa: F401  (registers the C++ kernels)
from tests import stats
from tests.cases import CASES, FLOAT32_CASES, padded
from tests.cuda import tree_kernels as kernels
from tests.sampling.laws import LONG, SHORT, subset_law, undecided

INF = float("inf")
SEED = torch.tensor([1234567890123])
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@pytest.fixture(params=[0, 1, 7], ids=["forward", "reverse", "drawn"])
def schedule(request):
    """The order in which the threads of a block run."""
    kernels.library().cuda_emulation_schedule(request.param)
    yield request.param
    kernels.library().cuda_emulation_schedule(0)


def sample(logits, k, num_samples=1, seed=SEED, dtype=None):
    return kernels.sample(logits, k, num_samples, seed, dtype)


def cpu_sample(logits, k, num_samples=1, seed=SEED):
    row_k = None if isinstance(k, int) else k
    k = k if isinstance(k, int) else int(k.max())
    return torch.ops.discrete_grad.subset_sample(logits, k, row_k, num_samples, seed)


def differing(got, want):
    """Subsets that differ; NaN equals NaN."""
    equal = (got == want) | (got.isnan() & want.isnan())
    return int((~equal).any(-1).sum())


def some_rows(n, dtype):
    """Rows with k: ties, plain, steep, excluded items, forced items, a gap of 200, and one whose
    odd items hold a third of the variance or less, so that they are drawn first.
    """
    scale = np.array([[0, 1, 8, 1, 1, 1, 2]]).T
    logits = np.random.RandomState(n).standard_normal((7, n)) * scale
    sizes = np.array([n // 2, n // 4, n // 3, n // 4, n // 2, n // 3 + 1, n // 2])
    if n > 4:
        logits[3, ::3], logits[4, 1::4] = -INF, INF
        logits[5, np.arange(n) * 7 % n < n // 3] += 200
        logits[6, 1::2] += np.where(np.arange(n // 2) % 2 == 0, 5, -5)
    return torch.from_numpy(logits).to(dtype), torch.from_numpy(np.clip(sizes, 0, n))


@DTYPE
@pytest.mark.parametrize("n", [1, 2, 5, 8, 9, 16, 17, 33, 63, 64])
def test_same_subsets_of_short_rows_as_the_cpu(n, dtype):
    logits, sizes = some_rows(n, dtype)
    got = sample(logits, sizes, 60)
    assert torch.equal(got.sum(-1), sizes.to(dtype).expand(60, -1))
    assert differing(got, cpu_sample(logits, sizes, 60)) == 0


@DTYPE
@pytest.mark.parametrize("n", [65, 66, 100, 129, 200, 1000, 1500, 16_500])
def test_same_subsets_of_long_rows_as_the_cpu(n, dtype):
    draws = 30 if n < 150 else 15 if n < 1000 else 2 if n == 1000 else 1
    logits, sizes = some_rows(n, dtype)
    if n > 5000:
        logits, sizes = logits[[1, 4]], sizes[[1, 4]]
    got = sample(logits, sizes, draws)
    assert torch.equal(got.sum(-1), sizes.to(dtype).expand(draws, -1))
    # In float32 a number may fall between the roundings of a probability, rarely: not here.
    assert differing(got, cpu_sample(logits, sizes, draws)) == 0


@pytest.mark.parametrize("n", [12, 50, 90, 600])
def test_any_schedule_draws_the_same(n, schedule):
    logits, sizes = some_rows(n, torch.float64)
    assert differing(sample(logits, sizes, 2), cpu_sample(logits, sizes, 2)) == 0


@DTYPE
@pytest.mark.parametrize("length", [64, 300], ids=["tree", "halving"])
def test_adversarial_rows(length, dtype):
    """Rows of the table, all in one batch: gaps, ties, steps, masks, certain rows."""
    table = CASES if dtype == torch.float64 else FLOAT32_CASES
    first = 0 if length == 64 else 65
    logits, sizes, _ = padded(tuple(c for c in table if first <= len(c.logits) <= length))
    rows, k = torch.from_numpy(logits).to(dtype), torch.from_numpy(sizes)
    got = sample(rows, k, 4)
    assert torch.equal(got.sum(-1), k.to(dtype).expand(4, -1))
    # In float32 a number may fall between the roundings of a probability, rarely: not here.
    assert differing(got, cpu_sample(rows, k, 4)) == 0


def test_rows_differ_rarely_in_float32():
    """The promise of one stream for all backends, over many rows: 99.99 % of the subsets."""
    different = total = 0
    for n, k, draws in ((12, 5, 90), (64, 20, 8), (70, 30, 4), (300, 20, 2)):
        logits = 2 * torch.randn(100, n)
        different += differing(sample(logits, k, draws), cpu_sample(logits, k, draws))
        total += 100 * draws
    assert total == 10_400
    assert different <= total * 1e-4


@pytest.mark.parametrize("n", [6, 40, 130], ids=["few-lanes", "tree", "halving"])
def test_certain_and_invalid_rows(n):
    logits = torch.from_numpy(np.random.RandomState(0).standard_normal((8, n)))
    logits[2, n // 2] = torch.nan
    logits[3, 2:] = -INF  # 2 items to choose from
    logits[4, :4] = INF
    logits[5, :4] = INF
    sizes = torch.tensor([0, n, 3, 3, 3, 4, n + 1, -1])
    got = sample(logits, sizes, 2)
    invalid = torch.tensor([False, False, True, True, True, False, True, True])
    assert bool(got[:, invalid].isnan().all())
    assert not bool(got[:, ~invalid].isnan().any())
    assert bool((got[:, 0] == 0).all())
    assert bool((got[:, 1] == 1).all())
    assert torch.equal(got[0, 5], (logits[5] == INF).double())
    index = kernels.sample_indices(logits, 3, 2, SEED)
    assert bool((index[:, [2, 3, 4, 5]] == -1).all())
    assert bool((index[:, [0, 1, 6, 7]] >= 0).all())


@DTYPE
@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (3, 0), (10, 3), (64, 20), (65, 20), (130, 100), (2000, 700)]
)
def test_indices_agree_with_khot(n, k, dtype):
    logits = torch.from_numpy(np.random.RandomState(n).standard_normal((5, n))).to(dtype)
    khot = sample(logits, k, 2)
    index = kernels.sample_indices(logits, k, 2, SEED)
    assert bool((index.diff(dim=-1) > 0).all())
    assert torch.equal(torch.zeros_like(khot).scatter(-1, index, 1.0), khot)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [12, 100])
def test_formats(n, dtype):
    """The same subsets in numbers of any size."""
    logits = torch.randn(4, n)
    logits[1, 3] = torch.nan
    want = sample(logits, 5, 2)
    got = sample(logits, 5, 2, dtype=dtype)
    if dtype == torch.uint8:
        assert bool((got[:, 1] == 2).all())
    else:
        assert bool(got[:, 1].isnan().all())
    valid = [0, 2, 3]
    assert torch.equal(got[:, valid].float(), want[:, valid])


@pytest.mark.parametrize("n", [20, 150])
def test_a_draw_depends_on_seed_sample_and_row_alone(n):
    logits = torch.randn(6, n, dtype=torch.float64)
    one = sample(logits, n // 3, 4)
    assert torch.equal(sample(logits, n // 3, 2), one[:2])
    assert differing(sample(logits, n // 3, 4, torch.tensor([-5])), one) == 24
    equal = sample(logits[:1].expand(6, n).contiguous(), n // 3, 4).reshape(24, n)
    assert len(equal.unique(dim=0)) == 24


def test_nothing_to_draw():
    for rows, samples in ((0, 2), (3, 0)):
        assert sample(torch.zeros(rows, 70), 5, samples).shape == (samples, rows, 70)
        assert sample(torch.zeros(rows, 7), 5, samples).shape == (samples, rows, 7)


@DTYPE
@pytest.mark.parametrize("name", ["normal-n10-k5", "masked-n11-k5", "steep-n8-k3"])
def test_law_of_the_tree(name, dtype):
    """Chi-square over all subsets."""
    law = SHORT[name]
    logits = torch.from_numpy(law.logits).to(dtype).reshape(1, -1)
    z = sample(logits, law.k, 20_480)[:, 0].numpy()
    assert (z.sum(-1) == law.k).all()
    codes = stats.subset_codes(z[:, undecided(law)])
    assert stats.chi_square_p(codes, subset_law(law)) > stats.P_VALUE


@pytest.mark.parametrize("name", ["neighbours-n130", "strong-n96"])
def test_law_of_halving(name):
    law = LONG[name]
    logits = torch.from_numpy(law.logits).float().reshape(1, -1)
    z = sample(logits, law.k, 1000)[:, 0].numpy()
    assert (z.sum(-1) == law.k).all()
    codes = stats.subset_codes(z[:, undecided(law)])
    assert stats.chi_square_p(codes, subset_law(law)) > stats.P_VALUE
