# SPDX-License-Identifier: Apache-2.0
"""torch.library.opcheck of every op on varied inputs: schema, fake kernel, autograd, dynamic shapes
under AOT.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

import discrete_grad  # noqa: F401 - registers the ops
from discrete_grad.ops.library import COMPOSITES

OPS = torch.ops.discrete_grad
INF = float("inf")
SEED = torch.tensor([1234567])
METHODS = ("contour", "linear", "recursion")


def _shapes(dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor, int, torch.Tensor | None]]:
    """id, logits, k, row_k over batch shapes, layouts, masks and sizes."""
    torch.manual_seed(0)
    masked = torch.randn(3, 9, dtype=dtype)
    masked[:, 2], masked[:, 5] = -INF, INF
    yield "vector", torch.randn(7, dtype=dtype), 3, None
    if dtype == torch.float32:  # the kernels are the same template: what may differ is the dtype
        yield "masked", masked, 4, None
        return
    yield "batch", torch.randn(2, 3, 12, dtype=dtype), 5, None
    yield "row-k", torch.randn(4, 8, dtype=dtype), 8, torch.tensor([0, 3, 7, 8])
    yield "masked", masked, 4, None
    yield "strided", torch.randn(6, 20, dtype=dtype)[:, ::2], 4, None
    yield "transposed", torch.randn(10, 4, dtype=dtype).t(), 3, None
    yield "expanded", torch.randn(1, 10, dtype=dtype).expand(4, 10), 3, None
    yield "empty-batch", torch.randn(3, 0, 5, dtype=dtype), 2, None
    yield "no-items", torch.zeros(2, 0, dtype=dtype), 0, None
    yield "long", torch.randn(2, 150, dtype=dtype), 40, None


def _table(dtype: torch.dtype) -> torch.Tensor:
    """A quantile table of the right shape, falling by steps."""
    table = torch.zeros(881, 4, dtype=dtype)
    table[:, 0] = torch.linspace(5, -5, 881)
    return table


def _fixed(op: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Arguments for `op`; floating tensors are made to require a gradient by the test."""
    for dtype in (torch.float64, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for label, logits, k, row_k in _shapes(dtype):
            grad = torch.randn(logits.shape, dtype=dtype)
            other = torch.randn(logits.shape, dtype=dtype)
            per_row = torch.randn(logits.shape[:-1], dtype=dtype)
            tag = f"{name}-{label}"
            if op == "subset_marginals":
                for method in METHODS:
                    yield f"{tag}-{method}", (logits, k, row_k, method)
            elif op == "subset_marginals_vjp":
                for method, (mu, log_z) in itertools.product(
                    METHODS, ((grad, None), (None, per_row), (grad, per_row))
                ):
                    which = "-".join(x for x, t in (("mu", mu), ("logz", log_z)) if t is not None)
                    yield f"{tag}-{method}-{which}", (logits, k, row_k, method, None, mu, log_z)
            elif op == "subset_third_cumulant":
                yield tag, (logits, k, row_k, grad, other)
            elif op == "subset_sample":
                yield tag, (logits, k, row_k, 3, SEED)
            elif op == "simple":
                for method in ("contour", "linear"):
                    yield f"{tag}-{method}", (logits, k, row_k, 3, method, SEED)
            elif op == "subset_sample_indices" and row_k is None:
                yield tag, (logits, k, 3, SEED)
            elif op == "perturbation_noise" and label in ("batch", "masked"):
                for table in (None, _table(dtype)):
                    yield f"{tag}-{table is None}", (5, 9, table, SEED, dtype)
            elif op == "perturbed_topk":
                yield tag, (logits, k, row_k, 3, _table(dtype), 0.7, SEED)
            elif op == "perturbed_topk_indices" and row_k is None:
                yield tag, (logits, k, 3, None, 0.7, SEED)
            elif op == "perturbed_topk_difference":
                grads = torch.randn(2, *logits.shape, dtype=dtype)
                for symmetric, step in ((False, torch.tensor(0.5, dtype=dtype)), (True, per_row)):
                    settings = (step, 0.9, 1.0, 0.9, 1.0, symmetric, SEED)
                    yield f"{tag}-{symmetric}", (logits, grads, k, row_k, None, *settings)
            elif op.startswith("count_log_prob") and row_k is None:
                cotangent = torch.randn(*logits.shape[:-1], k + 1, dtype=dtype)
                extra = {"count_log_prob": (), "count_log_prob_vjp": (cotangent,)}
                yield tag, (logits, k, *extra.get(op, (cotangent, other)))


NAMES = (
    "subset_marginals",
    "subset_marginals_vjp",
    "subset_third_cumulant",
    "subset_sample",
    "subset_sample_indices",
    "simple",
    "count_log_prob",
    "count_log_prob_vjp",
    "count_log_prob_vjp_backward",
    "perturbation_noise",
    "perturbed_topk",
    "perturbed_topk_indices",
    "perturbed_topk_difference",
)
NOT_DIFFERENTIABLE = {
    "subset_sample",
    "subset_sample_indices",
    "perturbation_noise",
    "perturbed_topk",
    "perturbed_topk_indices",
}
LAST_DERIVATIVES = {
    "subset_third_cumulant": "reference",
    "count_log_prob_vjp_backward": "reference",
    "perturbed_topk_difference": "piecewise constant",
}
CASES = [pytest.param(op, args, id=f"{op}-{tag}") for op in NAMES for tag, args in _fixed(op)]


def _sample(args: tuple[object, ...], requires_grad: bool) -> tuple[object, ...]:
    return tuple(
        x.detach().requires_grad_(requires_grad)
        if isinstance(x, torch.Tensor) and x.is_floating_point()
        else x
        for x in args
    )


@pytest.mark.parametrize(("op", "args"), CASES)
def test_opcheck(op, args):
    torch.library.opcheck(getattr(OPS, op).default, _sample(args, False))


GRAD_CASES = [
    pytest.param(op, args, id=f"{op}-{tag}")
    for op in NAMES
    if op not in LAST_DERIVATIVES
    for tag, args in _fixed(op)
    if any(part in tag for part in ("batch", "row-k", "masked", "strided", "no-items"))
    and "float64" in tag
]


@pytest.mark.parametrize(("op", "args"), GRAD_CASES)
def test_opcheck_with_gradients(op, args):
    torch.library.opcheck(getattr(OPS, op).default, _sample(args, True))


def test_every_op_is_checked():
    """No op of the library is missing from the table above, and none is named that does not
    exist.
    """
    registered = {
        name.removeprefix("discrete_grad::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("discrete_grad::")
    }
    assert registered == set(NAMES) | COMPOSITES  # tests/imle checks those
    covered = {param.values[0] for param in CASES}
    assert covered == set(NAMES)


@pytest.mark.parametrize("op", NAMES)
def test_meta_tensors(op):
    """The fake kernel gives shape, dtype and device without values."""
    _, args = next(_fixed(op))
    meta = tuple(x.to("meta") if isinstance(x, torch.Tensor) else x for x in args)
    real, fake = getattr(OPS, op)(*args), getattr(OPS, op)(*meta)
    real, fake = (x if isinstance(x, tuple) else (x,) for x in (real, fake))
    for a, b in zip(real, fake, strict=True):
        assert b.device.type == "meta"
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@pytest.mark.parametrize("op", sorted(LAST_DERIVATIVES))
def test_the_last_derivatives_refuse_another_one(op):
    """They name the way out; a gradient of zero, or none, would be taken for an answer."""
    _, args = next(_fixed(op))
    values = getattr(OPS, op)(*_sample(args, True))
    first = values[0] if isinstance(values, tuple) else values
    with pytest.raises(NotImplementedError, match=LAST_DERIVATIVES[op]):
        first.sum().backward()


@pytest.mark.parametrize("op", sorted(NOT_DIFFERENTIABLE))
def test_samples_carry_no_gradient(op):
    _, args = next(_fixed(op))
    assert not getattr(OPS, op)(*_sample(args, True)).requires_grad
