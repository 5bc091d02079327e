# SPDX-License-Identifier: Apache-2.0
"""What a row of logits means: which items are open, which are settled, which rows are invalid.

+inf forces an item in, -inf keeps it out; a row with a NaN, with more than k forced items or with
fewer than k items to choose from has no law, and every output of it is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Rows", "broadcast_k", "classify", "compute_dtype", "mark_invalid", "place"]


class Rows(NamedTuple):
    """Rows of logits after the settled items are taken out.

    Where k' = 0 or k' = L every item is settled, so ``live`` is empty there and the mathematics
    only ever sees rows with 0 < k' < L, or rows with nothing to decide.
    """

    theta: Tensor  # [..., n] the finite logits, 0 elsewhere
    live: Tensor  # [..., n] bool, the items whose fate is open
    forced: Tensor  # [..., n] bool, in every subset: +inf, or one of exactly k' finite items
    taken: Tensor  # [..., n] bool, the finite ones among the forced: they add theta to log Z
    k: Tensor  # [...] int64, how many of the live items are chosen
    live_count: Tensor  # [...] int64, how many items are live
    valid: Tensor  # [...] bool


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the 16-bit types, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def broadcast_k(logits: Tensor, k: int | Tensor) -> Tensor:
    """k as int64 ``[...]``, one for each row."""
    shape = logits.shape[:-1]
    if isinstance(k, Tensor):
        return k.to(device=logits.device, dtype=torch.int64).expand(shape)
    return torch.full(shape, k, dtype=torch.int64, device=logits.device)


def classify(logits: Tensor, k: int | Tensor) -> Rows:
    """Sort the items of each row into forced, excluded and live ones.

    Args:
        logits: ``[..., n]`` floating; 16-bit types are promoted to float32.
        k: int, or integer tensor that broadcasts to ``[...]``.
    """
    logits = logits.to(compute_dtype(logits.dtype))
    total = broadcast_k(logits, k)
    finite = logits.isfinite()
    infinite = logits == torch.inf
    rest = total - infinite.sum(-1)
    count = finite.sum(-1)
    valid = ~logits.isnan().any(-1) & (rest >= 0) & (rest <= count)
    every = finite & (valid & (rest == count)).unsqueeze(-1)
    live = finite & (valid & (rest > 0) & (rest < count)).unsqueeze(-1)
    usable = finite & valid.unsqueeze(-1)
    return Rows(
        theta=torch.where(usable, logits, torch.zeros_like(logits)),
        live=live,
        forced=(infinite & valid.unsqueeze(-1)) | every,
        taken=every,
        k=torch.where(live.any(-1), rest, torch.zeros_like(rest)),
        live_count=live.sum(-1),
        valid=valid,
    )


def place(rows: Rows, live_values: Tensor) -> Tensor:
    """``live_values`` at the live items, 1 at the forced ones, 0 at the excluded ones."""
    return torch.where(rows.live, live_values, rows.forced.to(live_values.dtype))


def mark_invalid(values: Tensor, rows: Rows, logits: Tensor, *, per_item: bool) -> Tensor:
    """NaN in the invalid rows of ``values``, and in their derivatives too; the dtype of ``logits``.

    ``torch.where`` alone would give those rows a gradient of 0, which looks like an answer.
    """
    nan = torch.full((), torch.nan, dtype=values.dtype, device=values.device)
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    valid = rows.valid.unsqueeze(-1)
    poison = torch.where(valid, zero, logits.to(values.dtype)) * torch.where(valid, zero, nan)
    if per_item:
        marked = torch.where(valid, values, nan) + poison
    else:
        marked = torch.where(rows.valid, values, nan) + poison.sum(-1)
    return marked.to(logits.dtype)
