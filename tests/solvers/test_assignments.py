# SPDX-License-Identifier: Apache-2.0
"""matching: against all assignments of small instances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete_grad import solvers
from tests.solvers import brute_force

INF = float("inf")


@pytest.mark.parametrize("shape", [(4, 4), (1, 1), (2, 4), (4, 2), (3, 1)])
def test_best_of_all_assignments(shape: tuple[int, int]) -> None:
    states = brute_force.assignments(*shape)
    scores = torch.randn(60, *shape)
    best = states[brute_force.objective(states, scores).argmax(1)]
    assert torch.equal(solvers.matching()(scores), best.float())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([-INF, -1.0, 0.0, 1.0]), min_size=9, max_size=9),
        min_size=1,
        max_size=4,
    )
)
def test_equal_and_forbidden_pairs(rows: list[list[float]]) -> None:
    """Equally heavy assignments: any of them. One with a forbidden pair is none."""
    scores = torch.tensor(rows).view(-1, 3, 3)
    states = brute_force.assignments(3, 3)
    most = brute_force.objective(states, scores).amax(1)
    if most.isinf().any():
        first = int(most.isinf().nonzero()[0])
        with pytest.raises(ValueError, match=rf"got too few, in batch element {first}$"):
            solvers.matching()(scores)
        return
    result = solvers.matching()(scores)
    assert brute_force.is_state_of(states, result.double()).all()
    assert torch.equal(torch.where(result.bool(), scores, 0.0).double().sum((1, 2)), most)


def test_no_pairs_at_all() -> None:
    assert solvers.matching()(torch.zeros(3, 0, 4)).shape == (3, 0, 4)


def test_infinite_score() -> None:
    scores = torch.zeros(2, 2, 3, 3)
    scores[1, 0, 2, 2] = INF
    expected = r"^scores must be finite or -inf, got \+inf, in batch element \(1, 0\)$"
    with pytest.raises(ValueError, match=expected):
        solvers.matching()(scores)


def test_shape() -> None:
    with pytest.raises(ValueError, match=r"scores must have shape \[\.\.\., n, m\]"):
        solvers.matching()(torch.zeros(3))
