# SPDX-License-Identifier: Apache-2.0
"""Kernels of perturbed top-k: the subsets of the reference from the same seed, in rows that a
program holds and in rows shared out over several.
"""

from __future__ import annotations

import pytest
import torch

from discrete_grad.reference import topk as reference
from discrete_grad.triton_kernels import long_topk, perturbed, topk_difference
from discrete_grad.triton_kernels.blocks import Split, selection_tile
from discrete_grad.triton_kernels.rows import cdiv
from tests.topk.noise_table import quantile_table
from tests.topk.rows import INF, NAN, adversarial, normal, without_difference

SEED = torch.tensor([1234567890123])
DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
TABLE = pytest.mark.parametrize("table", [False, True], ids=["gumbel", "table"])
# A launch takes long in the interpreter: where neither depends on the other, two of the four.
DTYPE_AND_TABLE = pytest.mark.parametrize(
    ("dtype", "table"),
    [(torch.float64, True), (torch.float32, False)],
    ids=["float64-table", "float32-gumbel"],
)
# A kernel computes with the infinite items too, and with what it then puts aside.
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning"
)


@pytest.fixture(autouse=True)
def _many_rows_in_one_program(monkeypatch):
    """The interpreter's time goes by programs, whatever they do."""

    def tile(n, dtype, **sides):
        found = selection_tile(n, dtype, **sides)
        return found and found._replace(rows=64)

    monkeypatch.setattr(perturbed, "selection_tile", tile)
    monkeypatch.setattr(topk_difference, "selection_tile", tile)


