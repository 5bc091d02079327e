# SPDX-License-Identifier: Apache-2.0
"""Random ops under ``torch.vmap``: what a slice draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from discrete_grad.ops import routing


def vmap_draws(
    call: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    size: int,
    logits: tuple[Tensor, int | None],
    row_k: tuple[Tensor | None, int | None],
    seed: tuple[Tensor, int | None],
) -> tuple[Tensor, int]:
    """One draw [num_samples, ..., n] for each slice, by the ``randomness`` of ``torch.vmap``.

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
