# SPDX-License-Identifier: Apache-2.0
"""The collectives, in their functional form, over the ranks that hold the items of a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group

from discrete_grad import checks
from discrete_grad.distributed import traffic

__all__ = ["Ranks", "ranks_of"]


@dataclass(frozen=True)
class Ranks:
    """A process group. Its collectives wait on the device, and ``torch.compile`` traces them."""

    name: str
    rank: int
    size: int

    def group(self) -> dist.ProcessGroup:
        """The process group itself."""
        return _resolve_process_group(self.name)  # type: ignore[arg-type]

    def total(self, values: Tensor) -> Tensor:
        """The sum over the ranks, the same bits on each."""
        return self._reduce(values, "sum")

    def largest(self, values: Tensor) -> Tensor:
        """The maximum over the ranks."""
        return self._reduce(values, "max")

    def everyones(self, values: Tensor) -> Tensor:
        """The values of all ranks, stacked in front: ``[size, *values.shape]``."""
        flat = values.contiguous().reshape(1, -1)
        if flat.numel() == 0:
            return values.new_empty([self.size, *values.shape])
        traffic.record("all_gather", flat)
        pending = torch.ops._c10d_functional.all_gather_into_tensor(flat, self.size, self.name)
        return _wait(pending).reshape(self.size, *values.shape)

    def firsts(self, values: Tensor) -> Tensor:
        """The values of the first rank; those of the others only give the shape and dtype."""
        if values.numel() == 0:
            return values
        traffic.record("broadcast", values)
        return _wait(torch.ops._c10d_functional.broadcast(values.contiguous(), 0, self.name))

    def _reduce(self, values: Tensor, how: str) -> Tensor:
        if values.numel() == 0:  # no rows, on any rank
            return values
        traffic.record("all_reduce", values)
        return _wait(torch.ops._c10d_functional.all_reduce(values.contiguous(), how, self.name))


def _wait(pending: Tensor) -> Tensor:
    result: Tensor = torch.ops._c10d_functional.wait_tensor(pending)
    return result


def ranks_of(group: dist.ProcessGroup | str | None) -> Ranks:
    """The ranks of ``group``: a process group, its name, or None for all processes.

    Raises:
        TypeError: ``group`` is none of these.
        RuntimeError, ValueError: there is no such group (PyTorch's own messages).
    """
    world = dist.distributed_c10d._get_default_group() if group is None else group
    name = checks.process_group("group", world)
    found = _resolve_process_group(name) if isinstance(world, str) else world  # type: ignore[arg-type]
    rank = dist.get_rank(found)
    if rank < 0:
        raise ValueError(f"group must have this process among its ranks, got {name!r} without it")
    return Ranks(name, rank, dist.get_world_size(found))