def share_out_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is too long for one program, and of more than 128 items for two."""
    monkeypatch.setattr(perturbed, "selection_tile", lambda n, dtype: None)
    monkeypatch.setattr(topk_difference, "selection_tile", lambda n, dtype, two_sides: None)
    monkeypatch.setattr(
        long_topk,
        "split_selections",
        lambda n, selections, dtype: Split(cdiv(n, 128), 128, 128, 1),
    )


@pytest.fixture(params=["one program", "shared out"])
def rows_in(request, monkeypatch, _many_rows_in_one_program) -> str:
    if request.param == "shared out":
        share_out_rows(monkeypatch)
    return request.param


def _quantiles(table: bool, dtype: torch.dtype) -> torch.Tensor | None:
    return quantile_table(dtype) if table else None


def _topk(logits, k, num_samples=1, quantiles=None, temperature=1.0, seed=SEED):
    """k: an int, or one for each row."""
    most, row_k = (k, None) if isinstance(k, int) else (int(k.max()), k)
    return perturbed.perturbed_topk(logits, most, row_k, num_samples, quantiles, temperature, seed)


def _assert_same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@DTYPE
@TABLE
@pytest.mark.parametrize("n", [1, 2, 6, 17, 64, 65, 300, 1100])
def test_same_subsets_as_the_reference(n, table, dtype):
    """float32 numbers differ in their last bits, the subsets where two of them part: not here."""
    rows, samples = (50, 10) if n <= 65 else (3, 2)
    logits = normal(rows, n, dtype=dtype, seed=n)
    sizes = torch.arange(rows) * 7 % (n + 1)
    quantiles = _quantiles(table, dtype)
    got = _topk(logits, sizes, samples, quantiles, 0.3)
    assert got.shape == (samples, rows, n)
    assert got.dtype == dtype
    _assert_same(got, reference.perturbed_topk(logits, sizes, samples, quantiles, 0.3, SEED))


@DTYPE_AND_TABLE
@pytest.mark.parametrize("n", [256, 257, 700])
def test_same_subsets_in_rows_shared_out(monkeypatch, n, table, dtype):
    """Several blocks a part; two digits of the index from n = 257 on."""
    share_out_rows(monkeypatch)
    monkeypatch.setattr(
        long_topk, "split_selections", lambda n, *_: Split(cdiv(n, 384), 384, 128, 1)
    )
    logits = normal(3, n, dtype=dtype, seed=n)
    sizes = torch.tensor([1, n // 3, n])
    quantiles = _quantiles(table, dtype)
    got = _topk(logits, sizes, 1, quantiles)
    _assert_same(got, reference.perturbed_topk(logits, sizes, 1, quantiles, 1.0, SEED))


@DTYPE
def test_a_row_longer_than_any_program_holds(dtype):
    n = 9000 if dtype == torch.float32 else 2100
    assert selection_tile(n, dtype) is None
    logits = normal(1, n, dtype=dtype)
    _assert_same(_topk(logits, 700), reference.perturbed_topk(logits, 700, 1, None, 1.0, SEED))
    if dtype == torch.float64:
        return  # the passes are the same
    index = perturbed.perturbed_topk_indices(logits, 700, 1, None, 1.0, SEED)
    _assert_same(index, reference.perturbed_topk_indices(logits, 700, 1, None, 1.0, SEED))


INVALID = [13, 14, 15, 16, 17]


@pytest.mark.parametrize(
    ("dtype", "temperature"), [(torch.float64, 1.0), (torch.float32, 0.0), (torch.float32, 1.0)]
)
def test_adversarial_rows(rows_in, temperature, dtype):
    logits, sizes = adversarial(150, dtype)
    got = _topk(logits, sizes, 1, None, temperature)
    _assert_same(got, reference.perturbed_topk(logits, sizes, 1, None, temperature, SEED))
    valid = torch.tensor([row not in INVALID for row in range(len(sizes))])
    assert bool(got[:, ~valid].isnan().all())
    assert torch.equal(got[:, valid].sum(-1), sizes[valid].to(dtype).unsqueeze(0))


@DTYPE
def test_ties_go_to_the_lowest_index(rows_in, dtype):
    """A whole row of equals, and two values, the upper one of fewer items than are chosen; the last
    item taken is told from the next by either digit of its index.
    """
    n = 300
    logits = torch.zeros(4, n, dtype=dtype)
    logits[1, ::2] = -0.0
    logits[2, 5::7] = 1.0
    logits[3, 7:] = -INF
    sizes = torch.tensor([260, 1, 100, 5])
    got = _topk(logits, sizes, 1, None, 0.0)[0]
    want = torch.zeros(4, n, dtype=dtype)
    want[0, :260] = want[1, 0] = want[3, :5] = 1
    ones = logits[2] == 1
    want[2] = (ones | (~ones & ((~ones).cumsum(-1) <= 100 - ones.sum()))).to(dtype)
    _assert_same(got, want)


@DTYPE
def test_a_perturbed_item_that_is_not_finite_spoils_its_row_alone(rows_in, dtype):
    """Also the one of many samples; infinite logits are not perturbed, and spoil nothing."""
    most = torch.finfo(dtype).max
    logits = torch.zeros(3, 40, dtype=dtype)
    logits[0, :3] = torch.tensor([INF, -INF, INF])
    logits[1, 7] = most
    got = _topk(logits, 4, 8, None, most / 16)
    _assert_same(got, reference.perturbed_topk(logits, 4, 8, None, most / 16, SEED))
    spoilt = got.isnan().all(-1)
    assert torch.equal(spoilt, got.isnan().any(-1))
    assert 0 < int(spoilt[:, 1].sum()) < 8
    assert not bool(spoilt[:, [0, 2]].any())


@DTYPE_AND_TABLE
@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 3), (150, 149), (150, 1)])
def test_indices(rows_in, n, k, table, dtype):
    logits = normal(1, 2, n, dtype=dtype, seed=n)
    logits[0, 1, 0] = NAN
    quantiles = _quantiles(table, dtype)
    index = perturbed.perturbed_topk_indices(logits, k, 2, quantiles, 1.0, SEED)
    assert index.shape == (2, 1, 2, k)
    assert index.dtype == torch.int64
    _assert_same(index, reference.perturbed_topk_indices(logits, k, 2, quantiles, 1.0, SEED))
    assert bool((index[:, 0, 1] == -1).all())
    assert int((index < 0).sum()) == 2 * k


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_sixteen_bit_is_computed_in_float32(rows_in, dtype):
    logits = normal(2, 100, dtype=dtype)
    got = _topk(logits, 60)
    assert got.dtype == dtype
    _assert_same(got.float(), _topk(logits.float(), 60))
    grad, step = normal(1, 2, 100, dtype=dtype, seed=1), torch.tensor(0.7)
    narrow = _difference(logits, grad, 60, step)
    assert narrow[0].dtype == torch.float32
    for got, want in zip(narrow, _difference(logits.float(), grad.float(), 60, step), strict=True):
        _assert_same(got, want)


def test_the_layout_of_logits_does_not_matter():
    logits = normal(6, 40)
    want = _topk(logits, 20, 2)
    assert torch.equal(_topk(logits.t().contiguous().t(), 20, 2), want)
    assert torch.equal(_topk(logits.view(2, 3, 40), 20, 2), want.view(2, 2, 3, 40))
    assert torch.equal(_topk(logits[0], 20)[0], want[0, 0])


@pytest.mark.parametrize("each", [1, 3])
def test_how_selections_are_shared_out_does_not_matter(monkeypatch, each):
    """A few selections at a time; those of one row's samples are made together."""
    logits, grad = normal(2, 150).float(), normal(2, 2, 150, seed=1).float()
    sizes, step = torch.tensor([0, 100]), torch.tensor([0.5, -1.0])
    want = _topk(logits, sizes, 2)
    index = perturbed.perturbed_topk_indices(logits, 100, 2, None, 1.0, SEED)
    difference = _difference(logits, grad, sizes, step)
    share_out_rows(monkeypatch)
    monkeypatch.setattr(perturbed, "selections_each", lambda rows: each)
    monkeypatch.setattr(topk_difference, "selections_each", lambda rows: 4 * each)
    _assert_same(_topk(logits, sizes, 2), want)
    _assert_same(perturbed.perturbed_topk_indices(logits, 100, 2, None, 1.0, SEED), index)
    for got, expected in zip(_difference(logits, grad, sizes, step), difference, strict=True):
        _assert_same(got, expected)


