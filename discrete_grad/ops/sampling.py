# SPDX-License-Identifier: Apache-2.0
"""Exact samples, k-hot or as indices, and SIMPLE: samples with the gradient of the marginals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_grad import backends, reference
from discrete_grad.ops import methods, routing, sharding
from discrete_grad.ops.marginals import marginals
from discrete_grad.ops.randomness import vmap_draws


def sample(logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor) -> Tensor:
    """k-hot [num_samples, ..., n], no gradient; ``seed``: one int64 on the logits' device."""
    if backends.select(logits.device.type) == "reference":
        return routing.call_reference(reference.sample, logits.detach(), k, num_samples, seed)
    bound, row_k = routing.row_counts(logits, k)
    hot: Tensor = torch.ops.discrete_grad.subset_sample.default(
        logits.detach(), bound, row_k, num_samples, sharding.placed_seed(logits, seed)
    )
    return hot


def sample_indices(logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Tensor:
    """The indices of the same samples, ascending, int64 [num_samples, ..., k]."""
    if backends.select(logits.device.type) == "reference":
        return reference.sample_indices(logits.detach(), k, num_samples, seed)
    sharding.prepare(logits)
    indices: Tensor = torch.ops.discrete_grad.subset_sample_indices.default(
        logits.detach(), k, num_samples, sharding.placed_seed(logits, seed)
    )
    return indices


def simple(logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor) -> Tensor:
    """The samples of ``sample``; their vector-Jacobian product is that of the marginals."""
    if routing.to_reference(logits):
        mu, _ = marginals(logits, k)
        return sample(logits, k, num_samples, seed) + (mu - mu.detach())
    bound, row_k = routing.row_counts(logits, k)
    method = methods.method_for(logits, bound, row_k)  # of the gradient
    hot: Tensor = torch.ops.discrete_grad.simple.default(
        logits, bound, row_k, num_samples, method, sharding.placed_seed(logits, seed)
    )
    return hot


@torch.library.register_fake("discrete_grad::subset_sample")
def _(logits: Tensor, k: int, row_k: Tensor | None, num_samples: int, seed: Tensor) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape])


@torch.library.register_fake("discrete_grad::simple")
def _(
    logits: Tensor, k: int, row_k: Tensor | None, num_samples: int, method: str, seed: Tensor
) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape])


@torch.library.register_fake("discrete_grad::subset_sample_indices")
def _(logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape[:-1], k], dtype=torch.int64)


@torch.library.register_vmap("discrete_grad::subset_sample")
def _(
    info: Any,
    in_dims: Any,
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    num_samples: int,
    seed: Tensor,
) -> Any:
    op = torch.ops.discrete_grad.subset_sample.default
    return vmap_draws(
        lambda rows, counts, one_seed: op(rows, k, counts, num_samples, one_seed),
        info.batch_size,
        (logits, in_dims[0]),
        (row_k, in_dims[2]),
        (seed, in_dims[4]),
    )


@torch.library.register_vmap("discrete_grad::simple")
def _(
    info: Any,
    in_dims: Any,
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    num_samples: int,
    method: str,
    seed: Tensor,
) -> Any:
    op = torch.ops.discrete_grad.simple.default
    return vmap_draws(
        lambda rows, counts, one_seed: op(rows, k, counts, num_samples, method, one_seed),
        info.batch_size,
        (logits, in_dims[0]),
        (row_k, in_dims[2]),
        (seed, in_dims[5]),
    )


@torch.library.register_vmap("discrete_grad::subset_sample_indices")
def _(info: Any, in_dims: Any, logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Any:
    op = torch.ops.discrete_grad.subset_sample_indices.default
    return vmap_draws(
        lambda rows, _, one_seed: op(rows, k, num_samples, one_seed),
        info.batch_size,
        (logits, in_dims[0]),
        (None, None),
        (seed, in_dims[3]),
    )


for _device in ("cpu", "cuda"):
    for _op in ("subset_sample", "simple"):
        torch.library.register_autocast(f"discrete_grad::{_op}", _device, torch.float32)
