# SPDX-License-Identifier: Apache-2.0
"""The ops of the CUDA backend in the emulation: as those of the CPU on rows of every kind, layout
and dtype; what the kernels compute is checked by the other files of this folder.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import discrete_grad.ops  # noqa: F401  (declares the ops)
from discrete_grad.ops.library import COMPOSITES, kernel_ops
from tests.cuda.ops_library import ops
from tests.tolerances import bound
from tests.topk.rows import INF, NAN, normal

CPU = torch.ops.discrete_grad
SEED = torch.tensor([20240607])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
METHOD = pytest.mark.parametrize("method", ["contour", "linear", "recursion"])


def rows_of_every_kind(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[2, 5, 12] and k: infinite items, certain subsets, a NaN, and counts that no subset has."""
    logits = normal(2, 5, 12, dtype=dtype)
    k = torch.tensor([[1, 5, 12, 0, 4], [3, 3, 3, 13, -1]])
    logits[0, 0, 3:7] = -INF
    logits[0, 1, :2] = INF
    logits[0, 4, :4] = INF
    logits[1, 0] *= 20
    logits[1, 1, 4] = NAN
    logits[1, 2, 2:] = -INF
    return logits, k


def strided(x: Tensor) -> Tensor:
    """The same numbers, neither contiguous nor in order."""
    wide = torch.stack([x, x + 1], -1).transpose(0, 1).contiguous().transpose(0, 1)
    return wide[..., 0]


def same_rows(got: Tensor, want: Tensor, limit: float) -> None:
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=limit, atol=limit, equal_nan=True)


def limit_of(quantity: str, dtype: torch.dtype, method: str | None = None) -> float:
    return 2 * bound(quantity, dtype, method)


def test_the_ops_are_those_that_have_kernels():
    assert {name for name in kernel_ops() if name != "simple"} == {
        name for name in kernel_ops() if hasattr(ops(), name)
    }
    assert not any(hasattr(ops(), name) for name in COMPOSITES)
    for name in kernel_ops():
        if name != "simple":
            own = str(getattr(ops(), name).default._schema).partition("(")[2]
            assert own == str(getattr(CPU, name).default._schema).partition("(")[2]


@DTYPE
@METHOD
@pytest.mark.parametrize("layout", [torch.clone, strided], ids=["contiguous", "strided"])
def test_marginals(layout, method, dtype):
    logits, k = rows_of_every_kind(dtype)
    got = ops().subset_marginals(layout(logits), 13, layout(k), method)
    want = CPU.subset_marginals(logits, 13, k, method)
    same_rows(got[0], want[0], limit_of("marginals", dtype, method))
    same_rows(got[1], want[1], limit_of("log_partition", dtype, method))
    assert got[2].shape == want[2].shape

    grad, scale = normal(2, 5, 12, dtype=dtype, seed=1), normal(2, 5, dtype=dtype, seed=2)
    grad = grad / grad.abs().max()
    limit = 4 * limit_of("vjp", dtype, method)
    for g, c in ((grad, scale), (grad, None), (None, scale)):
        expected = CPU.subset_marginals_vjp(logits, 13, k, method, want[2], g, c)
        for state in (got[2], None):
            value = ops().subset_marginals_vjp(
                layout(logits), 13, k, method, state, None if g is None else layout(g), c
            )
            same_rows(value, expected, limit)


@DTYPE
def test_third_cumulant(dtype):
    logits, k = rows_of_every_kind(dtype)
    a, b = (normal(2, 5, 12, dtype=dtype, seed=s).clamp(-1, 1) for s in (1, 2))
    got = ops().subset_third_cumulant(strided(logits), 13, k, strided(a), b)
    same_rows(got, CPU.subset_third_cumulant(logits, 13, k, a, b), 4 * limit_of("vjp", dtype))


@DTYPE
@pytest.mark.parametrize("most", [0, 4, 15])
def test_count_log_prob(most, dtype):
    logits, _ = rows_of_every_kind(dtype)
    # 16-bit numbers are computed in float32 and rounded once.
    limit = limit_of("count_log_prob", torch.float32) if dtype != torch.float64 else 1e-12
    limit = max(limit, 2 * torch.finfo(dtype).eps)
    got = ops().count_log_prob(strided(logits), most)
    same_rows(got, CPU.count_log_prob(logits, most), limit)
    grad = normal(2, 5, most + 1, dtype=dtype, seed=3)
    tangent = normal(2, 5, 12, dtype=dtype, seed=4)
    got = ops().count_log_prob_vjp(logits, most, strided(grad))
    same_rows(got, CPU.count_log_prob_vjp(logits, most, grad), 10 * limit)
    got = ops().count_log_prob_vjp_backward(logits, most, grad, strided(tangent))
    want = CPU.count_log_prob_vjp_backward(logits, most, grad, tangent)
    for value, expected in zip(got, want, strict=True):
        same_rows(value, expected, 40 * limit)


