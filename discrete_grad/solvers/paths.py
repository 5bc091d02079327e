# SPDX-License-Identifier: Apache-2.0
"""Shortest paths, on grids whose cells have costs and on graphs whose edges have costs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from discrete_grad import checks
from discrete_grad.solvers.batched import BatchedSolver, Infeasible, State, Weights

Index = NDArray[np.int64]


class ShortestPath(BatchedSolver):
    """See ``shortest_path``.

    Attributes:
        minimum: lower costs are raised to it; None where negative costs are an error.
    """

    name = "costs"
    # SciPy's Dijkstra keeps other Python threads from running: two threads on two cores took from
    # 1.0 times as long (grids of 32 x 32 and more) to 1.3 times (12 x 12) as one.
    default_workers = 1

    def __init__(self, minimum: float | None, workers: int | None) -> None:
        super().__init__(workers)
        self.minimum = None if minimum is None else checks.finite("minimum", minimum, least=0)

    def solve(self, weights: Weights) -> State:
        if self.minimum is not None:
            return self.paths(np.maximum(weights, self.minimum))
        lowest = weights.reshape(len(weights), -1).min(1)
        if (lowest < 0).any():
            element = int((lowest < 0).argmax())
            raise Infeasible(
                element,
                f"must be at least 0, got {lowest[element]:g} (minimum= raises lower costs to it)",
            )
        return self.paths(weights)

    @abstractmethod
    def paths(self, costs: Weights) -> State:
        """The shortest paths for costs >= 0."""


class GridShortestPath(ShortestPath):
    """See ``shortest_path``; this is the one on grids."""

    instance_dims = 2
    shape = "[..., H, W]"

    def __init__(
        self,
        neighbours: int,
        source: tuple[int, int],
        target: tuple[int, int],
        minimum: float | None,
        workers: int | None,
    ) -> None:
        super().__init__(minimum, workers)
        checks.one_of("neighbours", neighbours, (4, 8))
        self.neighbours = neighbours
        self.source = checks.cell("source", source)
        self.target = checks.cell("target", target)

    def __repr__(self) -> str:
        return (
            f"shortest_path(neighbours={self.neighbours}, source={self.source}, "
            f"target={self.target}, minimum={self.minimum}, workers={self.workers})"
        )

    def check(self, instance: torch.Size) -> None:
        if 0 not in instance:
            self._vertex("source", self.source, instance)
            self._vertex("target", self.target, instance)

    @staticmethod
    def _vertex(name: str, place: tuple[int, int], instance: tuple[int, ...]) -> int:
        row = checks.vertex(f"the row of {name}", place[0], instance[0])
        return row * instance[1] + checks.vertex(f"the column of {name}", place[1], instance[1])

    def paths(self, costs: Weights) -> State:
        source = self._vertex("source", self.source, costs.shape[1:])
        target = self._vertex("target", self.target, costs.shape[1:])
        _, height, width = costs.shape
        tails, heads = _grid(height, width, self.neighbours)
        flat = costs.reshape(len(costs), -1)
        # Entering a cell costs what the cell does; that of the source is common to all paths.
        before = _predecessors(
            flat[:, heads], tails, heads, flat.shape[1], source, target, flat[:, source]
        )
        state = np.zeros(flat.shape, np.uint8)
        every = np.arange(len(flat))
        state[:, source] = 1
        here = np.full(len(flat), target)
        while (here != source).any():
            state[every, here] = 1
            here = np.where(here == source, here, before[every, here])
        return state.reshape(costs.shape)


class GraphShortestPath(ShortestPath):
    """See ``shortest_path``; this is the one on graphs."""

    instance_dims = 1
    shape = "[..., E]"

    def __init__(
        self,
        edges: Any,
        num_vertices: int | None,
        source: int,
        target: int,
        minimum: float | None,
        workers: int | None,
    ) -> None:
        super().__init__(minimum, workers)
        table, self.num_vertices = checks.edge_list(edges, num_vertices, directed=True)
        self.source = checks.vertex("source", source, self.num_vertices)
        self.target = checks.vertex("target", target, self.num_vertices)
        tails, heads = table.numpy().T
        # Sorted by tail, then head: the order of a compressed row matrix, and one to search in.
        self._order = np.lexsort((heads, tails))
        self._tails, self._heads = tails[self._order], heads[self._order]

    def __repr__(self) -> str:
        return (
            f"shortest_path(<{len(self._order)} edges>, num_vertices={self.num_vertices}, "
            f"source={self.source}, target={self.target}, minimum={self.minimum}, "
            f"workers={self.workers})"
        )

    def check(self, instance: torch.Size) -> None:
        if instance[0] != len(self._order):
            raise ValueError(
                f"costs must have one entry for each of the {len(self._order)} edges in the last "
                f"dimension, got {instance[0]}"
            )

    def paths(self, costs: Weights) -> State:
        size = self.num_vertices
        before = _predecessors(
            costs[:, self._order], self._tails, self._heads, size, self.source, self.target
        )
        keys = self._tails * size + self._heads
        state = np.zeros(costs.shape, np.uint8)
        here = np.full(len(costs), self.target)
        while (away := np.flatnonzero(here != self.source)).size:
            tail = before[away, here[away]]
            state[away, self._order[np.searchsorted(keys, tail * size + here[away])]] = 1
            here[away] = tail
        return state


def _grid(height: int, width: int, neighbours: int) -> tuple[Index, Index]:
    """Tails and heads of the directed edges between neighbouring cells, sorted by tail."""
    cells = np.arange(height * width).reshape(height, width)
    padded = np.pad(cells, 1, constant_values=-1)
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    steps = [(i, j) for i, j in steps if abs(i) + abs(j) in ((1,) if neighbours == 4 else (1, 2))]
    around = np.stack(
        [padded[1 + i : 1 + i + height, 1 + j : 1 + j + width] for i, j in steps], axis=-1
    ).reshape(height * width, len(steps))
    tails, side = np.nonzero(around >= 0)
    return tails, around[tails, side]


def _predecessors(
    lengths: Weights,
    tails: Index,
    heads: Index,
    vertices: int,
    source: int,
    target: int,
    start: Weights | float = 0.0,
) -> Index:
    """Which vertex a shortest path from ``source`` comes from, [b, V], for each [b, E] of lengths.

    The edges are sorted by tail; ``start`` is the cost of standing at the source.

    One call per instance: the union of many in one call is faster for small graphs only, and would
    make the choice between equally short paths depend on the other instances.
    """
    # Here, since `import discrete_grad` would take a third longer with it.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    ends = np.searchsorted(tails, np.arange(vertices + 1)).astype(np.int32)
    graph = csr_array(
        (np.zeros(len(heads)), heads.astype(np.int32), ends), shape=(vertices, vertices)
    )
    before = np.empty((len(lengths), vertices), np.int64)
    total = np.empty(len(lengths))
    for element, length in enumerate(lengths):
        graph.data[:] = length
        distance, before[element] = dijkstra(graph, indices=source, return_predecessors=True)
        total[element] = distance[target]
    blocked = ~np.isfinite(total + start)
    if blocked.any():
        raise Infeasible(
            int(blocked.argmax()),
            "must leave a path of finite cost from source to target (+inf blocks), got none",
        )
    return before


def shortest_path(
    edges: Any = None,
    *,
    num_vertices: int | None = None,
    source: Any = None,
    target: Any = None,
    neighbours: int = 8,
    minimum: float | None = None,
    workers: int | None = None,
) -> ShortestPath:
    """argmin_z <c, z> over the paths from source to target: costs to 0/1 of the same shape.

    Without ``edges``, on a grid: the costs [..., H, W] are those of its cells, both ends counted,
    and the state marks the cells of the path. With ``edges``, on that directed graph: the costs
    [..., E] are those of its edges, and the state marks the edges of the path (none where source
    and target are the same).

    **It minimises**: with ``dg.imle`` and ``dg.aimle`` say ``_is_minimization=True``.

    Dijkstra's algorithm needs costs >= 0, which perturbed costs need not be. ``minimum`` raises
    lower ones to it, as published experiments do: a small positive number is wanted, since at 0
    detours are free. Without it a negative cost is an error. A cost of +inf blocks its cell or
    edge. Among equally short paths the choice is SciPy's; it depends on the instance alone.
    O(E log V) per instance, by ``scipy.sparse.csgraph.dijkstra``.

    The callable raises a ValueError that names the batch element for a cost that is NaN, for a
    negative one without ``minimum``, and where no path of finite cost leads to the target.

    Args:
        edges: integers [E, 2], tail and head of each edge, none repeated; or None.
        num_vertices: V for ``edges``; None is the largest vertex there plus one.
        source: where paths start: on a grid a (row, column) tuple, by default (0, 0); on a graph a
            vertex, by default 0. Negative numbers count from the end.
        target: where paths end, as ``source``; by default the last cell or vertex.
        neighbours: a path goes from a cell to 4 neighbours or, with the diagonal ones, to 8; costs
            are those of the cells, whatever the direction.
        minimum: what lower costs are raised to, finite and at least 0; or None.
        workers: number of parts that the batch is cut into, solved by as many threads. None is one:
            SciPy's Dijkstra does not let threads run in parallel.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    if edges is not None:
        checks.one_of("neighbours (for grids only)", neighbours, (8,))
        first, last = 0 if source is None else source, -1 if target is None else target
        return GraphShortestPath(edges, num_vertices, first, last, minimum, workers)
    if num_vertices is not None:
        raise ValueError(
            f"num_vertices must be None without edges (costs [..., H, W] say it), "
            f"got {num_vertices!r}"
        )
    corners = (0, 0) if source is None else source, (-1, -1) if target is None else target
    return GridShortestPath(neighbours, *corners, minimum, workers)
