# SPDX-License-Identifier: Apache-2.0
"""Generated reviews with planted rationales: what is right is known, and nothing is downloaded.

A review speaks of four aspects and rates each.

- *Ratings.* Sentiments s_a = clip(0.45 (sqrt(rho) o + sqrt(1 - rho) e_a), -1, 1) of standard normal
  o and e_a: an overall opinion correlates the aspects (rho = 0.5). The rating of aspect a is
  clip((1 + s_a) / 2 + 0.08 noise, 0, 1).
- *Words.* Each aspect has its own sentiment words, of polarities from -1 to 1 in equal steps; the
  other words are filler, of frequencies 1 / (rank + 5).
- *Rationales.* For each aspect one phrase of 8 to 14 words in a row, the four in random order at
  random places. A word of the phrase is a sentiment word of the aspect, of polarity
  clip(s_a + 0.4 noise, -1, 1), or with probability 0.3 filler.
- *The rest.* Filler, and with probability 0.25 a distractor: a sentiment word of any aspect (the
  rated one too) whose polarity is uniform, so it says nothing. A single word does not tell a
  rationale from a distractor; its neighbours do. The phrases of the other aspects do say something
  of the rating, by the correlation, but less.
- *Length.* Uniform between 0.7 and 1 of the longest.
- *Word vectors.* Unit directions drawn at random: u_a for an aspect, v for sentiment, v_a for the
  sentiment of an aspect. A sentiment word of polarity p has u_a + p (v + v_a) / sqrt(2) + noise, a
  filler word the noise alone, which is normal and 3 long on average.

The words in a rationale are about an eighth of a review: that is the precision of a random choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.learning_to_explain.corpus import (
    FIRST_WORD,
    Annotated,
    Corpus,
    Reviews,
    marked,
    padded,
)

ASPECTS = 4
SENTIMENT_WORDS = 40  # of each aspect
FILLER_WORDS = 300
PHRASE_LENGTHS = (8, 14)
SHORTEST = 0.7
CORRELATION = 0.5
SENTIMENT_SCALE, POLARITY_NOISE, RATING_NOISE = 0.45, 0.4, 0.08
FILLER_IN_PHRASE, DISTRACTORS = 0.3, 0.25
VECTOR_NOISE = 3.0
# So that the shortest review has room for the longest phrases.
MIN_LENGTH = 80

_FIRST_FILLER = FIRST_WORD + ASPECTS * SENTIMENT_WORDS


@dataclass(frozen=True)
class Size:
    """How much to generate: numbers of reviews, the longest review in words, the vectors' size."""

    train: int
    heldout: int
    annotated: int
    length: int
    embedding: int

    def __post_init__(self) -> None:
        if self.length < MIN_LENGTH:
            raise ValueError(f"length must be {MIN_LENGTH} or more, got {self.length}")


@dataclass(frozen=True)
class Texts:
    """Reviews before they are cut to one aspect and one length.

    Args:
        rows: the word numbers of each.
        ratings: [reviews, ASPECTS].
        spans: [reviews, ASPECTS, 2], [start, end) of the rationale of each aspect.
    """

    rows: list[list[int]]
    ratings: NDArray[np.float64]
    spans: NDArray[np.int64]


def generate(size: Size, aspect: int, seed: int) -> Corpus:
    """Reviews for the prediction of ``aspect``; the same for the same arguments."""
    streams = _streams(seed)
    train = texts(size.train, size.length, streams[0])
    heldout = texts(size.heldout, size.length, streams[1])
    annotated = texts(size.annotated, size.length, streams[2])
    spans = [[(start, end)] for start, end in annotated.spans[:, aspect].tolist()]
    return Corpus(
        train=_reviews(train, aspect, size.length),
        heldout=_reviews(heldout, aspect, size.length),
        annotated=Annotated(
            padded(annotated.rows, size.length), marked(annotated.rows, spans, size.length)
        ),
        embeddings=torch.from_numpy(vectors(size.embedding, streams[3])),
        words=vocabulary(),
    )


def _reviews(part: Texts, aspect: int, length: int) -> Reviews:
    ratings = torch.from_numpy(part.ratings[:, aspect].astype(np.float32))
    return Reviews(padded(part.rows, length), ratings)


