# SPDX-License-Identifier: Apache-2.0
"""Test error and subset precision, at the deterministic choice of the k best words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import discrete_grad as dg
from experiments.learning_to_explain.corpus import PAD, Annotated, Reviews
from experiments.learning_to_explain.model import Explainer, choosable

_BATCH = 100


@torch.no_grad()
def choose(model: Explainer, tokens: Tensor, k: int) -> Tensor:
    """[reviews, length], k-hot: the k best words of each review (of equal ones the first)."""
    parts = (
        dg.subset.mode(choosable(model.logits(part), part, k), k) for part in tokens.split(_BATCH)
    )
    return torch.cat(list(parts))


@torch.no_grad()
def error(model: Explainer, reviews: Reviews, k: int) -> float:
    """100 times the mean squared error of the prediction from the k best words."""
    predicted = model.predict(reviews.tokens, choose(model, reviews.tokens, k), k)
    return 100 * float((predicted - reviews.ratings).square().mean())


@dataclass(frozen=True)
class Precision:
    """Subset precision over all annotated reviews together (micro-average).

    Args:
        hits: chosen words that lie in a rationale.
        choices: the sum over the reviews of max(number of chosen words, k), so a review that is
            shorter than k does not gain by it.
    """

    hits: int
    choices: int

    @property
    def percent(self) -> float:
        return 100 * self.hits / self.choices


def precision(chosen: Tensor, annotated: Annotated, k: int) -> Precision:
    """Of a choice [reviews, length] in the annotated reviews."""
    words = (chosen > 0) & (annotated.tokens != PAD)
    return Precision(
        hits=int((words & annotated.rationale).sum()),
        choices=int(words.sum(1).clamp(min=k).sum()),
    )
