# SPDX-License-Identifier: Apache-2.0
"""How much the sharded functions send: a counter of collectives and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Traffic", "record", "traffic"]


@dataclass
class Traffic:
    """What this rank has handed to collectives.

    ``bytes`` is the size of the tensors given to them. What then passes over the wires depends on
    the engine's algorithm: a ring sends less than twice the bytes of an all-reduce over W ranks,
    and W - 1 times those of an all-gather.
    """

    bytes: int = 0
    collectives: Counter[str] = field(default_factory=Counter)  # how many of each kind


_open: list[Traffic] = []


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Counts the collectives of ``discrete_grad.distributed`` in this process while it is open.

    Forward and backward passes count alike; what ``torch.compile`` has compiled does not.
    """
    counter = Traffic()
    _open.append(counter)
    try:
        yield counter
    finally:
        del _open[next(i for i, one in enumerate(_open) if one is counter)]


def record(kind: str, values: Tensor) -> None:
    """Adds a collective of ``values`` to the open counters."""
    if torch.compiler.is_compiling():
        return
    for counter in _open:
        counter.bytes += values.numel() * values.element_size()
        counter.collectives[kind] += 1
