# SPDX-License-Identifier: Apache-2.0
"""The law of the number of successes (Poisson-binomial)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_grad import reference
from discrete_grad.ops import routing, sharding


def count_log_prob(logits: Tensor, max_count: int) -> Tensor:
    """log P(sum_i X_i = j) for j = 0 .. max_count, [..., max_count + 1]."""
    if routing.to_reference(logits):
        return routing.call_reference(reference.count_log_prob, logits, max_count)
    sharding.prepare(logits)
    result: Tensor = torch.ops.discrete_grad.count_log_prob.default(logits, max_count)
    return result


@torch.library.register_fake("discrete_grad::count_log_prob")
def _(logits: Tensor, max_count: int) -> Tensor:
    return logits.new_empty([*logits.shape[:-1], max_count + 1])


@torch.library.register_fake("discrete_grad::count_log_prob_vjp")
def _(logits: Tensor, max_count: int, grad: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.register_fake("discrete_grad::count_log_prob_vjp_backward")
def _(logits: Tensor, max_count: int, grad: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_empty([*logits.shape[:-1], max_count + 1]), logits.new_empty(logits.shape)


@torch.library.register_vmap("discrete_grad::count_log_prob")
def _(info: Any, in_dims: Any, logits: Tensor, max_count: int) -> Any:
    rows = routing.batch_first(logits, in_dims[0], info.batch_size)
    return torch.ops.discrete_grad.count_log_prob.default(rows, max_count), 0


@torch.library.register_vmap("discrete_grad::count_log_prob_vjp")
def _(info: Any, in_dims: Any, logits: Tensor, max_count: int, grad: Tensor) -> Any:
    rows = routing.batch_first(logits, in_dims[0], info.batch_size)
    upstream = routing.batch_first(grad, in_dims[2], info.batch_size)
    return torch.ops.discrete_grad.count_log_prob_vjp.default(rows, max_count, upstream), 0


@torch.library.register_vmap("discrete_grad::count_log_prob_vjp_backward")
def _(
    info: Any, in_dims: Any, logits: Tensor, max_count: int, grad: Tensor, tangent: Tensor
) -> Any:
    rows, upstream, direction = (
        routing.batch_first(tensor, in_dims[at], info.batch_size)
        for at, tensor in ((0, logits), (2, grad), (3, tangent))
    )
    outputs = torch.ops.discrete_grad.count_log_prob_vjp_backward.default(
        rows, max_count, upstream, direction
    )
    return outputs, (0, 0)


for _device in ("cpu", "cuda"):
    torch.library.register_autocast("discrete_grad::count_log_prob", _device, torch.float32)
