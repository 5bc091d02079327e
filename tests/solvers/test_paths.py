# SPDX-License-Identifier: Apache-2.0
"""shortest_path: against all simple paths of small grids and graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete_grad import solvers
from tests.solvers import brute_force

INF = float("inf")


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize(
    ("shape", "source", "target"),
    [
        ((3, 3), (0, 0), (2, 2)),
        ((3, 3), (1, 1), (0, 2)),
        ((2, 4), (1, 3), (0, 0)),
        ((1, 5), (0, 0), (0, 4)),
        ((1, 1), (0, 0), (0, 0)),
        ((3, 2), (2, 0), (2, 0)),
    ],
)
def test_best_of_all_paths_on_a_grid(
    neighbours: int, shape: tuple[int, int], source: tuple[int, int], target: tuple[int, int]
) -> None:
    ends = (cell[0] * shape[1] + cell[1] for cell in (source, target))
    states = brute_force.grid_paths(*shape, neighbours, *ends)
    costs = torch.rand(60, *shape).square()
    result = solvers.shortest_path(neighbours=neighbours, source=source, target=target)(costs)
    best = states[brute_force.objective(states, costs).argmin(1)]
    assert torch.equal(result, best.float())


def test_number_of_paths() -> None:
    """The enumeration itself: self-avoiding walks between opposite corners of 3 x 3."""
    assert len(brute_force.grid_paths(3, 3, 4, 0, 8)) == 12
    assert len(brute_force.grid_paths(3, 3, 8, 0, 8)) == 235


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, INF]), min_size=9, max_size=9),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([4, 8]),
)
def test_equal_zero_and_infinite_costs(rows: list[list[float]], neighbours: int) -> None:
    """Equally short paths: any of them. A path of infinite cost is none."""
    costs = torch.tensor(rows).view(-1, 3, 3)
    states = brute_force.grid_paths(3, 3, neighbours, 0, 8)
    least = brute_force.objective(states, costs).amin(1)
    solve = solvers.shortest_path(neighbours=neighbours)
    if least.isinf().any():
        first = int(least.isinf().nonzero()[0])
        with pytest.raises(ValueError, match=rf"path of finite cost.*in batch element {first}$"):
            solve(costs)
        return
    result = solve(costs)
    assert brute_force.is_state_of(states, result.double()).all()
    assert torch.equal(torch.where(result.bool(), costs, 0.0).double().sum((1, 2)), least)


def test_both_ends_are_on_the_path() -> None:
    result = solvers.shortest_path()(torch.rand(10, 6, 7))
    assert (result[:, 0, 0] == 1).all()
    assert (result[:, -1, -1] == 1).all()


EDGES = [(3, 1), (0, 1), (1, 2), (0, 2), (2, 3), (1, 3), (2, 1), (0, 3), (3, 0), (4, 0), (2, 4)]


@pytest.mark.parametrize(("source", "target"), [(0, 3), (0, 4), (-1, 3), (2, 1), (1, 1)])
def test_best_of_all_paths_on_a_graph(source: int, target: int) -> None:
    states = brute_force.edge_paths(EDGES, source % 5, target)
    costs = torch.rand(60, len(EDGES), dtype=torch.float64).square()
    result = solvers.shortest_path(EDGES, source=source, target=target)(costs)
    best = states[brute_force.objective(states, costs).argmin(1)]
    assert torch.equal(result, best)
    assert len(states) > 1 or source == target


def test_default_ends_of_a_graph() -> None:
    costs = torch.rand(5, len(EDGES))
    default = solvers.shortest_path(EDGES)(costs)
    assert torch.equal(default, solvers.shortest_path(EDGES, source=0, target=4)(costs))


def test_blocked_edge_of_a_graph() -> None:
    costs = torch.ones(3, 3)
    costs[1, 2] = INF  # the detour is taken
    solve = solvers.shortest_path([(0, 1), (1, 2), (0, 2)])
    assert solve(costs).tolist() == [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    costs[2, 1:] = INF
    with pytest.raises(ValueError, match=r"got none, in batch element 2$"):
        solve(costs)


def test_target_that_no_edge_reaches() -> None:
    solve = solvers.shortest_path([(0, 1), (1, 0)], num_vertices=3)
    with pytest.raises(ValueError, match=r"in batch element 0$"):
        solve(torch.ones(2, 2))


def test_negative_costs_are_an_error_that_names_the_remedy() -> None:
    costs = torch.ones(3, 4, 4)
    costs[2, 1, 1] = -0.25
    expected = r"^costs must be at least 0, got -0\.25 \(minimum= .*\), in batch element 2$"
    with pytest.raises(ValueError, match=expected):
        solvers.shortest_path()(costs)


@pytest.mark.parametrize("minimum", [0.5, 1])
def test_minimum_raises_lower_costs(minimum: float) -> None:
    costs = torch.randn(20, 5, 5) * 3
    costs[0, 2, 2] = -INF
    with_minimum = solvers.shortest_path(minimum=minimum)(costs)
    assert torch.equal(with_minimum, solvers.shortest_path()(costs.clamp(min=minimum)))


def test_blocked_start() -> None:
    costs = torch.ones(2, 3, 3)
    costs[1, 0, 0] = INF
    with pytest.raises(ValueError, match=r"in batch element 1$"):
        solvers.shortest_path()(costs)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"neighbours": 6}, ValueError, "neighbours must be one of 4, 8, got 6"),
        ({"source": 3}, TypeError, r"source must be a \(row, column\) tuple, got int 3"),
        ({"target": (1, 2.0)}, TypeError, "target must be an int, got float 2.0"),
        ({"minimum": -1.0}, ValueError, "minimum must be"),
        ({"minimum": "0"}, TypeError, "minimum must be a float"),
        ({"num_vertices": 4}, ValueError, "num_vertices must be None without edges"),
        ({"edges": EDGES, "source": 5}, ValueError, "source must be from -5 to 4, got 5"),
        ({"edges": EDGES, "target": (0, 0)}, TypeError, "target must be an int, got tuple"),
        ({"edges": EDGES, "neighbours": 4}, ValueError, "neighbours .for grids only."),
        ({"edges": [(0, 1), (0, 1)]}, ValueError, "edges must not repeat an edge"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"workers": 1.5}, TypeError, "workers must be an int, got float 1.5"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solvers.shortest_path(**arguments)


def test_both_directions_of_an_edge_are_two_edges() -> None:
    result = solvers.shortest_path([(0, 1), (1, 0)])(torch.ones(1, 2))
    assert result.tolist() == [[1.0, 0.0]]


def test_ends_outside_the_grid() -> None:
    with pytest.raises(ValueError, match="the column of target must be from -3 to 2, got 3"):
        solvers.shortest_path(target=(0, 3))(torch.ones(1, 3, 3))


def test_shapes() -> None:
    with pytest.raises(ValueError, match=r"costs must have shape \[\.\.\., H, W\]"):
        solvers.shortest_path()(torch.ones(9))
    with pytest.raises(ValueError, match="each of the 11 edges in the last dimension, got 10"):
        solvers.shortest_path(EDGES)(torch.ones(2, 10))
