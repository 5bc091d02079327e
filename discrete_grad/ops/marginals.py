# SPDX-License-Identifier: Apache-2.0
"""Marginals, log-partition, and the covariance product (the derivative of the marginals)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_grad import reference
from discrete_grad.ops import methods, routing, sharding

# Numbers saved per row by the contour: s, M and two for each node that may be kept.
_STATE_WIDTH = {torch.float32: 2 + 2 * 11, torch.float64: 2 + 2 * 22}


def marginals(logits: Tensor, k: int | Tensor, method: str = "auto") -> tuple[Tensor, Tensor]:
    """Inclusion probabilities [..., n] and log-partition [...]."""
    if routing.to_reference(logits):
        named = "contour" if method == "auto" else method
        return routing.call_reference(reference.marginals, logits, k, named)
    bound, row_k = routing.row_counts(logits, k)
    if method == "auto":
        method = methods.method_for(logits, bound, row_k)
    mu, log_partition, _ = torch.ops.discrete_grad.subset_marginals.default(
        logits, bound, row_k, method
    )
    return mu, log_partition


def vjp(logits: Tensor, k: int | Tensor, grad: Tensor) -> Tensor:
    """Cov(z) grad, [..., n]: the marginals' vector-Jacobian product, itself differentiable."""
    if routing.to_reference(logits):
        return routing.call_reference(reference.vjp, logits, k, grad)
    bound, row_k = routing.row_counts(logits, k)
    method = methods.method_for(logits, bound, row_k)
    product: Tensor = torch.ops.discrete_grad.subset_marginals_vjp.default(
        logits, bound, row_k, method, None, sharding.placed(logits, grad), None
    )
    return product


@torch.library.register_fake("discrete_grad::subset_marginals")
def _(logits: Tensor, k: int, row_k: Tensor | None, method: str) -> tuple[Tensor, Tensor, Tensor]:
    compute = routing.compute_dtype(logits.dtype)
    width = _STATE_WIDTH[compute] if method == "contour" else 0
    batch = logits.shape[:-1]
    return (
        logits.new_empty(logits.shape),
        logits.new_empty(batch),
        logits.new_empty([*batch, width], dtype=compute),
    )


@torch.library.register_fake("discrete_grad::subset_marginals_vjp")
def _(
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    method: str,
    state: Tensor | None,
    grad_marginals: Tensor | None,
    grad_log_partition: Tensor | None,
) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.register_fake("discrete_grad::subset_third_cumulant")
def _(logits: Tensor, k: int, row_k: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


def _batched(info: Any, in_dims: Any, *args: Any) -> list[Any]:
    """Arguments with the mapped dimension first in every tensor."""
    return [
        routing.batch_first(arg, dim, info.batch_size) if isinstance(arg, Tensor) else arg
        for arg, dim in zip(args, in_dims, strict=True)
    ]


@torch.library.register_vmap("discrete_grad::subset_marginals")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    outputs = torch.ops.discrete_grad.subset_marginals.default(*_batched(info, in_dims, *args))
    return outputs, (0, 0, 0)


@torch.library.register_vmap("discrete_grad::subset_marginals_vjp")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    return torch.ops.discrete_grad.subset_marginals_vjp.default(*_batched(info, in_dims, *args)), 0


@torch.library.register_vmap("discrete_grad::subset_third_cumulant")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    return torch.ops.discrete_grad.subset_third_cumulant.default(*_batched(info, in_dims, *args)), 0


for _device in ("cpu", "cuda"):
    torch.library.register_autocast("discrete_grad::subset_marginals", _device, torch.float32)
    torch.library.register_autocast("discrete_grad::subset_marginals_vjp", _device, torch.float32)
