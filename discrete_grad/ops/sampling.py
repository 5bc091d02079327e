# SPDX-License-Identifier: Apache-2.0
"""Exact samples, k-hot or as indices, and SIMPLE: samples with the gradient of the marginals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_grad import backends, reference
from discrete_grad.ops import routing
from discrete_grad.ops.marginals import marginals


def sample(logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor) -> Tensor:
    """k-hot [num_samples, ..., n], no gradient; ``seed``: one int64 on the logits' device."""
    if backends.select(logits.device.type) == "reference":
        return routing.call_reference(reference.sample, logits.detach(), k, num_samples, seed)
    bound, row_k = routing.row_counts(logits, k)
    hot: Tensor = torch.ops.discrete_grad.subset_sample.default(
        logits.detach(), bound, row_k, num_samples, seed
    )
    return hot


def sample_indices(logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Tensor:
    """The indices of the same samples, ascending, int64 [num_samples, ..., k]."""
    if backends.select(logits.device.type) == "reference":
        return reference.sample_indices(logits.detach(), k, num_samples, seed)
    indices: Tensor = torch.ops.discrete_grad.subset_sample_indices.default(
        logits.detach(), k, num_samples, seed
    )
    return indices


def simple(logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor) -> Tensor:
    """The samples of ``sample``; their vector-Jacobian product is that of the marginals."""
    if routing.to_reference(logits):
        mu, _ = marginals(logits, k)
        return sample(logits, k, num_samples, seed) + (mu - mu.detach())
    bound, row_k = routing.row_counts(logits, k)
    hot: Tensor = torch.ops.discrete_grad.simple.default(logits, bound, row_k, num_samples, seed)
    return hot


@torch.library.register_fake("discrete_grad::subset_sample")
def _(logits: Tensor, k: int, row_k: Tensor | None, num_samples: int, seed: Tensor) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape])


@torch.library.register_fake("discrete_grad::simple")
def _(logits: Tensor, k: int, row_k: Tensor | None, num_samples: int, seed: Tensor) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape])


@torch.library.register_fake("discrete_grad::subset_sample_indices")
def _(logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape[:-1], k], dtype=torch.int64)


def _vmap_random(
    call: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    size: int,
    logits: tuple[Tensor, int | None],
    row_k: tuple[Tensor | None, int | None],
    seed: tuple[Tensor, int | None],
) -> tuple[Tensor, int]:
    """One draw for each slice, by the ``randomness`` of ``torch.vmap``.

    "different" comes as a seed for each slice: one serves, since a draw depends on its row. "same"
    comes as one seed, and each slice must then draw as it would alone.
    """
    rows = routing.batch_first(logits[0], logits[1], size)
    counts = routing.batch_first(row_k[0], row_k[1], size)
    assert rows is not None
    if seed[1] is not None:
        return call(rows, counts, seed[0].select(seed[1], 0)), 1
    slices = [call(rows[b], None if counts is None else counts[b], seed[0]) for b in range(size)]
    return torch.stack(slices, 1), 1


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
    return _vmap_random(
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
    seed: Tensor,
) -> Any:
    op = torch.ops.discrete_grad.simple.default
    return _vmap_random(
        lambda rows, counts, one_seed: op(rows, k, counts, num_samples, one_seed),
        info.batch_size,
        (logits, in_dims[0]),
        (row_k, in_dims[2]),
        (seed, in_dims[4]),
    )


@torch.library.register_vmap("discrete_grad::subset_sample_indices")
def _(info: Any, in_dims: Any, logits: Tensor, k: int, num_samples: int, seed: Tensor) -> Any:
    op = torch.ops.discrete_grad.subset_sample_indices.default
    return _vmap_random(
        lambda rows, _, one_seed: op(rows, k, num_samples, one_seed),
        info.batch_size,
        (logits, in_dims[0]),
        (None, None),
        (seed, in_dims[3]),
    )


for _device in ("cpu", "cuda"):
    for _op in ("subset_sample", "simple"):
        torch.library.register_autocast(f"discrete_grad::{_op}", _device, torch.float32)
