# SPDX-License-Identifier: Apache-2.0
"""The experiment's own options, and the reviews that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.errors import UsageError
from experiments.learning_to_explain import generator, source
from experiments.session import JSON, Session

SIZES = (5, 10, 15)
TUNED_K = 10
_DATA_SEED = 0
_EPOCHS, _QUICK_EPOCHS, PUBLISHED_EPOCHS = 4, 2, 20
_LENGTH, PUBLISHED_LENGTH = 100, 350
_FULL = {"train": 1000, "heldout": 400, "annotated": 200, "embedding": 50}
_QUICK = {"train": 120, "heldout": 40, "annotated": 20, "embedding": 16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to the parser."""
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="BeerAdvocate's files; default: generated reviews")
    add("--aspect", type=int, choices=range(4), default=0, help="that is predicted; default: 0")
    add(
        "--k",
        type=_positive,
        action="append",
        metavar="K",
        help=f"number of words chosen; repeatable; default: {', '.join(map(str, SIZES))}",
    )

    def number(name: str, default: object, published: str) -> None:
        text = f"default: {default}; {published}"
        add(name, type=_positive, metavar="N", help=text)

    number("--epochs", _EPOCHS, f"with --data {PUBLISHED_EPOCHS}")
    number("--length", _LENGTH, f"with --data {PUBLISHED_LENGTH}; words of the longest review")
    number("--train-reviews", _FULL["train"], "with --data all (the published are some 80,000)")
    number("--heldout-reviews", _FULL["heldout"], "of generated reviews only")
    number("--annotated-reviews", _FULL["annotated"], "of generated reviews only")
    number("--embedding-size", _FULL["embedding"], "of generated reviews only (published: 200)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def epochs(session: Session) -> int:
    """Of each training."""
    if session.options.epochs:
        given: int = session.options.epochs
        return given
    if session.options.data is not None and not session.quick:
        return PUBLISHED_EPOCHS
    return _QUICK_EPOCHS if session.quick else _EPOCHS


def sizes(session: Session) -> tuple[int, ...]:
    """The values of k, each once."""
    given = session.options.k or ((TUNED_K,) if session.quick else SIZES)
    return tuple(dict.fromkeys(given))


def corpus(session: Session) -> dict[str, JSON]:
    """Settings of the reviews, as ``source.load`` takes them.

    Raises:
        UsageError: generated reviews cannot be that short.
        DataError: a file is missing.
    """
    options = session.options
    if options.data is not None:
        limit = options.train_reviews or (_QUICK["train"] if session.quick else None)
        length = options.length or (_LENGTH if session.quick else PUBLISHED_LENGTH)
        return source.published(options.data, options.aspect, length, limit)
    default = _QUICK if session.quick else _FULL
    length = options.length or (generator.MIN_LENGTH if session.quick else _LENGTH)
    if length < generator.MIN_LENGTH:
        raise UsageError(
            f"--length {length}: generated reviews need {generator.MIN_LENGTH} at least"
        )
    size = generator.Size(
        train=options.train_reviews or default["train"],
        heldout=options.heldout_reviews or default["heldout"],
        annotated=options.annotated_reviews or default["annotated"],
        length=length,
        embedding=options.embedding_size or default["embedding"],
    )
    return source.generated(size, options.aspect, _DATA_SEED)
