# SPDX-License-Identifier: Apache-2.0
"""Spanning trees of maximum weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from discrete_grad import checks
from discrete_grad.solvers.batched import BatchedSolver, Infeasible, State, Weights

# A call of SciPy's costs as much as some hundred edges. Much larger unions than this gain nothing
# more, and leave the cache.
_EDGES_PER_CALL = 16384

Index = NDArray[np.integer]


class SpanningTree(BatchedSolver):
    """See ``spanning_tree``; this is the one of dense weights."""

    name = "weights"
    instance_dims = 2
    shape = "[..., V, V]"

    def __repr__(self) -> str:
        return f"spanning_tree(workers={self.workers})"

    def check(self, instance: torch.Size) -> None:
        if instance[0] != instance[1]:
            raise ValueError(f"weights must have shape {self.shape}, got V x V = {tuple(instance)}")

    def solve(self, weights: Weights) -> State:
        vertices = weights.shape[-1]
        rows, columns = np.triu_indices(vertices, 1)
        upper, lower = weights[:, rows, columns], weights[:, columns, rows]
        with np.errstate(invalid="ignore"):  # inf - inf, replaced below
            both = upper + lower
        both[np.isneginf(upper) | np.isneginf(lower)] = -np.inf
        chosen = _trees(both, rows, columns, vertices)
        state = np.zeros(weights.shape, np.uint8)
        state[:, rows, columns] = chosen
        state[:, columns, rows] = chosen
        return state


class EdgeListSpanningTree(SpanningTree):
    """See ``spanning_tree``; this is the one of weights along a list of edges."""

    instance_dims = 1
    shape = "[..., E]"

    def __init__(self, edges: Any, num_vertices: int | None, workers: int | None) -> None:
        super().__init__(workers)
        table, self.num_vertices = checks.edge_list(edges, num_vertices, directed=False)
        self._rows, self._columns = (np.ascontiguousarray(end) for end in table.numpy().T)
        connected = np.ones((1, len(table)))
        try:
            _trees(connected, self._rows, self._columns, self.num_vertices)
        except Infeasible:
            raise ValueError(
                f"edges must connect all of the {self.num_vertices} vertices, but do not"
            ) from None

    def __repr__(self) -> str:
        return (
            f"spanning_tree(<{len(self._rows)} edges>, num_vertices={self.num_vertices}, "
            f"workers={self.workers})"
        )

    def check(self, instance: torch.Size) -> None:
        if instance[0] != len(self._rows):
            raise ValueError(
                f"weights must have one entry for each of the {len(self._rows)} edges in the last "
                f"dimension, got {instance[0]}"
            )

    def solve(self, weights: Weights) -> State:
        return _trees(weights, self._rows, self._columns, self.num_vertices)


def _trees(weights: Weights, rows: Index, columns: Index, vertices: int) -> State:
    """The maximum spanning trees of one graph for weights [b, E], as 0/1 [b, E]."""
    state = np.zeros(weights.shape, np.uint8)
    if vertices <= 1:
        return state
    step = max(1, _EDGES_PER_CALL // max(1, weights.shape[1]))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        _union_of_trees(weights[part], rows, columns, vertices, state[part])
    # SciPy was told of the absent edges too: a tree that needs one says that the rest does not
    # connect the vertices. A graph without enough edges has no tree either way.
    cut = (state.astype(bool) & np.isneginf(weights)).any(1) | (state.sum(1) < vertices - 1)
    if cut.any():
        raise Infeasible(
            int(cut.argmax()), "must leave the graph connected (-inf is no edge), got a cut graph"
        )
    return state


def _union_of_trees(
    weights: Weights, rows: Index, columns: Index, vertices: int, state: State
) -> None:
    """All trees of weights [b, E] in one call: the forest of the disjoint union of the graphs.

    Every weight is replaced by its rank among those of its graph, from 1 for the largest, equal
    ones by index: SciPy minimises, takes a weight of 0 for no edge, and leaves ties to its sort.
    The trees depend on the order of the weights alone, so they are the same; and the rank tells
    which edge an entry of SciPy's result is.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    number, edges = weights.shape
    order = (-weights).argsort(1, kind="stable")
    ranks = np.empty(weights.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, edges + 1)[None], 1)
    offsets = np.arange(number)[:, None] * vertices
    ends = (rows + offsets).ravel(), (columns + offsets).ravel()
    size = number * vertices
    forest = minimum_spanning_tree(coo_array((ranks.ravel(), ends), shape=(size, size))).tocoo()
    graphs = forest.row // vertices
    state[graphs, order[graphs, forest.data.astype(np.int64) - 1]] = 1


def spanning_tree(
    edges: Any = None, *, num_vertices: int | None = None, workers: int | None = None
) -> SpanningTree:
    """argmax_z <theta, z> over spanning trees of an undirected graph: weights to 0/1, same shape.

    Without ``edges`` the weights are a matrix, [..., V, V], and so is the tree: its symmetric
    adjacency. <theta, z> then counts both entries of an edge, so the weight of {i, j} is
    theta_ij + theta_ji; a symmetric matrix is the usual case, but noise added to it need not be
    symmetric. The diagonal plays no part. With ``edges`` they are [..., E], one per edge.

    A weight of -inf is no edge (in a matrix, either entry), one of +inf comes before every finite
    one. Any sign and 0 are weights as others. Among equal weights the edge that comes first (in a
    matrix, row by row above the diagonal) is preferred. O(E log E) per instance, by
    ``scipy.sparse.csgraph.minimum_spanning_tree``, called once for many small instances.

    The callable raises a ValueError that names the batch element for a NaN and for a graph that is
    not connected.

    Args:
        edges: integers [E, 2], the two vertices of each edge, none repeated; or None.
        num_vertices: V for ``edges``; None is the largest vertex there plus one.
        workers: number of parts that the batch is cut into, solved at the same time by as many
            threads; None is the number of cores. SciPy lets them run in parallel where graphs are
            large: on two cores, 8 of 200 vertices take half the time.

    Raises:
        ValueError, TypeError: a bad argument, or ``edges`` that do not connect all vertices.
    """
    if edges is not None:
        return EdgeListSpanningTree(edges, num_vertices, workers)
    if num_vertices is not None:
        raise ValueError(
            f"num_vertices must be None without edges (weights [..., V, V] say it), "
            f"got {num_vertices!r}"
        )
    return SpanningTree(workers)
