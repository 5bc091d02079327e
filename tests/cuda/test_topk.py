# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of perturb-and-MAP in the emulation, through their ops: the subsets of the
reference from the same seed, in rows that a team holds and in longer ones.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from discrete_grad.reference import noise as reference_noise
from discrete_grad.reference import topk as reference
from tests.cuda.ops_library import ops, schedule
from tests.topk.noise_table import quantile_table
from tests.topk.rows import INF, NAN, adversarial, normal, without_difference

SEED = torch.tensor([1234567890123])
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
TABLE = pytest.mark.parametrize("table", [False, True], ids=["gumbel", "table"])
# Longer than any team holds.
LONG = {torch.float32: 8200, torch.float64: 2051}
LENGTH = pytest.mark.parametrize("length", ["short", "long"])


def quantiles_of(table: bool, dtype: torch.dtype) -> Tensor | None:
    return quantile_table(dtype) if table else None


def parts_of(k: int | Tensor) -> tuple[int, Tensor | None]:
    return (k, None) if isinstance(k, int) else (int(k.max()), k)


def topk(
    logits: Tensor,
    k: int | Tensor,
    samples: int = 1,
    quantiles: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    return ops().perturbed_topk(logits, *parts_of(k), samples, quantiles, temperature, SEED)


def assert_same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def assert_choices(logits, k, samples=1, quantiles=None, temperature=1.0) -> Tensor:
    got = topk(logits, k, samples, quantiles, temperature)
    assert_same(got, reference.perturbed_topk(logits, k, samples, quantiles, temperature, SEED))
    return got


@DTYPE
@TABLE
def test_noise(table, dtype):
    quantiles = quantiles_of(table, dtype)
    for rows, n in ((1, 1), (50, 3), (7, 1001), (0, 5), (3, 0)):
        got = ops().perturbation_noise(rows, n, quantiles, SEED, dtype)
        want = reference_noise.perturbation_noise(rows, n, quantiles, SEED, dtype)
        unit = torch.finfo(dtype).eps
        torch.testing.assert_close(got, want, rtol=8 * unit, atol=8 * unit)


@DTYPE
@TABLE
@pytest.mark.parametrize("n", [1, 6, 16, 17, 65, 129, 300, 600, 1025])
def test_every_shape_of_team(n, table, dtype):
    rows, samples = (20, 3) if n <= 65 else (3, 1)
    logits = normal(rows, n, dtype=dtype, seed=n)
    sizes = torch.arange(rows) * 7 % (n + 1)
    assert_choices(logits, sizes, samples, quantiles_of(table, dtype), 0.3)


@DTYPE
def test_the_longest_row_of_a_team_and_longer_ones(dtype):
    for n in (LONG[dtype] // 8 * 8, LONG[dtype] - 3, LONG[dtype]):
        logits = normal(2, n, dtype=dtype, seed=n)
        assert_choices(logits, torch.tensor([n // 10, n - 1]))
        got = ops().perturbed_topk_indices(logits, 300, 1, None, 1.0, SEED)
        assert_same(got, reference.perturbed_topk_indices(logits, 300, 1, None, 1.0, SEED))


def adversarial_of(length: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return adversarial(150 if length == "short" else LONG[dtype], dtype)


@LENGTH
@pytest.mark.parametrize(
    ("dtype", "temperature"), [(torch.float64, 1.0), (torch.float32, 0.0), (torch.float32, 1.0)]
)
def test_adversarial_rows(length, temperature, dtype):
    logits, sizes = adversarial_of(length, dtype)
    got = assert_choices(logits, sizes, 1, None, temperature)
    assert bool(got[:, 13:].isnan().all())
    assert torch.equal(got[0, :13].sum(-1), sizes[:13].to(dtype))


@LENGTH
@DTYPE
def test_ties_go_to_the_lowest_index(length, dtype):
    n = 300 if length == "short" else LONG[dtype]
    logits = torch.zeros(3, n, dtype=dtype)
    logits[0, ::2] = -0.0
    logits[1, 5::7] = 1.0
    logits[2, 7:] = -INF
    sizes = torch.tensor([n - 40, n // 3, 5])
    got = assert_choices(logits, sizes, 1, None, 0.0)[0]
    assert bool(got[0, : n - 40].all())
    assert got[2].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


@LENGTH
@DTYPE
def test_a_perturbed_item_that_is_not_finite_spoils_its_row_alone(length, dtype):
    most = torch.finfo(dtype).max
    logits = torch.zeros(3, 40 if length == "short" else LONG[dtype], dtype=dtype)
    logits[0, :3] = torch.tensor([INF, -INF, INF])
    logits[1, 7] = most
    got = assert_choices(logits, 4, 6, None, most / 32)
    spoilt = got.isnan().all(-1)
    assert torch.equal(spoilt, got.isnan().any(-1))
    assert 0 < int(spoilt[:, 1].sum()) < 6
    assert not bool(spoilt[:, [0, 2]].any())


@DTYPE
@TABLE
@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 3), (150, 149), (150, 1), (700, 20), (1030, 9)])
def test_indices(n, k, table, dtype):
    logits = normal(1, 2, n, dtype=dtype, seed=n)
    logits[0, 1, 0] = NAN
    quantiles = quantiles_of(table, dtype)
    index = ops().perturbed_topk_indices(logits, k, 2, quantiles, 1.0, SEED)
    assert_same(index, reference.perturbed_topk_indices(logits, k, 2, quantiles, 1.0, SEED))
    assert int((index < 0).sum()) == 2 * k


@pytest.mark.parametrize("number", [1, 5], ids=["reverse", "drawn"])
def test_the_order_of_threads_does_not_matter(number):
    for n in (6, 150, 300, LONG[torch.float64]):
        logits = (2 * normal(3, n, dtype=torch.float64)).round()  # many equals
        sizes, grad = torch.tensor([1, n // 2, n]), normal(2, 3, n, dtype=torch.float64, seed=1)
        with schedule(number):
            assert_choices(logits, sizes, 1, None, 0.0)
            assert_difference(logits, grad, sizes, torch.tensor(0.5), scales=(1.0, 0.0, 1.0, 0.0))
            index = ops().perturbed_topk_indices(logits, n // 3, 1, None, 0.0, SEED)
        assert_same(index, reference.perturbed_topk_indices(logits, n // 3, 1, None, 0.0, SEED))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_sixteen_bit_is_computed_in_float32(dtype):
    logits = normal(2, 100, dtype=dtype)
    got = topk(logits, 60)
    assert got.dtype == dtype
    assert_same(got.float(), topk(logits.float(), 60))
    grad, step = normal(1, 2, 100, dtype=dtype, seed=1), torch.tensor(0.7)
    narrow = difference(logits, grad, 60, step)
    assert narrow[0].dtype == torch.float32
    for value, want in zip(narrow, difference(logits.float(), grad.float(), 60, step), strict=True):
        assert_same(value, want)


SCALES = (0.9, 1.1, 1.3, 0.8)  # alpha and temperature, left and right


def difference(logits, grad, k, step, quantiles=None, scales=SCALES, symmetric=False):
    return ops().perturbed_topk_difference(
        logits, grad, *parts_of(k), quantiles, step, *scales, symmetric, SEED
    )


def assert_difference(logits, grad, k, step, quantiles=None, scales=SCALES, symmetric=False):
    got = difference(logits, grad, k, step, quantiles, scales, symmetric)
    want = reference.topk_difference(logits, grad, k, quantiles, step, *scales, symmetric, SEED)
    assert_same(got[0], want[0])
    assert torch.equal(got[1], want[1])
    return got


@DTYPE
@TABLE
@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "symmetric"])
def test_difference(symmetric, table, dtype):
    for n in (1, 5, 64, 300, 1030, LONG[dtype]):
        if n > 1000 and table == symmetric:
            continue
        samples = 5 if n < 1000 else 2
        logits = normal(3, n, dtype=dtype, seed=n)
        grad = normal(samples, 3, n, dtype=dtype, seed=n + 1)
        sizes, step = torch.tensor([n // 2, 1, n]), torch.tensor([0.5, 2.0, -1.0], dtype=dtype)
        quantiles = quantiles_of(table, dtype)
        _, nonzeros = assert_difference(logits, grad, sizes, step, quantiles, symmetric=symmetric)
        assert n < 64 or int(nonzeros[1]) > 0
        assert int(nonzeros[2]) == 0


@DTYPE
def test_difference_of_the_samples_themselves(dtype):
    """With alpha 1 the left side selects as the forward pass does, bit for bit."""
    logits, grad = normal(2, 150, dtype=dtype), normal(3, 2, 150, dtype=dtype, seed=1)
    step = torch.tensor(1.0, dtype=dtype)
    got, nonzeros = difference(logits, grad, 20, step, scales=(1.0, 0.7, 0.0, 0.0))
    z = topk(logits, 20, 3, None, 0.7)
    target = reference.top_k(-grad, 20)
    assert_same(got, (z - target.to(dtype)).sum(0) / 3)
    assert torch.equal(nonzeros, (z.bool() != target).sum((0, -1)))


@LENGTH
@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "symmetric"])
def test_difference_of_rows_without_one(length, symmetric):
    """Invalid rows, numbers beyond the largest, and a gradient that is not finite in one sample."""
    logits, grad, step = without_difference(40 if length == "short" else LONG[torch.float32])
    got, nonzeros = assert_difference(logits, grad, 6, step, symmetric=symmetric)
    spoilt = got.isnan().all(-1)
    assert torch.equal(spoilt, got.isnan().any(-1))
    assert spoilt.nonzero().flatten().tolist() == [0, 1, 2, 4, 6]
    assert not bool(nonzeros[spoilt].any())


def test_how_the_gradient_lies_does_not_matter():
    logits = normal(1, 2, 30, dtype=torch.float32)
    grad = normal(2, 1, 2, 30, dtype=torch.float32, seed=1)
    step = torch.tensor([[0.5, 1.0]])
    transposed = grad.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    for layout in (transposed, grad[:1, :1, :1, :1].expand_as(grad), grad[:1].expand_as(grad)):
        want = difference(logits, layout.contiguous(), 9, step)
        for got, expected in zip(difference(logits, layout, 9, step), want, strict=True):
            assert_same(got, expected)


def test_samples_that_are_shared_out():
    """More samples than there are teams for a row: each team takes several."""
    logits, grad = normal(2, 5, dtype=torch.float32), normal(5000, 2, 5, dtype=torch.float32)
    assert_difference(logits, grad, 2, torch.tensor(0.3))


def test_nothing_to_do():
    empty = torch.zeros(0, 5)
    assert topk(empty, 2, 3).shape == (3, 0, 5)
    assert topk(torch.zeros(2, 0), 0).shape == (1, 2, 0)
    assert topk(torch.zeros(2, 4), 2, 0).shape == (0, 2, 4)
    assert ops().perturbed_topk_indices(torch.zeros(2, 4), 0, 1, None, 1.0, SEED).shape == (1, 2, 0)
    for logits, samples in ((empty, 2), (torch.zeros(2, 0), 2), (torch.zeros(2, 4), 0)):
        grad = torch.ones(samples, *logits.shape)
        values, nonzeros = difference(logits, grad, 0, torch.tensor(1.0))
        assert torch.equal(values, torch.zeros_like(logits))
        assert torch.equal(nonzeros, torch.zeros(logits.shape[0], dtype=torch.int64))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "temperature must be finite", lambda x: topk(x, 2, temperature=-1.0)),
        (ValueError, "quantiles must be a", lambda x: topk(x, 2, quantiles=torch.zeros(3, 4))),
        (ValueError, "step must be one number", lambda x: difference(x, x[None], 1, x)),
        (ValueError, "grad must be of shape", lambda x: difference(x, x, 1, x[0, 0])),
        (
            ValueError,
            "k must be at most the number of items 4, got 5",
            lambda x: ops().perturbed_topk_indices(x, 5, 1, None, 1.0, SEED),
        ),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call(torch.zeros(3, 4))
