# SPDX-License-Identifier: Apache-2.0
"""The laws of the two modes from their definitions, subset by subset, in float64."""

from __future__ import annotations

import itertools

import numpy as np


def circuit_logits(scores: np.ndarray) -> np.ndarray:
    """Log-odds of the weights exp(x) in and 1 - exp(-|x|) out."""
    with np.errstate(divide="ignore"):
        return scores - np.log1p(-np.exp(-np.abs(scores)))


def subset_law(logits: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """P(S) of the k-subset law of one row."""
    subsets = list(itertools.combinations(range(len(logits)), k))
    weights = np.exp([logits[list(s)].sum() for s in subsets])
    return dict(zip(subsets, weights / weights.sum(), strict=True))


def plackett_luce(scores: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """P(S) of drawing k items one after another without replacement, with weights exp(x)."""
    weights = np.exp(scores)
    law: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(scores)), k):
        probability, left = 1.0, weights.sum()
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        key = tuple(sorted(order))
        law[key] = law.get(key, 0.0) + probability
    return law


def inclusion(law: dict[tuple[int, ...], float], n: int) -> np.ndarray:
    found = np.zeros(n)
    for chosen, probability in law.items():
        found[list(chosen)] += probability
    return found


def coded(law: dict[tuple[int, ...], float]) -> dict[int, float]:
    """Subsets as the integers of ``stats.subset_codes``."""
    return {sum(1 << i for i in chosen): p for chosen, p in law.items()}