@DTYPE
@pytest.mark.parametrize("n", [12, 80])
def test_samples(n, dtype):
    """By the tree and by halving; the same subsets as the CPU's from the same seed."""
    if n == 12:
        logits, k = rows_of_every_kind(dtype)
    else:
        logits, k = normal(2, 3, n, dtype=dtype), torch.tensor([[7, 40, 80], [0, 1, 79]])
        logits[0, 0, 5] = NAN
    got = ops().subset_sample(strided(logits), int(k.max()), k, 20, SEED)
    same_rows(got, CPU.subset_sample(logits, int(k.max()), k, 20, SEED), 0)
    index = ops().subset_sample_indices(strided(logits), 3, 20, SEED)
    assert torch.equal(index, CPU.subset_sample_indices(logits, 3, 20, SEED))


@DTYPE
def test_perturbed(dtype):
    logits, k = rows_of_every_kind(dtype)
    got = ops().perturbed_topk(strided(logits), 13, strided(k), 10, None, 0.5, SEED)
    same_rows(got, CPU.perturbed_topk(logits, 13, k, 10, None, 0.5, SEED), 0)
    index = ops().perturbed_topk_indices(strided(logits), 3, 10, None, 0.5, SEED)
    assert torch.equal(index, CPU.perturbed_topk_indices(logits, 3, 10, None, 0.5, SEED))
    grad, step = normal(10, 2, 5, 12, dtype=dtype, seed=5), normal(2, 5, dtype=dtype, seed=6)
    scales = (1.0, 0.5, 0.9, 0.5, True)
    got = ops().perturbed_topk_difference(
        strided(logits), strided(grad), 13, k, None, strided(step), *scales, SEED
    )
    want = CPU.perturbed_topk_difference(logits, grad, 13, k, None, step, *scales, SEED)
    # A sum of integers, divided once.
    same_rows(got[0], want[0], torch.finfo(got[0].dtype).eps)
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 5), (0,), (1,), (5,)], ids=str)
def test_shapes_without_rows_or_items(shape):
    logits = torch.zeros(shape)
    k = min(1, shape[-1])
    for method in ("contour", "linear", "recursion"):
        got = ops().subset_marginals(logits, k, None, method)
        for value, expected in zip(got, CPU.subset_marginals(logits, k, None, method), strict=True):
            assert value.shape == expected.shape
        same_rows(got[1], CPU.subset_marginals(logits, k, None, method)[1], 1e-6)
        value = ops().subset_marginals_vjp(logits, k, None, method, None, logits, None)
        assert value.shape == shape
    assert ops().subset_third_cumulant(logits, k, None, logits, logits).shape == shape
    counts = ops().count_log_prob(logits, 2)
    same_rows(counts, CPU.count_log_prob(logits, 2), 1e-6)
    assert ops().count_log_prob_vjp(logits, 2, counts).shape == shape
    for value, like in zip(
        ops().count_log_prob_vjp_backward(logits, 2, counts, logits), (counts, logits), strict=True
    ):
        assert value.shape == like.shape
    for name in ("subset_sample", "subset_sample_indices"):
        row_k = () if name == "subset_sample_indices" else (None,)
        for samples in (0, 2):
            got = getattr(ops(), name)(logits, k, *row_k, samples, SEED)
            assert torch.equal(got, getattr(CPU, name)(logits, k, *row_k, samples, SEED))


def test_rows_without_items_have_the_empty_subset_alone():
    logits, k = torch.zeros(3, 0), torch.tensor([0, 1, -1])
    log_partition = ops().subset_marginals(logits, 1, k, "contour")[1]
    assert log_partition.tolist() == pytest.approx([0.0, NAN, NAN], nan_ok=True)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "method must be", lambda x: ops().subset_marginals(x, 1, None, "fft")),
        (TypeError, "floating", lambda x: ops().subset_marginals(x.long(), 1, None, "contour")),
        (TypeError, "int64", lambda x: ops().subset_marginals(x, 1, x[:, 0], "contour")),
        (
            ValueError,
            "batch shape",
            lambda x: ops().subset_marginals(x, 1, torch.ones(4, dtype=torch.int64), "contour"),
        ),
        (ValueError, "negative", lambda x: ops().count_log_prob(x, -1)),
        (ValueError, "seed must be", lambda x: ops().subset_sample(x, 1, None, 1, x[0, 0])),
        (ValueError, "at most", lambda x: ops().subset_sample_indices(x, 5, 1, SEED)),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call(torch.zeros(3, 4))
