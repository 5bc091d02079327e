# SPDX-License-Identifier: Apache-2.0
"""Batch shapes, memory layouts, rows without an answer, threads: what must not change a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests.accuracy.evaluate import METHODS

DTYPES = [torch.float64, torch.float32]
INF, NAN = float("inf"), float("nan")
METHOD = pytest.mark.parametrize("method", METHODS)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


def all_outputs(logits, k, method, grad=None):
    """[marginals, log_partition, vjp, gradient of log_partition] of a leaf that shares the layout
    of `logits`.
    """
    theta = logits.detach().requires_grad_()
    marginals = dg.subset.marginals(theta, k, method=method)
    grad = torch.ones_like(marginals).cumsum(-1) if grad is None else grad
    (vjp,) = torch.autograd.grad(marginals, theta, grad)
    log_partition = dg.subset.log_partition(theta, k, method=method)
    (slope,) = torch.autograd.grad(log_partition.sum(), theta)
    return [marginals.detach(), log_partition.detach(), vjp, slope]


def same(got, want, dtype):
    """Equal up to the rounding that another order of summation brings."""
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


@METHOD
@DTYPE
@pytest.mark.parametrize("shape", [(0,), (3, 0, 5), (0, 0)], ids=str)
def test_empty_batches(backend, method, dtype, shape):
    logits = torch.randn(*shape, 7, dtype=dtype)
    marginals, log_partition, vjp, slope = all_outputs(logits, 3, method)
    assert marginals.shape == vjp.shape == slope.shape == (*shape, 7)
    assert log_partition.shape == shape
    rows = torch.full(shape, 3)
    assert dg.subset.marginals(logits, rows, method=method).shape == (*shape, 7)
    assert dg.subset.sample(logits, 3).shape == (*shape, 7)
    assert dg.subset.sample(logits, 3, 4).shape == (4, *shape, 7)
    assert dg.subset.sample_indices(logits, 3, 4).shape == (4, *shape, 3)
    assert dg.subset.count_log_prob(logits, 5).shape == (*shape, 6)
    assert dg.simple(logits.requires_grad_(), 3).shape == (*shape, 7)


@METHOD
@DTYPE
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
def test_no_items(backend, method, dtype, shape):
    """n = 0 with k = 0: one subset, the empty one."""
    logits = torch.zeros(*shape, 0, dtype=dtype)
    marginals, log_partition, vjp, slope = all_outputs(logits, 0, method)
    assert marginals.shape == vjp.shape == slope.shape == (*shape, 0)
    assert torch.equal(log_partition, torch.zeros(shape, dtype=dtype))
    assert dg.subset.sample(logits, 0, 2).shape == (2, *shape, 0)
    assert dg.subset.sample_indices(logits, 0, 2).shape == (2, *shape, 0)
    assert torch.equal(dg.subset.count_log_prob(logits, 0), torch.zeros(*shape, 1, dtype=dtype))
    assert torch.equal(dg.subset.entropy(logits, 0), torch.zeros(shape, dtype=dtype))


@METHOD
@DTYPE
def test_batch_is_row_by_row(backend, method, dtype):
    """Any batch shape gives what its rows give alone; k as an int, a full tensor and a broadcast
    one agree.
    """
    torch.manual_seed(1)
    logits = torch.randn(3, 4, 29, dtype=dtype) * 4
    sizes = torch.randint(0, 30, (3, 4))
    got = all_outputs(logits, sizes, method)
    for i in range(3):
        for j in range(4):
            alone = all_outputs(logits[i, j], int(sizes[i, j]), method)
            for a, b in zip(got, alone, strict=True):
                same(a[i, j], b, dtype)
    for size in (torch.tensor(7), torch.full((4,), 7), torch.full((3, 1), 7, dtype=torch.int32)):
        for a, b in zip(
            all_outputs(logits, size, method), all_outputs(logits, 7, method), strict=True
        ):
            same(a, b, dtype)


def _layouts(dtype):
    torch.manual_seed(2)
    base = torch.randn(6, 33, dtype=dtype) * 3
    wide = torch.randn(6, 66, dtype=dtype)
    wide[:, ::2] = base
    offset = torch.randn(6 * 33 + 1, dtype=dtype)
    offset[1:] = base.flatten()
    yield "transposed", base, base.t().contiguous().t()
    yield "strided items", base, wide[:, ::2]
    yield "odd offset", base, offset[1:].view(6, 33)
    yield "every second row", base[::2].contiguous(), base[::2]
    yield "expanded batch", base[:1].repeat(5, 1), base[:1].expand(5, 33)
    yield "expanded items", base[:, :1].repeat(1, 33), base[:, :1].expand(6, 33)
    yield (
        "permuted 3d",
        base.view(2, 3, 33).transpose(0, 1).contiguous(),
        base.view(2, 3, 33).transpose(0, 1),
    )


@METHOD
@DTYPE
def test_layouts_of_logits(backend, method, dtype):
    for name, dense, view in _layouts(dtype):
        before = view.clone()
        want, got = all_outputs(dense, 9, method), all_outputs(view, 9, method)
        for label, a, b in zip(
            ("marginals", "log_partition", "vjp", "slope"), got, want, strict=True
        ):
            assert a.shape == b.shape, (name, label)
            same(a, b, dtype)
        assert torch.equal(view, before), f"{name}: the input was written to"


@METHOD
@DTYPE
def test_layouts_of_gradients(backend, method, dtype):
    torch.manual_seed(3)
    logits = torch.randn(6, 33, dtype=dtype) * 3
    for name, dense, view in _layouts(dtype):
        if dense.shape != logits.shape:
            continue
        want = all_outputs(logits, 9, method, dense)[2]
        got = all_outputs(logits, 9, method, view)[2]
        torch.testing.assert_close(
            got, want, rtol=0, atol=0 if backend == "cpp" else 1e-6, msg=name
        )
    theta = logits.requires_grad_()
    (expanded,) = torch.autograd.grad(
        dg.subset.marginals(theta, 9, method=method)[:, :20].sum(), theta
    )
    step = (torch.arange(33) < 20).to(dtype).expand(6, 33)
    same(expanded, all_outputs(logits, 9, method, step.contiguous())[2], dtype)


BAD_ROWS = {
    "nan": (lambda row: row.index_fill(0, torch.tensor([4]), NAN), 5),
    "too few live items": (lambda row: row.index_fill(0, torch.arange(3, 17), -INF), 5),
    "too many forced items": (lambda row: row.index_fill(0, torch.arange(3, 9), INF), 5),
    "negative k": (lambda row: row, -1),
    "k above n": (lambda row: row, 18),
    "nan beside masks": (
        lambda row: torch.cat([torch.tensor([NAN, -INF, INF], dtype=row.dtype), row[3:]]),
        5,
    ),
    "all excluded": (lambda row: torch.full_like(row, -INF), 1),
}


@METHOD
@DTYPE
@pytest.mark.parametrize("bad", BAD_ROWS)
def test_row_without_an_answer_is_nan_alone(backend, method, dtype, bad):
    """NaN in every output of that row; the rows beside it are what they are without it, to the
    bit.
    """
    torch.manual_seed(4)
    make, k_bad = BAD_ROWS[bad]
    logits = torch.randn(5, 17, dtype=dtype) * 3
    sizes = torch.tensor([5, 0, 5, 17, 1])
    clean = all_outputs(logits, sizes, method)
    logits[2], sizes[2] = make(logits[2]), k_bad
    got = all_outputs(logits, sizes, method)
    others = torch.tensor([0, 1, 3, 4])
    labels = ("marginals", "log_partition", "vjp", "gradient of log_partition")
    for label, a, b in zip(labels, got, clean, strict=True):
        assert a[2].isnan().all(), f"{label}: row 2 is not NaN throughout"
        assert torch.equal(a[others], b[others]), f"{label}: another row changed"


@DTYPE
@pytest.mark.parametrize("bad", BAD_ROWS)
def test_row_without_an_answer_sampling(backend, dtype, bad):
    torch.manual_seed(5)
    make, k_bad = BAD_ROWS[bad]
    logits = torch.randn(5, 17, dtype=dtype) * 3
    sizes = torch.tensor([5, 0, 5, 17, 1])

    def draw():
        return dg.subset.sample(logits, sizes, 3, generator=torch.Generator().manual_seed(0))

    clean = draw()
    logits[2], sizes[2] = make(logits[2]), k_bad
    got = draw()
    assert got[:, 2].isnan().all()
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(got[:, others], clean[:, others])
    if 0 <= k_bad <= 17:
        indices = dg.subset.sample_indices(logits, k_bad, 3)
        assert (indices[:, 2] == -1).all()
        assert (indices[:, others] >= 0).all()
    count = dg.subset.count_log_prob(logits, 4)
    assert count[2].isnan().all() == logits[2].isnan().any()
    assert not count[others].isnan().any()


@METHOD
@DTYPE
def test_masked_items_have_zero_gradient(backend, method, dtype):
    torch.manual_seed(6)
    logits = torch.randn(4, 21, dtype=dtype)
    logits[:, ::4], logits[:, 1::7] = -INF, INF
    masked = torch.isinf(logits)
    marginals, log_partition, vjp, slope = all_outputs(logits, 8, method)
    assert torch.equal(marginals[masked], (logits[masked] > 0).to(dtype))
    assert not vjp[masked].any()
    assert not slope[masked].any()
    assert vjp[~masked].all()
    live = [
        all_outputs(row[~mask], 8 - int((row == INF).sum()), method)
        for row, mask in zip(logits, masked, strict=True)
    ]
    for row, (mu, log_z, _, _) in enumerate(live):
        same(marginals[row][~masked[row]], mu, dtype)
        same(log_partition[row], log_z, dtype)


@METHOD
def test_deterministic_rows_have_zero_gradient(backend, method):
    logits = torch.tensor([[0.5, -INF, INF, 1.0], [0.5, 2.0, -1.0, 1.0]], dtype=torch.float64)
    for sizes in (torch.tensor([3, 4]), torch.tensor([1, 0])):
        marginals, log_partition, vjp, _ = all_outputs(logits, sizes, method)
        assert torch.equal(marginals, marginals.round())
        assert not vjp.any()
        live_sum = torch.tensor([1.5, 2.5], dtype=torch.float64) * (sizes > 1)
        same(log_partition, live_sum, torch.float64)


@DTYPE
@pytest.mark.parametrize("shape", [(257, 40), (1, 200_000), (3, 30_000)], ids=str)
def test_thread_count_changes_nothing(dtype, shape):
    """Bit for bit: sums are split by a fixed block size, never by the number of threads."""
    torch.manual_seed(7)
    logits = torch.randn(shape, dtype=dtype) * 3
    k = shape[1] // 3
    results = {}
    with dg.backend("cpp"):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            try:
                generator = torch.Generator().manual_seed(1)
                results[threads] = [
                    *all_outputs(logits, k, "contour"),
                    dg.subset.sample(logits, k, 2, generator=generator),
                    dg.subset.count_log_prob(logits[..., :50], 20),
                ]
            finally:
                torch.set_num_threads(2)
    for one, two in zip(results[1], results[2], strict=True):
        assert torch.equal(one, two)


def test_rows_are_independent_of_the_batch_around_them():
    """A row computed alone and in a large batch (other threads, other vector lanes) is the same to
    the bit.
    """
    torch.manual_seed(8)
    logits = torch.randn(1000, 37) * 3
    with dg.backend("cpp"):
        together = all_outputs(logits, 11, "contour")
        for row in (0, 1, 499, 998, 999):
            for a, b in zip(together, all_outputs(logits[row], 11, "contour"), strict=True):
                assert np.array_equal(a[row].numpy(), b.numpy())
