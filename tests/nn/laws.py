# SPDX-License-Identifier: Apache-2.0
"""Small k-subset laws by enumeration, and modules made to draw a given subset."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from discrete_grad.nn import choice


def subsets(n: int, k: int) -> list[Tensor]:
    """All of them, as ascending indices."""
    return [torch.tensor(items) for items in itertools.combinations(range(n), k)]


def probabilities(logits: Tensor, k: int) -> Tensor:
    """Of every subset [C(n, k)], from one row of logits [n]; differentiable."""
    return torch.stack([logits[items].sum() for items in subsets(logits.size(-1), k)]).softmax(0)


def inclusion(logits: Tensor, k: int) -> Tensor:
    """The marginals [n] of one row."""
    hot = torch.stack(
        [torch.zeros_like(logits).index_fill(0, s, 1.0) for s in subsets(logits.size(-1), k)]
    )
    return probabilities(logits, k) @ hot


def every_draw(
    monkeypatch: pytest.MonkeyPatch, rows: int, n: int, k: int
) -> Iterator[tuple[int, Tensor]]:
    """Makes the indexed draws return each subset in turn, the same in all rows."""
    for number, items in enumerate(subsets(n, k)):
        hits: list[Tensor] = []

        def forced(
            logits: Tensor, size: int, draws: int, seed: Tensor, items=items, hits=hits
        ) -> Tensor:
            assert size == k
            hits.append(seed)
            return items.expand(draws, *logits.shape[:-1], k)

        with monkeypatch.context() as patch:
            patch.setattr(choice.ops, "sample_indices", forced)
            yield number, items
        assert hits, "the module did not draw by sample_indices"


def expected_gradient(
    monkeypatch: pytest.MonkeyPatch,
    theta: Tensor,
    k: int,
    loss: Callable[[Tensor], Tensor],
) -> Tensor:
    """E over the draws of dloss/dtheta, by all subsets of the one row theta [n]."""
    law = probabilities(theta.detach(), k)
    total = torch.zeros_like(theta)
    for number, _ in every_draw(monkeypatch, 1, theta.size(-1), k):
        (slope,) = torch.autograd.grad(loss(theta), theta)
        total += law[number] * slope
    return total