SCALES = (0.9, 1.1, 1.3, 0.8)  # alpha and temperature, left and right


def _difference(logits, grad, k, step, quantiles=None, scales=SCALES, symmetric=False):
    """k: an int, or one for each row."""
    most, row_k = (k, None) if isinstance(k, int) else (int(k.max()), k)
    return topk_difference.perturbed_topk_difference(
        logits, grad, most, row_k, quantiles, step, *scales, symmetric, SEED
    )


def _assert_difference(logits, grad, k, step, quantiles=None, scales=SCALES, symmetric=False):
    got = _difference(logits, grad, k, step, quantiles, scales, symmetric)
    want = reference.topk_difference(logits, grad, k, quantiles, step, *scales, symmetric, SEED)
    _assert_same(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert got[1].dtype == torch.int64
    return got


@DTYPE_AND_TABLE
@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "symmetric"])
def test_difference(rows_in, symmetric, table, dtype):
    for n in (1, 5, 64, 300) if rows_in == "one program" else (150,):
        logits = normal(3, n, dtype=dtype, seed=n)
        grad = normal(2, 3, n, dtype=dtype, seed=n + 1)
        sizes, step = torch.tensor([n // 2, 1, n]), torch.tensor([0.5, 2.0, -1.0], dtype=dtype)
        quantiles = _quantiles(table, dtype)
        got, nonzeros = _assert_difference(
            logits, grad, sizes, step, quantiles, symmetric=symmetric
        )
        assert n < 64 or int(nonzeros[1]) > 0
        assert int(nonzeros[2]) == 0
        assert got.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32])
