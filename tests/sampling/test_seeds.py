# SPDX-License-Identifier: Apache-2.0
"""The seed decides the sample, on every backend alike, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg

INF = float("inf")
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def _rows(dtype: torch.dtype, n: int, scale: float, rows: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(n).standard_normal((rows, n)) * scale).to(dtype)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@DTYPE
@pytest.mark.parametrize("n", [10, 200])
def test_generator_and_manual_seed(backend, dtype, n):
    logits = _rows(dtype, n, 1.0)
    one = dg.subset.sample(logits, n // 3, 5, generator=_seeded(7))
    assert torch.equal(one, dg.subset.sample(logits, n // 3, 5, generator=_seeded(7)))
    assert not torch.equal(one, dg.subset.sample(logits, n // 3, 5, generator=_seeded(8)))
    torch.manual_seed(3)
    first, second = dg.subset.sample(logits, n // 3, 5), dg.subset.sample(logits, n // 3, 5)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, dg.subset.sample(logits, n // 3, 5))
    assert torch.equal(second, dg.subset.sample(logits, n // 3, 5))


def test_own_generator_leaves_the_default_one_alone(backend):
    logits = _rows(torch.float64, 10, 1.0)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    dg.subset.sample(logits, 3, generator=_seeded(1))
    assert torch.equal(torch.rand(3), want)


def test_a_generator_advances_by_the_same_amount_whatever_is_drawn(backend):
    """One seed per call: a program's later randomness does not depend on the size of an earlier
    sample.
    """
    after = []
    for n, draws in ((10, 1), (10, 100), (300, 7)):
        generator = _seeded(2)
        dg.subset.sample(_rows(torch.float32, n, 1.0), 3, draws, generator=generator)
        after.append(torch.rand(1, generator=generator).item())
    assert after[0] == after[1] == after[2]


@DTYPE
@pytest.mark.parametrize(("n", "k"), [(10, 3), (64, 20), (65, 20), (300, 100), (1000, 10)])
def test_indices_agree_with_khot(backend, dtype, n, k):
    logits = _rows(dtype, n, 2.0)
    logits[0, ::3], logits[1, 1::5] = -INF, INF
    k = max(k, int((logits == INF).sum(-1).max()))
    khot = dg.subset.sample(logits, k, 3, generator=_seeded(4))
    index = dg.subset.sample_indices(logits, k, 3, generator=_seeded(4))
    if k > (logits != -INF).sum(-1).min():
        assert (index[:, 0] == -1).all()
        khot, index = khot[:, 1:], index[:, 1:]
    assert index.dtype == torch.int64
    assert bool((index.diff(dim=-1) > 0).all())
    assert torch.equal(torch.zeros_like(khot).scatter(-1, index, 1.0), khot)


@pytest.mark.parametrize("n", [5, 33, 64, 65, 129, 500])
@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0])
def test_reference_and_cpp_draw_the_same_subsets(n, scale):
    """Exactly, in float64: the algorithm and its random numbers are one specification."""
    logits = _rows(torch.float64, n, scale, rows=6)
    logits[1, ::4], logits[2, ::7] = -INF, INF
    sizes = torch.tensor([n // 2, n // 4, n // 2, 1, n - 1, n // 5])
    got = {}
    for name in ("reference", "cpp"):
        with dg.backend(name):
            got[name] = dg.subset.sample(logits, sizes, 50, generator=_seeded(6))
    assert bool((got["cpp"].sum(-1) == sizes).all())
    assert torch.equal(got["reference"], got["cpp"])


@pytest.mark.parametrize("n", [5, 33, 64, 100, 500])
def test_reference_and_cpp_agree_in_float32(n):
    """Up to the rounding of a probability: a uniform falls between the two roundings about once in
    10^5 items.
    """
    logits = _rows(torch.float32, n, 1.0, rows=6)
    got = {}
    for name in ("reference", "cpp"):
        with dg.backend(name):
            got[name] = dg.subset.sample(logits, n // 3, 50, generator=_seeded(6))
    differ = (got["reference"] != got["cpp"]).any(-1).float().mean().item()
    assert differ <= (0.0 if n <= 33 else 0.01), f"{differ:.2%} of the subsets differ"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("n", [12, 150])
def test_sixteen_bit_draws_are_those_of_float32(backend, dtype, n):
    logits = _rows(torch.float32, n, 1.0).to(dtype)
    narrow = dg.subset.sample(logits, 5, 20, generator=_seeded(9))
    wide = dg.subset.sample(logits.float(), 5, 20, generator=_seeded(9))
    assert narrow.dtype == dtype
    assert torch.equal(narrow.float(), wide)


def test_a_row_keeps_its_draw_in_any_layout(backend):
    """The random numbers go by the row's place in the batch, not by how it lies in memory."""
    logits = _rows(torch.float64, 40, 1.0, rows=6)
    want = dg.subset.sample(logits, 7, 3, generator=_seeded(10))
    transposed = logits.t().contiguous().t()
    assert torch.equal(dg.subset.sample(transposed, 7, 3, generator=_seeded(10)), want)
    reshaped = dg.subset.sample(logits.view(2, 3, 40), 7, 3, generator=_seeded(10))
    assert torch.equal(reshaped, want.view(3, 2, 3, 40))
    single = dg.subset.sample(logits[0], 7, generator=_seeded(10))
    assert torch.equal(single, want[0, 0])


def test_no_subset_is_repeated_by_a_short_period(backend):
    """2,000 draws of 20 out of 60 items: a repeated one would mean repeated random numbers."""
    z = dg.subset.sample(torch.zeros(2, 60), 20, 1000, generator=_seeded(11))
    assert len(torch.unique(z.reshape(2000, 60), dim=0)) == 2000
