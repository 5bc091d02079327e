# SPDX-License-Identifier: Apache-2.0
"""Draws on the device: the law by chi-square, the CPU's subsets for the same seed, generators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests import stats
from tests.gpu.device import DEVICE, require_cuda, seeded
from tests.sampling.laws import LONG, SHORT, Law, subset_law, undecided

require_cuda()
pytestmark = pytest.mark.gpu

OPS = torch.ops.discrete_grad
DRAWS = 400_000
LAWS = {**SHORT, **LONG}
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def check_law(law: Law, z: torch.Tensor) -> None:
    assert bool(((z == 0) | (z == 1)).all())
    assert bool((z.sum(-1) == law.k).all())
    z = z.to(torch.int8).cpu().numpy()
    decided = np.abs(law.logits) >= 20
    assert (z[:, decided] == (law.logits[decided] > 0)).all()
    p = stats.chi_square_p(stats.subset_codes(z[:, undecided(law)]), subset_law(law))
    assert p > stats.P_VALUE, f"chi-square over {len(subset_law(law))} subsets: p = {p:.3g}"


@DTYPE
@pytest.mark.parametrize("name", LAWS)
def test_law(gpu_backend, name, dtype):
    law = LAWS[name]
    logits = torch.from_numpy(law.logits).to(DEVICE, dtype)
    check_law(law, dg.subset.sample(logits, law.k, DRAWS, generator=seeded(0)))


@pytest.mark.parametrize("name", ["normal-n10-k5", "padded-n100"])
def test_law_of_simple_and_of_rows(gpu_backend, name):
    """Draws over rows instead of samples, and with a k for each row."""
    law = LAWS[name]
    logits = torch.from_numpy(law.logits).to(DEVICE).expand(DRAWS, -1)
    check_law(law, dg.simple(logits, law.k, generator=seeded(1)))
    sizes = torch.full((DRAWS,), law.k, device=DEVICE)
    check_law(law, dg.subset.sample(logits, sizes, generator=seeded(2)))


@pytest.mark.parametrize("n", [4, 10, 33, 64, 65, 129, 300, 1000, 8192, 20_000])
@DTYPE
def test_the_subsets_of_the_cpu(gpu_backend, dtype, n):
    """The same seed gives the same subsets, but where a uniform number falls between two roundings
    of a probability: about once in 10^5 items in float32.
    """
    rows, draws = (64, 50) if n <= 1000 else (8, 20)
    logits = torch.from_numpy(np.random.RandomState(n).standard_normal((rows, n))).to(dtype)
    seed = torch.tensor([20260101 + n])
    arguments = (max(1, n // 3), None, draws)
    want = OPS.subset_sample(logits, *arguments, seed)
    got = OPS.subset_sample(logits.to(DEVICE), *arguments, seed.to(DEVICE)).cpu()
    assert bool((got.sum(-1) == max(1, n // 3)).all())
    share = float((got == want).all(-1).float().mean())
    least = 0.999 if dtype == torch.float64 else 1 - max(1e-3, 1e-5 * n)
    assert share >= least, f"{share:.4f} of the subsets are those of the CPU"


@pytest.mark.parametrize("n", [12, 100])
def test_the_subsets_of_the_cpu_with_certain_items(gpu_backend, n):
    logits = torch.from_numpy(np.random.RandomState(n).standard_normal((200, n)))
    logits[:, ::3], logits[::2, 1] = -torch.inf, torch.inf
    sizes = torch.arange(200) % (n // 3) + 1
    seed = torch.tensor([7])
    want = OPS.subset_sample(logits, n, sizes, 3, seed)
    got = OPS.subset_sample(logits.to(DEVICE), n, sizes.to(DEVICE), 3, seed.to(DEVICE)).cpu()
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@DTYPE
@pytest.mark.parametrize(("n", "k"), [(10, 3), (64, 20), (65, 20), (1000, 10), (20_000, 500)])
def test_indices_agree_with_khot(gpu_backend, dtype, n, k):
    logits = torch.randn(3, n, dtype=dtype, device=DEVICE)
    khot = dg.subset.sample(logits, k, 3, generator=seeded(4))
    index = dg.subset.sample_indices(logits, k, 3, generator=seeded(4))
    assert index.dtype == torch.int64
    assert bool((index.diff(dim=-1) > 0).all())
    assert torch.equal(torch.zeros_like(khot).scatter(-1, index, 1.0), khot)


def test_generators(gpu_backend):
    logits = torch.randn(5, 200, device=DEVICE)

    def draw(**arguments):
        return dg.subset.sample(logits, 20, 2, **arguments)

    assert torch.equal(draw(generator=seeded(7)), draw(generator=seeded(7)))
    assert not torch.equal(draw(generator=seeded(7)), draw(generator=seeded(8)))
    torch.cuda.manual_seed(3)
    first, second = draw(), draw()
    torch.cuda.manual_seed(3)
    assert torch.equal(first, draw())
    assert torch.equal(second, draw())
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="generator must be on the device"):
        draw(generator=torch.Generator())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("n", [12, 150])
def test_sixteen_bit_draws_are_those_of_float32(gpu_backend, dtype, n):
    logits = torch.randn(4, n, device=DEVICE).to(dtype)
    narrow = dg.subset.sample(logits, 5, 20, generator=seeded(9))
    wide = dg.subset.sample(logits.float(), 5, 20, generator=seeded(9))
    assert narrow.dtype == dtype
    assert torch.equal(narrow.float(), wide)


def test_large_rows_by_their_marginals(gpu_backend):
    """z-scores of the inclusion frequencies of 2000 items over 20,000 draws."""
    draws = 20_000
    logits = torch.from_numpy(np.random.RandomState(3).standard_normal(2000) * 2).to(DEVICE)
    mu = dg.subset.marginals(logits, 300)
    frequency = dg.subset.sample(logits.float(), 300, draws, generator=seeded(5)).double().mean(0)
    z = stats.marginal_z(frequency.cpu().numpy(), mu.cpu().numpy(), draws)
    assert np.abs(z).max() < stats.max_z_bound(z.size)
    assert abs(stats.sum_of_squares_z(z)) < 5
