# SPDX-License-Identifier: Apache-2.0
"""Reviews as the experiment uses them, whether they are read from files or generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD = 0
# 1 and 2 are the start and the unknown word of the published files' vocabulary; neither occurs.
FIRST_WORD = 3


@dataclass(frozen=True)
class Reviews:
    """Reviews of one length, filled up with ``PAD`` on the left.

    Args:
        tokens: int64 [reviews, length], word numbers.
        ratings: float32 [reviews], in [0, 1]: the aspect that is predicted.
    """

    tokens: Tensor
    ratings: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor) -> Reviews:
        return Reviews(self.tokens[rows], self.ratings[rows])

    def to(self, device: torch.device) -> Reviews:
        """The same on ``device``."""
        return Reviews(self.tokens.to(device), self.ratings.to(device))


@dataclass(frozen=True)
class Annotated:
    """Reviews whose rationale is known; they have no part in training.

    Args:
        tokens: int64 [reviews, length], as in ``Reviews``.
        rationale: bool [reviews, length], the words that the rating of the aspect rests on.
    """

    tokens: Tensor
    rationale: Tensor

    def to(self, device: torch.device) -> Annotated:
        """The same on ``device``."""
        return Annotated(self.tokens.to(device), self.rationale.to(device))


@dataclass(frozen=True)
class Corpus:
    """All data of a run.

    Args:
        train: what is trained on.
        heldout: half of it validates, half of it tests; a run's seed says which.
        annotated: for the subset precision.
        embeddings: float32 [words, size]; 0 for ``PAD`` and for words without a known vector.
        words: the word of each number.
    """

    train: Reviews
    heldout: Reviews
    annotated: Annotated
    embeddings: Tensor
    words: list[str]


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """int64 [rows, length]: the first ``length`` numbers of each, with ``PAD`` before them."""
    result = torch.full((len(rows), length), PAD, dtype=torch.int64)
    for target, row in zip(result, rows, strict=True):
        kept = row[:length]
        if kept:
            target[-len(kept) :] = torch.tensor(kept)
    return result


def marked(
    rows: Sequence[Sequence[int]], spans: Sequence[Sequence[tuple[int, int]]], length: int
) -> Tensor:
    """bool [rows, length]: the words in the spans [start, end), where ``padded`` puts them."""
    result = torch.zeros(len(rows), length, dtype=torch.bool)
    for target, row, ranges in zip(result, rows, spans, strict=True):
        shift = length - min(len(row), length)
        for start, end in ranges:
            target[shift + start : shift + end] = True
    return result
