# SPDX-License-Identifier: Apache-2.0
"""Perturbation noise of the kernels: the numbers of the reference from the same seed."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from discrete_grad.reference import noise as reference
from discrete_grad.triton_kernels.launch import launch
from discrete_grad.triton_kernels.noise import perturbation_noise
from discrete_grad.triton_kernels.noise_kernels import upper_quantile
from tests.topk.noise_table import quantile_table

DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
TABLE = pytest.mark.parametrize("table", [False, True], ids=["gumbel", "table"])
SEED = torch.tensor([-987654321098765])


def _quantiles(table: bool, dtype: torch.dtype) -> torch.Tensor | None:
    return quantile_table(dtype) if table else None


def _assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Rounding of a few operations, and of logarithms near 1, whose absolute error is bounded."""
    unit = torch.finfo(want.dtype).eps
    torch.testing.assert_close(got, want, rtol=4 * unit, atol=4 * unit)


@DTYPE
@TABLE
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (700, 3), (5, 37), (3, 1025), (2, 2500)])
def test_noise_of_the_reference(rows, n, table, dtype):
    quantiles = _quantiles(table, dtype)
    got = perturbation_noise(rows, n, quantiles, SEED, dtype)
    assert got.dtype == dtype
    _assert_close(got, reference.perturbation_noise(rows, n, quantiles, SEED, dtype))


@triton.jit
def quantile_kernel(v, quantiles, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, upper_quantile(tl.load(v + at), quantiles))


@DTYPE
@TABLE
def test_every_octave_and_both_ends(table, dtype):
    """The smallest and the largest uniform number, 1/2, and each piece's neighbourhood."""
    largest = 1 - 2.0**-24
    powers = 2.0 ** -torch.arange(1, 25, dtype=torch.float64)
    upper = 2.0 ** -torch.arange(1, 34, dtype=torch.float64)
    v = torch.cat([upper, upper * 1.28125, upper * 1.9999, 1 - powers, 1 - powers * 1.1])
    v = torch.cat([v[v <= largest], torch.tensor([2.0**-33, largest, 0.5, 0.5 - 2.0**-25])])
    v = torch.nn.functional.pad(v, (0, 256 - len(v)), value=0.25)
    v = (v * 2**33).round().mul(2.0**-33).to(dtype)  # as uniform numbers are
    quantiles = _quantiles(table, dtype)
    got = torch.empty_like(v)
    launch(quantile_kernel, 1, v, quantiles, got, num_warps=1, N=len(v))
    _assert_close(got, reference.quantile(v, quantiles))
    fall = got[v.argsort()].diff()
    assert bool((fall <= 4 * torch.finfo(dtype).eps).all())


def test_nothing_to_draw():
    for shape in ((0, 5), (5, 0)):
        assert perturbation_noise(*shape, None, SEED, torch.float32).shape == shape


def test_errors():
    table = quantile_table(torch.float32)
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.float64"):
        perturbation_noise(2, 3, None, SEED, torch.bfloat16)
    with pytest.raises(ValueError, match="seed must be an int64 tensor with one element"):
        perturbation_noise(2, 3, None, SEED.expand(2), torch.float32)
    for wrong in (table.double(), table[1:], table[:, :3]):
        with pytest.raises(ValueError, match=r"quantiles must be torch.float32 \[881, 4\]"):
            perturbation_noise(2, 3, wrong, SEED, torch.float32)
