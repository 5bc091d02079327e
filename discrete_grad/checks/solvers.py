# SPDX-License-Identifier: Apache-2.0
"""Checks of what solvers, targets and losses are given, and of what they return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_grad.checks.kinds import FLOATING, INTEGER, kind_of
from discrete_grad.checks.numbers import count, integer
from discrete_grad.checks.tensors import floating


def instances(name: str, value: Tensor, dims: int, shape: str) -> None:
    """``value`` must be a floating tensor whose last ``dims`` dimensions are one instance each."""
    floating(name, value)
    if value.dim() < dims:
        raise ValueError(f"{name} must have shape {shape}, got {kind_of(value)}")


def edge_list(edges: Any, num_vertices: int | None, *, directed: bool) -> tuple[Tensor, int]:
    """``edges`` [E, 2] of a simple graph as an int64 CPU tensor, and the number of its vertices.

    Reads values on the host.
    """
    table = torch.as_tensor(edges).detach().cpu()
    if table.dtype not in INTEGER:
        raise TypeError(f"edges must hold integers, got dtype {table.dtype}")
    if table.dim() != 2 or table.size(1) != 2 or table.size(0) == 0:
        raise ValueError(f"edges must have shape [E, 2] with E > 0, got {tuple(table.shape)}")
    table = table.to(torch.int64)
    vertices = int(table.max()) + 1
    if num_vertices is not None:
        vertices = count("num_vertices", num_vertices, "None or an int")
    if not bool(((table >= 0) & (table < vertices)).all()):
        raise ValueError(
            f"edges must join vertices from 0 to {vertices - 1}, "
            f"got vertices from {int(table.min())} to {int(table.max())}"
        )
    pairs = table if directed else table.sort(1).values
    _no_edge(table, pairs[:, 0] == pairs[:, 1], "must not join a vertex to itself")
    _, group, sizes = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    _no_edge(table, sizes[group] > 1, "must not repeat an edge")
    return table, vertices


def _no_edge(edges: Tensor, bad: Tensor, must: str) -> None:
    if bool(bad.any()):
        edge = int(bad.nonzero()[0])
        raise ValueError(f"edges {must}, got {tuple(edges[edge].tolist())} as edge {edge}")


def vertex(name: str, value: Any, size: int) -> int:
    """``value`` must be the number of a vertex; from the end where it is negative, as an index."""
    number = integer(name, value)
    if not -size <= number < size:
        raise ValueError(f"{name} must be from {-size} to {size - 1}, got {number}")
    return number % size


def cell(name: str, value: Any) -> tuple[int, int]:
    """``value`` must be a (row, column) pair of ints."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} must be a (row, column) tuple, got {kind_of(value)}")
    return integer(name, value[0]), integer(name, value[1])


def examples(name: str, value: Any) -> None:
    """``value`` must be a floating tensor [batch, *instance]."""
    floating(name, value)
    if value.dim() < 2:
        raise ValueError(
            f"{name} must have shape [batch, *instance], got a tensor of shape {tuple(value.shape)}"
        )


def returned(name: str, value: Any, shape: torch.Size) -> Tensor:
    """What the user's function ``name`` returned must be a tensor of this shape."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must return a torch.Tensor, got {kind_of(value)}")
    if value.shape != shape:
        raise ValueError(
            f"{name} must return a tensor of shape {tuple(shape)}, got shape {tuple(value.shape)}"
        )
    return value


def losses(value: Any, hot: Tensor) -> Tensor:
    """What a loss made of the draws ``hot`` [S, ..., n]: [S, leading dimensions of the batch]."""
    if not isinstance(value, Tensor):
        raise TypeError(f"fn must return a torch.Tensor, got {kind_of(value)}")
    if value.dtype not in FLOATING:
        raise TypeError(f"fn must return losses of a real floating dtype, got {kind_of(value)}")
    allowed = hot.shape[:-1]
    if value.dim() == 0 or value.shape != allowed[: value.dim()]:
        raise ValueError(
            f"fn must return one loss per draw, of shape {tuple(allowed)} or fewer of its trailing "
            f"dimensions, for draws of shape {tuple(hot.shape)}, got shape {tuple(value.shape)}"
        )
    return value


def solutions(value: Any, batch: int) -> Tensor:
    """What a solver returned for ``batch`` instances: a tensor [batch, *solution]."""
    if not isinstance(value, Tensor):
        raise TypeError(f"fn must return a torch.Tensor, got {kind_of(value)}")
    if value.dim() == 0 or value.size(0) != batch:
        raise ValueError(
            f"fn must return one solution for each of the {batch} instances, [{batch}, ...], "
            f"got shape {tuple(value.shape)}"
        )
    return value


def instance(name: str, value: Any, kind: type) -> None:
    """``value`` must be an instance of the class ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {kind_of(value)}")


def exact_type(name: str, value: Any, kind: type) -> None:
    """``value`` must be of the class ``kind`` itself: what a subclass overrides would not run."""
    if type(value) is not kind:
        raise TypeError(
            f"{name} must be of the class {kind.__name__} itself (dg.imle and dg.aimle take any "
            f"target distribution), got {kind_of(value)}"
        )


def function(name: str, value: Any) -> None:
    """``value`` must be callable: a batched MAP solver."""
    if not callable(value):
        raise TypeError(f"{name} must be callable (a batched MAP solver), got {kind_of(value)}")


def process_group(name: str, value: Any) -> str:
    """The name of a process group, "" for None."""
    if value is None:
        return ""
    if isinstance(value, str) and value:
        return value
    group_name = getattr(value, "group_name", None)
    if not isinstance(group_name, str):
        raise TypeError(f"{name} must be None, a process group or its name, got {kind_of(value)}")
    return group_name
