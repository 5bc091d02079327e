# SPDX-License-Identifier: Apache-2.0
"""The simulated system: random trees, laid out by a force-directed algorithm, frame by frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import discrete_grad as dg

Array = NDArray[np.float64]

_SHORTEST = 0.01  # distances and forces below it count as this long
_STEP = 0.1  # of the larger side of the bounding box
_TREES_AT_ONCE = 1000


def edge_list(vertices: int) -> NDArray[np.int64]:
    """All edges of the complete graph, [V (V - 1) / 2, 2], the smaller vertex first."""
    return np.stack(np.triu_indices(vertices, 1), 1).astype(np.int64)


def random_trees(number: int, vertices: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Adjacency [N, V, V] of maximum spanning trees of independent Gumbel weights on all edges.

    This is the law of perturb-and-MAP at logits 0. It is not uniform over trees.
    """
    import torch

    edges = edge_list(vertices)
    weights = generator.gumbel(size=(number, len(edges)))
    solver = dg.solvers.spanning_tree(edges, num_vertices=vertices, workers=1)
    chosen = solver(torch.from_numpy(weights)).numpy().astype(np.uint8)
    trees = np.zeros((number, vertices, vertices), np.uint8)
    rows, columns = edges.T
    trees[:, rows, columns] = trees[:, columns, rows] = chosen
    return trees


def spring_step(positions: Array, adjacency: NDArray[np.generic]) -> Array:
    """One iteration of the Fruchterman-Reingold algorithm on every graph, then centred and scaled.

    What ``networkx.spring_layout(graph, pos=..., iterations=1)`` (networkx 3.6) does to one graph:
    with k = 1 / sqrt(V), vertex i is pushed from every j by k^2 / d_ij^2 (x_i - x_j) and pulled to
    its neighbours by d_ij / k (x_i - x_j); it moves that way by a tenth of the layout's larger
    side. The result has mean 0, and 1 as its largest absolute coordinate.

    Args:
        positions: [N, V, 2].
        adjacency: 0 or 1, [N, V, V].

    Source:
        Fruchterman, Reingold, "Graph Drawing by Force-Directed Placement", Software: Practice and
        Experience 21(11), 1991.
    """
    k = 1 / np.sqrt(positions.shape[1])
    side = np.ptp(positions, axis=1).max(-1)
    delta = positions[:, :, None] - positions[:, None]
    distance = np.maximum(np.linalg.norm(delta, axis=-1), _SHORTEST)
    strength = k**2 / distance**2 - adjacency * distance / k
    force = np.einsum("nijd,nij->nid", delta, strength)
    length = np.maximum(np.linalg.norm(force, axis=-1, keepdims=True), _SHORTEST)
    moved = positions + _STEP * side[:, None, None] * force / length
    moved -= moved.mean(1, keepdims=True)
    largest = np.abs(moved).max((1, 2), keepdims=True)
    scaled: Array = moved / np.where(largest > 0, largest, 1.0)
    return scaled


def simulate(
    number: int, frames: int, vertices: int, generator: np.random.Generator
) -> tuple[Array, NDArray[np.uint8]]:
    """Layouts over time, [N, frames, 2, V], and their trees, [N, V, V].

    The vertices start at independent N(0, I) positions; these are no frame: the first frame is the
    layout after one step.
    """
    trees = random_trees(number, vertices, generator)
    positions = generator.normal(size=(number, vertices, 2))
    result = np.empty((number, frames, 2, vertices))
    for start in range(0, number, _TREES_AT_ONCE):
        part = slice(start, start + _TREES_AT_ONCE)
        layout = positions[part]
        for frame in range(frames):
            layout = spring_step(layout, trees[part])
            result[part, frame] = layout.swapaxes(1, 2)
    return result, trees
