# SPDX-License-Identifier: Apache-2.0
"""What a call is given and gives back: plain tensors of this rank's items, or DTensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from discrete_grad import checks
from discrete_grad.distributed.ranks import Ranks, ranks_of
from discrete_grad.ops import sharding

__all__ = ["Layout", "open_call"]


@dataclass(frozen=True)
class _Sharded:
    """The mesh of DTensor logits whose last dimension is sharded over one mesh dimension."""

    mesh: DeviceMesh
    items: tuple[Placement, ...]  # of tensors [..., n]
    rows: tuple[Placement, ...]  # of tensors [...]
    shape: torch.Size  # of the logits


@dataclass(frozen=True)
class Layout:
    """The ranks that share the rows, and how results are wrapped for the caller."""

    ranks: Ranks
    sharded: _Sharded | None = None
    logits: DTensor | None = None

    def of_items(self, local: Tensor, *, draws: bool = False) -> Tensor:
        """A result ``[..., n_r]``, with ``draws`` ``[S, ..., n_r]``, as the caller gets it."""
        if self.sharded is None:
            return local
        shape = [*local.shape[:1], *self.sharded.shape] if draws else self.sharded.shape
        placements = _behind(self.sharded.items, int(draws))
        return _from_local(local, self.sharded.mesh, placements, torch.Size(shape))

    def of_rows(self, local: Tensor, leading: torch.Size = torch.Size([])) -> Tensor:  # noqa: B008
        """A result ``[*leading, ...]``, the same on all ranks of the row, as the caller gets it."""
        if self.sharded is None:
            return local
        placements = _behind(self.sharded.rows, len(leading))
        shape = torch.Size([*leading, *self.sharded.shape[:-1]])
        return _from_local(local, self.sharded.mesh, placements, shape)

    def seed(self, seed: Tensor) -> Tensor:
        """The seed of these rows: every part of a sharded batch has its own."""
        return seed if self.logits is None else sharding.local_seed(self.logits, seed)

    def subset(self, value: Tensor) -> tuple[Tensor, torch.Size]:
        """The local part of a k-hot ``[*leading, ..., n]``, and its leading dimensions."""
        if self.sharded is None:
            return value, torch.Size([])
        leading = value.dim() - len(self.sharded.shape)
        if not isinstance(value, DTensor) or value.device_mesh != self.sharded.mesh:
            raise TypeError(
                "subset must be a DTensor on the mesh of logits, as logits is a DTensor"
            )
        if leading < 0 or value.shape[leading:] != self.sharded.shape:
            raise ValueError(
                f"subset must have the shape of logits, {tuple(self.sharded.shape)}, behind any "
                f"leading dimensions, got {tuple(value.shape)}"
            )
        placed = value.redistribute(placements=_behind(self.sharded.items, leading))
        return placed.to_local(), value.shape[:leading]


def _behind(placements: tuple[Placement, ...], leading: int) -> tuple[Placement, ...]:
    """The placements of a tensor with so many dimensions more in front."""
    return tuple(Shard(p.dim + leading) if isinstance(p, Shard) else p for p in placements)


def _from_local(
    local: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...], shape: torch.Size
) -> Tensor:
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        local.contiguous(), mesh, placements, run_check=False, shape=shape, stride=stride
    )


def open_call(
    logits: Tensor, k: int | Tensor, group: dist.ProcessGroup | str | None
) -> tuple[Layout, Tensor, int | Tensor]:
    """The layout of a call, and the logits and k of this rank.

    Raises:
        TypeError, ValueError: a bad argument, named in the message.
    """
    checks.floating("logits", logits)
    if not isinstance(k, Tensor):
        k = checks.count("k", k, "an int or an integer tensor")
    if not isinstance(logits, DTensor):
        if isinstance(k, Tensor):
            k = checks.row_counts(k, logits)
        return Layout(ranks_of(group)), logits, k
    if group is not None:
        raise ValueError("group must be None for a DTensor, whose mesh names the ranks")
    k = checks.row_counts(k, logits)
    sharded, mesh_dim = _sharding(logits)
    local = logits.to_local(grad_placements=sharded.items)
    ranks = ranks_of(sharded.mesh.get_group(mesh_dim))
    return Layout(ranks, sharded, logits), local, _local_counts(k, sharded)


def _sharding(logits: DTensor) -> tuple[_Sharded, int]:
    last = logits.dim() - 1
    over_items = []
    for mesh_dim, placement in enumerate(logits.placements):
        if type(placement) is Shard and placement.dim % logits.dim() == last:
            over_items.append(mesh_dim)
        elif type(placement) not in (Shard, Replicate):
            raise ValueError(f"logits must be placed by Shard and Replicate, got {placement}")
    if len(over_items) != 1:
        raise ValueError(
            "logits must have the items (the last dimension) sharded over exactly one mesh "
            f"dimension, got placements {logits.placements}; for rows that are whole on a rank use "
            "dg.subset and dg.simple"
        )
    items = tuple(
        Shard(p.dim % logits.dim()) if isinstance(p, Shard) else p for p in logits.placements
    )
    rows = tuple(Replicate() if m in over_items else p for m, p in enumerate(items))
    return _Sharded(logits.device_mesh, items, rows, logits.shape), over_items[0]


def _local_counts(k: int | Tensor, sharded: _Sharded) -> int | Tensor:
    """k of this rank's rows. A plain tensor is that of the whole batch, on every rank."""
    if not isinstance(k, Tensor):
        return k
    if not isinstance(k, DTensor):
        whole = (Replicate(),) * sharded.mesh.ndim
        k = DTensor.from_local(k, sharded.mesh, whole, run_check=False)
    rows = cast(DTensor, k.expand(sharded.shape[:-1]))
    return rows.redistribute(placements=sharded.rows).to_local()
