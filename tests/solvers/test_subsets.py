# SPDX-License-Identifier: Apache-2.0
"""topk: exactly k ones on the k largest weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete_grad import solvers


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_k_largest_with_ties_to_the_lowest_index(data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1.0]), min_size=1, max_size=9))
    k = data.draw(st.integers(0, len(weights)))
    first = sorted(range(len(weights)), key=lambda i: (-weights[i], i))[:k]
    expected = [float(i in first) for i in range(len(weights))]
    assert solvers.topk(k)(torch.tensor(weights)).tolist() == expected


def test_row_without_a_subset_is_nan_alone() -> None:
    weights = torch.zeros(4, 3)
    weights[1, 0] = torch.nan
    weights[2, 1:] = -torch.inf
    invalid = solvers.topk(2)(weights).isnan()
    assert invalid.tolist() == [[False] * 3, [True] * 3, [True] * 3, [False] * 3]


def test_bad_count() -> None:
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        solvers.topk(-1)
    with pytest.raises(TypeError, match=r"k must be an int, got float 2\.0"):
        solvers.topk(2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be from 0 to n = 3"):
        solvers.topk(4)(torch.zeros(2, 3))


def test_settings_are_shown() -> None:
    assert solvers.topk(5).k == 5
    assert repr(solvers.topk(5)) == "topk(5)"
