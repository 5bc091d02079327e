# SPDX-License-Identifier: Apache-2.0
"""Debug mode: whether all ranks make the same call, told by name where they do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from discrete_grad.distributed.ranks import Ranks

__all__ = ["check", "debug"]

VARIABLE = "DISCRETE_GRAD_DISTRIBUTED_DEBUG"
_depth = 0


@contextmanager
def debug() -> Iterator[None]:
    """While it is open, on every rank of the group, each call first compares itself with the
    others: function, dtype, batch shape, k and number of samples.

    It costs a gather of small Python objects and reads tensors of k on the host. The environment
    variable DISCRETE_GRAD_DISTRIBUTED_DEBUG=1 does the same for the whole process. Without it a
    mismatch ends in an error of the collective engine, in a wait until the group's timeout, or in
    wrong numbers.
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def check(ranks: Ranks, function: str, logits: Tensor, k: int | Tensor, **more: object) -> None:
    """Compares the call with those of the other ranks, in debug mode only.

    Raises:
        RuntimeError: ranks differ; the message names in what, and which rank has what.
        ValueError: an int k is larger than the number of items on all ranks.
    """
    if not _depth and os.environ.get(VARIABLE, "0") in ("", "0"):
        return
    mine = {
        "function": f"dg.distributed.{function}",
        "the dtype of logits": str(logits.dtype),
        "the batch shape of logits": tuple(logits.shape[:-1]),
        "k": k.expand(logits.shape[:-1]).tolist() if isinstance(k, Tensor) else k,
        **more,
    }
    everyones: list[tuple[dict[str, object], int] | None] = [None] * ranks.size
    dist.all_gather_object(everyones, (mine, logits.shape[-1]), group=ranks.group())
    calls = [one[0] for one in everyones if one is not None]
    for name in mine:
        values = [call.get(name) for call in calls]
        if any(value != values[0] for value in values):
            told = ", ".join(f"{_short(value)} on rank {r}" for r, value in enumerate(values))
            raise RuntimeError(f"{name} must be the same on all ranks of the group, got {told}")
    n = sum(one[1] for one in everyones if one is not None)
    if isinstance(k, int) and k > n:
        raise ValueError(f"k must be from 0 to n = {n} (the items of all ranks), got {k}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"