def test_difference_of_the_samples_themselves(rows_in, dtype):
    """With alpha 1 the left side selects as the forward pass does, bit for bit."""
    logits, grad = normal(2, 150, dtype=dtype), normal(3, 2, 150, dtype=dtype, seed=1)
    step = torch.tensor(1.0, dtype=dtype)
    scales = (1.0, 0.7, 0.0, 0.0)  # the right side is - g and nothing else
    got, nonzeros = _difference(logits, grad, 20, step, scales=scales)
    z = _topk(logits, 20, 3, None, 0.7)
    target = reference.top_k(-grad, 20)
    _assert_same(got, (z - target.to(dtype)).sum(0) / 3)
    assert torch.equal(nonzeros, (z.bool() != target).sum((0, -1)))


@pytest.mark.parametrize("symmetric", [False, True], ids=["one-sided", "symmetric"])
def test_difference_of_rows_without_one(rows_in, symmetric):
    """Invalid rows, numbers beyond the largest, and gradients that are not finite, in one sample
    of two.
    """
    logits, grad, step = without_difference(40)
    got, nonzeros = _assert_difference(logits, grad, 6, step, symmetric=symmetric)
    spoilt = got.isnan().all(-1)
    assert torch.equal(spoilt, got.isnan().any(-1))
    assert spoilt.nonzero().flatten().tolist() == [0, 1, 2, 4, 6]
    assert not bool(nonzeros[spoilt].any())
    assert bool((nonzeros[~spoilt] > 0).all())


def test_how_the_gradient_lies_does_not_matter(rows_in):
    logits = normal(1, 2, 30, dtype=torch.float32)
    grad = normal(2, 1, 2, 30, dtype=torch.float32, seed=1)
    step = torch.tensor([[0.5, 1.0]])
    transposed = grad.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    for layout in (transposed, grad[:1, :1, :1, :1].expand_as(grad), grad[:1].expand_as(grad)):
        want = _difference(logits, layout.contiguous(), 9, step)
        for got, expected in zip(_difference(logits, layout, 9, step), want, strict=True):
            _assert_same(got, expected)


def test_nothing_to_choose(rows_in):
    step = torch.tensor(1.0)
    for shape in ((0, 5), (3, 0, 5), (4, 0)):
        logits = torch.zeros(shape)
        k = min(2, shape[-1])
        assert _topk(logits, k, 2).shape == (2, *shape)
        index = perturbed.perturbed_topk_indices(logits, k, 2, None, 1.0, SEED)
        assert index.shape == (2, *shape[:-1], k)
        got, nonzeros = _difference(logits, torch.zeros(2, *shape), k, step)
        assert got.shape == shape
        assert nonzeros.tolist() == torch.zeros(shape[:-1]).tolist()
    logits = torch.full((3, 5), NAN)
    assert _topk(logits, 2, 0).shape == (0, 3, 5)
    assert perturbed.perturbed_topk_indices(logits, 0, 2, None, 1.0, SEED).shape == (2, 3, 0)
    got, nonzeros = _difference(logits, torch.zeros(0, 3, 5), 2, step)
    _assert_same(got, torch.zeros(3, 5))
    assert nonzeros.tolist() == [0, 0, 0]


def test_errors():
    logits, step = torch.zeros(3, 5), torch.tensor(1.0)
    with pytest.raises(ValueError, match="k must be at most the number of items 5, got 6"):
        perturbed.perturbed_topk_indices(logits, 6, 1, None, 1.0, SEED)
    with pytest.raises(ValueError, match="seed must be an int64 tensor with one element"):
        _topk(logits, 2, seed=SEED.double())
    with pytest.raises(ValueError, match=r"quantiles must be torch.float32 \[881, 4\]"):
        _topk(logits, 2, quantiles=quantile_table(torch.float64))
    with pytest.raises(ValueError, match=r"grad must be \[samples, \*\[3, 5\]\] as the logits"):
        _difference(logits, torch.zeros(2, 3, 4), 2, step)
