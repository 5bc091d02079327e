# SPDX-License-Identifier: Apache-2.0
"""spanning_tree: against all trees of small graphs, and Kruskal's rule where weights are equal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from discrete_grad import solvers
from tests.solvers import brute_force

INF = float("inf")


@pytest.mark.parametrize(("vertices", "trees"), [(2, 1), (3, 3), (4, 16), (5, 125)])
def test_best_of_all_trees_of_a_complete_graph(vertices: int, trees: int) -> None:
    edges = brute_force.complete(vertices)
    states = brute_force.spanning_trees(edges, vertices)
    assert len(states) == trees  # Cayley: V^(V-2)
    weights = torch.randn(50, len(edges))
    result = solvers.spanning_tree(edges)(weights)
    best = states[brute_force.objective(states, weights).argmax(1)]
    assert torch.equal(result, best.float())


def adjacency(values: Tensor, vertices: int) -> Tensor:
    """Symmetric matrices [b, V, V] of edge values [b, E] of K_V."""
    matrix = torch.zeros(len(values), vertices, vertices, dtype=values.dtype)
    rows, columns = torch.triu_indices(vertices, vertices, 1)
    matrix[:, rows, columns] = values
    return matrix + matrix.transpose(1, 2)


def test_dense_weights_give_the_symmetric_adjacency() -> None:
    weights = torch.randn(20, 10)
    dense = solvers.spanning_tree()(adjacency(weights, 5))
    along_edges = solvers.spanning_tree(brute_force.complete(5))(weights)
    assert torch.equal(dense, adjacency(along_edges, 5))


def test_asymmetric_weights_maximise_the_inner_product_over_symmetric_trees() -> None:
    states = adjacency(brute_force.spanning_trees(brute_force.complete(4), 4), 4)
    weights = torch.randn(50, 4, 4)
    result = solvers.spanning_tree()(weights)
    best = states[brute_force.objective(states, weights).argmax(1)]
    assert torch.equal(result, best.float())


def test_diagonal_plays_no_part() -> None:
    weights = torch.randn(8, 5, 5)
    with_diagonal = weights + torch.diag(torch.tensor([INF, -INF, 1e9, 0.0, -1e9]))
    solve = solvers.spanning_tree()
    assert torch.equal(solve(weights), solve(with_diagonal))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[brute_force.Edge], list[list[float]]]:
    vertices = draw(st.integers(2, 7))
    edges = brute_force.complete(vertices)
    edges = draw(st.permutations(edges))
    edges = [edge if draw(st.booleans()) else edge[::-1] for edge in edges]
    values = st.sampled_from([-INF, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, INF])
    weights = draw(
        st.lists(st.lists(values, min_size=len(edges), max_size=len(edges)), min_size=1, max_size=4)
    )
    return vertices, edges, weights


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_equal_zero_negative_and_infinite_weights(
    graph: tuple[int, list[brute_force.Edge], list[list[float]]],
) -> None:
    vertices, edges, weights = graph
    solve = solvers.spanning_tree(edges)
    expected = [brute_force.kruskal(row, edges, vertices) for row in weights]
    cut = [i for i, row in enumerate(expected) if sum(row) < vertices - 1]
    if cut:
        with pytest.raises(ValueError, match=rf"connected.*in batch element {cut[0]}$"):
            solve(torch.tensor(weights))
    else:
        assert solve(torch.tensor(weights)).tolist() == expected


def test_sparse_graph() -> None:
    """A cycle with a chord and a tail: fewer edges than K_V."""
    edges = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (3, 4)]
    states = brute_force.spanning_trees(edges, 5)
    weights = torch.randn(30, 6, dtype=torch.float64)
    best = states[brute_force.objective(states, weights).argmax(1)]
    assert torch.equal(solvers.spanning_tree(torch.tensor(edges))(weights), best)


def test_many_instances_over_several_calls() -> None:
    """More edges than one union takes: 40 graphs of 780 edges."""
    weights = torch.randn(40, 40, 40)
    solve = solvers.spanning_tree(workers=1)
    each = torch.stack([solve(one) for one in weights])
    assert torch.equal(solve(weights), each)
    assert torch.equal(each.sum((1, 2)), torch.full((40,), 2.0 * 39))


def test_single_vertex_has_the_empty_tree() -> None:
    assert torch.equal(solvers.spanning_tree()(torch.ones(3, 1, 1)), torch.zeros(3, 1, 1))


def test_disconnected_matrix_names_the_batch_element() -> None:
    weights = torch.zeros(2, 3, 4, 4)
    weights[1, 1, :2, 2:] = -INF  # one direction is enough
    with pytest.raises(ValueError, match=r"^weights must leave .* in batch element \(1, 1\)$"):
        solvers.spanning_tree()(weights)


def test_disconnected_single_instance() -> None:
    with pytest.raises(ValueError, match=r"in the only instance$"):
        solvers.spanning_tree()(torch.full((2, 2), -INF))


def test_opposite_infinities_are_no_edge() -> None:
    weights = torch.tensor([[[0.0, INF, 1.0], [-INF, 0.0, 1.0], [1.0, 1.0, 0.0]]])
    tree = solvers.spanning_tree()(weights)
    assert tree.tolist() == [[[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]]
    with pytest.raises(ValueError, match="must leave the graph connected"):
        solvers.spanning_tree()(torch.tensor([[0.0, INF], [-INF, 0.0]]))


@pytest.mark.parametrize(
    ("edges", "num_vertices", "message"),
    [
        ([(0, 1), (2, 3)], None, "edges must connect all of the 4 vertices"),
        ([(0, 1)], 3, "edges must connect all of the 3 vertices"),
        ([(0, 1), (1, 0)], None, r"edges must not repeat an edge, got \(0, 1\) as edge 0"),
        ([(0, 1), (1, 1)], None, r"edges must not join a vertex to itself, got \(1, 1\) as edge 1"),
        ([(0, 2)], 2, "edges must join vertices from 0 to 1, got vertices from 0 to 2"),
        ([(-1, 0)], None, "edges must join vertices from 0 to 0, got vertices from -1 to 0"),
        ([0, 1], None, r"edges must have shape \[E, 2\]"),
        (torch.zeros(0, 2, dtype=torch.int64), None, r"edges must have shape \[E, 2\] with E > 0"),
        (None, 4, "num_vertices must be None without edges"),
    ],
)
def test_bad_graph(edges: object, num_vertices: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solvers.spanning_tree(edges, num_vertices=num_vertices)


def test_edges_must_be_integers() -> None:
    with pytest.raises(TypeError, match=r"edges must hold integers, got dtype torch\.float32"):
        solvers.spanning_tree([(0.0, 1.0)])


def test_shapes() -> None:
    with pytest.raises(ValueError, match=r"weights must have shape \[\.\.\., V, V\].*\(2, 3\)"):
        solvers.spanning_tree()(torch.zeros(4, 2, 3))
    with pytest.raises(ValueError, match="each of the 2 edges in the last dimension, got 3"):
        solvers.spanning_tree([(0, 1), (1, 2)])(torch.zeros(4, 3))
