# SPDX-License-Identifier: Apache-2.0
"""All states of small instances, by enumeration: 0/1 tensors [states, *instance]."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Edge = tuple[int, int]


def complete(vertices: int) -> list[Edge]:
    """The edges of K_V, row by row above the diagonal."""
    return list(itertools.combinations(range(vertices), 2))


def is_tree(edges: list[Edge], vertices: int) -> bool:
    """V - 1 edges that connect everything."""
    reached = {0}
    for _ in range(vertices):
        reached |= {v for edge in edges if reached & set(edge) for v in edge}
    return len(edges) == vertices - 1 and len(reached) == vertices


def spanning_trees(edges: list[Edge], vertices: int) -> Tensor:
    """All spanning trees of the graph, [trees, E]."""
    rows = []
    for chosen in itertools.combinations(range(len(edges)), vertices - 1):
        if is_tree([edges[e] for e in chosen], vertices):
            rows.append([float(e in chosen) for e in range(len(edges))])
    return torch.tensor(rows, dtype=torch.float64)


def kruskal(weights: list[float], edges: list[Edge], vertices: int) -> list[float]:
    """The maximum spanning tree that takes equal weights in the order of the list."""
    component = list(range(vertices))
    chosen = [0.0] * len(edges)
    for e in sorted(range(len(edges)), key=lambda e: (-weights[e], e)):
        a, b = (component[v] for v in edges[e])
        if a != b and weights[e] > -float("inf"):
            chosen[e] = 1.0
            component = [a if c == b else c for c in component]
    return chosen


def simple_paths(
    follow: Callable[[int], list[int]], source: int, target: int
) -> Iterator[list[int]]:
    """All simple paths as lists of vertices."""

    def extend(path: list[int]) -> Iterator[list[int]]:
        if path[-1] == target:
            yield path
            return
        for v in follow(path[-1]):
            if v not in path:
                yield from extend([*path, v])

    yield from extend([source])


def grid_paths(height: int, width: int, neighbours: int, source: int, target: int) -> Tensor:
    """All simple paths on a grid as cell indicators, [paths, H, W]."""

    def follow(cell: int) -> list[int]:
        i, j = divmod(cell, width)
        around = itertools.product(range(i - 1, i + 2), range(j - 1, j + 2))
        return [
            a * width + b
            for a, b in around
            if 0 <= a < height
            and 0 <= b < width
            and (a, b) != (i, j)
            and (neighbours == 8 or a == i or b == j)
        ]

    rows = [
        [float(cell in path) for cell in range(height * width)]
        for path in simple_paths(follow, source, target)
    ]
    return torch.tensor(rows, dtype=torch.float64).view(-1, height, width)


def edge_paths(edges: list[Edge], source: int, target: int) -> Tensor:
    """All simple paths of a directed graph as edge indicators, [paths, E]."""

    def follow(vertex: int) -> list[int]:
        return [head for tail, head in edges if tail == vertex]

    rows = []
    for path in simple_paths(follow, source, target):
        steps = set(itertools.pairwise(path))
        rows.append([float(edge in steps) for edge in edges])
    return torch.tensor(rows, dtype=torch.float64).view(-1, len(edges))


def assignments(rows: int, columns: int) -> Tensor:
    """All assignments with min(n, m) pairs, [assignments, n, m]."""
    if rows > columns:
        return assignments(columns, rows).transpose(1, 2)
    states = torch.zeros(0, rows, columns, dtype=torch.float64)
    for chosen in itertools.permutations(range(columns), rows):
        state = torch.zeros(1, rows, columns, dtype=torch.float64)
        state[0, range(rows), chosen] = 1
        states = torch.cat([states, state])
    return states


def objective(states: Tensor, weights: Tensor) -> Tensor:
    """<theta, z> [b, z] for all states [z, ...] and weights [b, ...]; 0 times inf is 0."""
    chosen = torch.where(states.bool(), weights.to(torch.float64).unsqueeze(1), 0.0)
    return chosen.flatten(2).sum(2)


def is_state_of(states: Tensor, result: Tensor) -> Tensor:
    """Whether each result [b, ...] is one of the states [z, ...]: [b]."""
    return (states.unsqueeze(0) == result.unsqueeze(1)).flatten(2).all(2).any(1)
