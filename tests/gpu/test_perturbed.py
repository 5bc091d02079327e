# SPDX-License-Identifier: Apache-2.0
"""Perturbed top-k on the device: the noise and the subsets of the reference for the same seed,
exactly k items always, and how the ops run.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from discrete_grad import reference
from discrete_grad.reference import noise as reference_noise
from discrete_grad.reference import topk as reference_topk
from tests.gpu.device import (
    DEVICE,
    require_cuda,
    require_memory,
    synchronisation_is_an_error,
)

require_cuda()
pytestmark = pytest.mark.gpu

OPS = torch.ops.discrete_grad
INF, NAN = math.inf, math.nan
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
TABLE = pytest.mark.parametrize("table", [False, True], ids=["gumbel", "table"])
# Several rows a program, one row a program, rows shared out.
SHAPES = [(4096, 4, 1), (4096, 64, 8), (512, 1000, 100), (64, 4096, 64), (8, 8192, 500)]
SHAPES += [(4, 20_000, 3000), (1, 1_000_000, 1000)]
SHAPE = pytest.mark.parametrize(("rows", "n", "k"), SHAPES, ids=str)
SCALES = (1.0, 0.7, 0.9, 1.1)  # alpha and temperature, left and right


def seed_of(value: int) -> Tensor:
    return torch.tensor([value], device=DEVICE)


def quantile_table(dtype: torch.dtype) -> Tensor:
    """A law about linear in log v and in log(1 - v), whose every piece differs."""
    piece = torch.arange(881, dtype=torch.float64)
    upper = piece < 512
    start = torch.where(upper, 512 - piece, piece - 880) * 0.05
    rise = torch.where(upper, -0.05, 0.05)
    table = torch.stack([start, 1.2 * rise, -0.6 * rise, 0.4 * rise], -1)
    return table.to(DEVICE, dtype)


def quantiles_of(table: bool, dtype: torch.dtype) -> Tensor | None:
    return quantile_table(dtype) if table else None


def on_cpu(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.cpu()


def assert_most_rows_equal(got: Tensor, want: Tensor, dtype: torch.dtype, n: int) -> None:
    """All but those where two items part by less than the rounding of their noise."""
    equal = (got == want) | (got.isnan() & want.isnan())
    share = float(equal.all(-1).float().mean())
    least = 0.9999 if dtype == torch.float64 else 1 - max(1e-4, 1e-6 * n)
    assert share >= least or int((~equal.all(-1)).sum()) <= 1, f"{share:.5f} of the rows are equal"


@DTYPE
@TABLE
def test_noise_of_the_reference(gpu_backend, table, dtype):
    quantiles = quantiles_of(table, dtype)
    for rows, n in ((1, 1), (5000, 3), (300, 1000), (2, 50_001)):
        seed = seed_of(rows)
        got = OPS.perturbation_noise(rows, n, quantiles, seed, dtype).cpu()
        want = reference_noise.perturbation_noise(rows, n, on_cpu(quantiles), seed.cpu(), dtype)
        unit = torch.finfo(dtype).eps
        torch.testing.assert_close(got, want, rtol=8 * unit, atol=8 * unit)


@SHAPE
@DTYPE
@TABLE
def test_subsets_of_the_reference(gpu_backend, rows, n, k, table, dtype):
    samples = 10 if rows * n < 2**19 else 1
    logits = torch.randn(rows, n, dtype=dtype, device=DEVICE)
    quantiles, seed = quantiles_of(table, dtype), seed_of(n)
    got = OPS.perturbed_topk(logits, k, None, samples, quantiles, 0.7, seed)
    assert bool((got.sum(-1) == k).all())
    arguments = (k, samples, on_cpu(quantiles), 0.7, seed.cpu())
    want = reference_topk.perturbed_topk(logits.cpu(), *arguments)
    assert_most_rows_equal(got.cpu(), want, dtype, n)
    index = OPS.perturbed_topk_indices(logits, k, samples, quantiles, 0.7, seed)
    assert bool((index.diff(dim=-1) > 0).all())
    assert torch.equal(torch.zeros_like(got).scatter(-1, index, 1.0), got)


@SHAPE
@DTYPE
@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "symmetric"])
def test_difference_of_the_reference(gpu_backend, rows, n, k, symmetric, dtype):
    samples = 3
    logits = torch.randn(rows, n, dtype=dtype, device=DEVICE)
    grad = torch.randn(samples, rows, n, dtype=dtype, device=DEVICE)
    step, seed = torch.rand(rows, dtype=dtype, device=DEVICE), seed_of(k)
    got, nonzeros = OPS.perturbed_topk_difference(
        logits, grad, k, None, None, step, *SCALES, symmetric, seed
    )
    want, counted = reference_topk.topk_difference(
        logits.cpu(), grad.cpu(), k, None, step.cpu(), *SCALES, symmetric, seed.cpu()
    )
    # A part in as many as there are selections: six of them a row.
    assert_most_rows_equal(got.cpu(), want, dtype, 6 * n)
    same = (got.cpu() == want).all(-1)
    assert torch.equal(nonzeros.cpu()[same], counted[same])


@SHAPE
def test_the_left_side_is_the_forward_pass(gpu_backend, rows, n, k):
    """With alpha 1, to the bit: kernels that make the noise anew make the same noise."""
    logits = torch.randn(rows, n, device=DEVICE)
    grad = torch.randn(2, rows, n, device=DEVICE)
    seed, step = seed_of(3), torch.tensor(1.0, device=DEVICE)
    z = OPS.perturbed_topk(logits, k, None, 2, None, 1.0, seed)
    got, _ = OPS.perturbed_topk_difference(
        logits, grad, k, None, None, step, 1.0, 1.0, 0.0, 0.0, False, seed
    )
    # The right side is - g and nothing else.
    target = reference_topk.top_k(-grad, k).float()
    torch.testing.assert_close(got, (z - target).mean(0), rtol=0, atol=0)


@DTYPE
@pytest.mark.parametrize("n", [40, 3000, 30_000])
def test_rows_without_an_answer_and_ties(gpu_backend, dtype, n):
    """In every length: k for each row, infinite items, ties, zeros of both signs."""
    k = n // 4
    logits = torch.randn(10, n, dtype=dtype, device=DEVICE)
    logits[1] = 0
    logits[1, ::2] = -0.0
    logits[2] = logits[2].sign()
    logits[3, ::3] = -INF
    logits[4, :k] = INF
    logits[5, 0] = NAN
    logits[6, k - 1 :] = -INF
    logits[7, : k + 1] = INF
    sizes = torch.full((10,), k, device=DEVICE)
    sizes[8], sizes[9] = n + 1, 0
    for temperature in (0.0, 1.0):
        seed = seed_of(1)
        got = OPS.perturbed_topk(logits, n, sizes, 2, None, temperature, seed).cpu()
        want = reference_topk.perturbed_topk(
            logits.cpu(), sizes.cpu(), 2, None, temperature, seed.cpu()
        )
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
        index = OPS.perturbed_topk_indices(logits, k, 2, None, temperature, seed).cpu()
        want = reference_topk.perturbed_topk_indices(
            logits.cpu(), k, 2, None, temperature, seed.cpu()
        )
        assert torch.equal(index, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("n", [60, 10_000])
def test_sixteen_bit_is_computed_in_float32(gpu_backend, dtype, n):
    logits = torch.randn(4, n, device=DEVICE).to(dtype)
    arguments = (n // 5, None, 3, None, 1.0, seed_of(9))
    narrow = OPS.perturbed_topk(logits, *arguments)
    assert narrow.dtype == dtype
    assert torch.equal(narrow.float(), OPS.perturbed_topk(logits.float(), *arguments))


def test_one_of_many_is_a_draw_of_the_softmax(gpu_backend):
    """Gumbel-max: inclusion frequencies of k = 1 within five standard deviations."""
    draws = 200_000
    logits = torch.randn(50, device=DEVICE)
    z = OPS.perturbed_topk(logits, 1, None, draws, None, 1.0, seed_of(4))
    p = torch.softmax(logits.double(), -1)
    deviation = (z.double().mean(0) - p) / (p * (1 - p) / draws).sqrt()
    assert float(deviation.abs().max()) < 5
    assert torch.allclose(p, reference.marginals(logits.double().cpu(), 1)[0].to(DEVICE))


@pytest.mark.parametrize(("rows", "n", "k"), [(64, 30, 7), (8, 1000, 100), (2, 30_000, 3000)])
def test_cuda_graph_and_no_synchronisation(gpu_backend, rows, n, k):
    """Replays follow the logits and the seed as they change in place."""
    logits = torch.randn(rows, n, device=DEVICE)
    grad, seed = torch.randn(2, rows, n, device=DEVICE), seed_of(1)
    step = torch.tensor(0.5, device=DEVICE)

    def run() -> tuple[Tensor, ...]:
        settings = (k, None, None, step, 1.0, 1.0, 1.0, 1.0, True, seed)
        return (
            OPS.perturbed_topk(logits, k, None, 2, None, 1.0, seed),
            OPS.perturbed_topk_indices(logits, k, 2, None, 1.0, seed),
            *OPS.perturbed_topk_difference(logits, grad, *settings),
        )

    run()
    with synchronisation_is_an_error():
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for value in (2, 3):
        seed.fill_(value)
        logits.normal_()
        graph.replay()
        for got, want in zip(captured, run(), strict=True):
            assert torch.equal(got, want)


def test_more_items_than_an_int32_counts(gpu_backend):
    """2^31 items in all, and a row of 2^27."""
    require_memory(24)
    logits = torch.zeros(1, 2**27, dtype=torch.bfloat16, device=DEVICE)
    z = OPS.perturbed_topk(logits, 2**20, None, 17, None, 1.0, seed_of(5))
    assert (
        z[..., : 2**26]
        .sum(-1, dtype=torch.float64)
        .add(z[..., 2**26 :].sum(-1, dtype=torch.float64))
        .tolist()
        == [[2.0**20]] * 17
    )
    half = z[..., : 2**26].sum(-1, dtype=torch.float64) - 2**19
    assert float(half.abs().max()) < 6 * 2**9.5