def _streams(seed: int) -> list[np.random.Generator]:
    """One for each of training, heldout and annotated reviews, and word vectors."""
    return [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(4)]


def texts(number: int, length: int, rng: np.random.Generator) -> Texts:
    """That many reviews of at most ``length`` words."""
    overall = rng.standard_normal((number, 1))
    own = rng.standard_normal((number, ASPECTS))
    mixed = CORRELATION**0.5 * overall + (1 - CORRELATION) ** 0.5 * own
    sentiments = np.clip(SENTIMENT_SCALE * mixed, -1, 1)
    noise = RATING_NOISE * rng.standard_normal((number, ASPECTS))
    ratings = np.clip((1 + sentiments) / 2 + noise, 0, 1)
    reviews = [_review(row, length, rng) for row in sentiments]
    return Texts([row for row, _ in reviews], ratings, np.stack([spans for _, spans in reviews]))


def _review(
    sentiments: NDArray[np.float64], length: int, rng: np.random.Generator
) -> tuple[list[int], NDArray[np.int64]]:
    total = int(rng.integers(round(SHORTEST * length), length + 1))
    frequencies = 1 / (np.arange(FILLER_WORDS) + 5)
    row = _FIRST_FILLER + rng.choice(FILLER_WORDS, total, p=frequencies / frequencies.sum())
    distractor = rng.random(total) < DISTRACTORS
    aspects, polarities = rng.integers(ASPECTS, size=total), rng.uniform(-1, 1, total)
    row = np.where(distractor, _sentiment_word(aspects, polarities), row)
    filler = row.copy()
    filler[distractor] = _FIRST_FILLER + rng.integers(FILLER_WORDS, size=distractor.sum())

    lengths = rng.integers(PHRASE_LENGTHS[0], PHRASE_LENGTHS[1] + 1, ASPECTS)
    before = np.sort(rng.integers(total - lengths.sum() + 1, size=ASPECTS))
    spans = np.zeros((ASPECTS, 2), dtype=np.int64)
    start = 0
    for gap, aspect in zip(np.diff(before, prepend=0), rng.permutation(ASPECTS), strict=True):
        start += gap
        end = start + lengths[aspect]
        spans[aspect] = start, end
        polarity = sentiments[aspect] + POLARITY_NOISE * rng.standard_normal(end - start)
        words = _sentiment_word(aspect, np.clip(polarity, -1, 1))
        row[start:end] = np.where(
            rng.random(end - start) < FILLER_IN_PHRASE, filler[start:end], words
        )
        start = end
    return row.tolist(), spans


def _sentiment_word(
    aspect: int | NDArray[np.int64], polarity: NDArray[np.float64]
) -> NDArray[np.int64]:
    step = np.rint((polarity + 1) / 2 * (SENTIMENT_WORDS - 1)).astype(np.int64)
    return FIRST_WORD + aspect * SENTIMENT_WORDS + step


def vectors(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """[words, size], zeros below ``FIRST_WORD``."""
    directions = rng.standard_normal((2 * ASPECTS + 1, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    topics, tastes, sentiment = directions[:ASPECTS], directions[ASPECTS:-1], directions[-1]
    polarity = np.linspace(-1, 1, SENTIMENT_WORDS)[:, None]
    noise = rng.standard_normal((len(vocabulary()), size)) * VECTOR_NOISE / size**0.5
    result: NDArray[np.float32] = noise.astype(np.float32)
    for aspect in range(ASPECTS):
        start = FIRST_WORD + aspect * SENTIMENT_WORDS
        moved = polarity * (sentiment + tastes[aspect]) / 2**0.5
        result[start : start + SENTIMENT_WORDS] += (topics[aspect] + moved).astype(np.float32)
    result[:FIRST_WORD] = 0
    return result


def vocabulary() -> list[str]:
    """The names of the words: a sentiment word has its aspect and its polarity in percent."""
    polarities = np.rint(100 * np.linspace(-1, 1, SENTIMENT_WORDS)).astype(int)
    names = [f"{'abcd'[aspect]}{p:+d}" for aspect in range(ASPECTS) for p in polarities]
    return ["<pad>", "<start>", "<unknown>", *names, *(f"w{i}" for i in range(FILLER_WORDS))]
