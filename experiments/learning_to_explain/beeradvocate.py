# SPDX-License-Identifier: Apache-2.0
"""The BeerAdvocate reviews in their published files (McAuley et al. 2012; Lei et al. 2016).

- ``reviews.aspectA.train.txt``, ``reviews.aspectA.heldout.txt``, A from 0 to 3: one review per
  line: five ratings in [0, 1], a tabulator, the words with spaces between them.
- ``annotations.json``: one JSON object per line: "x" the words, and under the number of each aspect
  the rationale, a list of [start, end).
- ``review+wiki.filtered.200.txt``: one word per line with its vector of 200 numbers.

Each file may be compressed, with ".gz" after its name.

The vocabulary is that of the training reviews. A heldout or annotated word that is not in it counts
as padding in its place, as in the published experiments; a word without a vector has the vector 0.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from experiments.errors import DataError
from experiments.learning_to_explain.corpus import (
    FIRST_WORD,
    PAD,
    Annotated,
    Corpus,
    Reviews,
    marked,
    padded,
)

ASPECTS = 4
_RATINGS, VECTOR = 5, 200
_ANNOTATIONS, _VECTORS = "annotations.json", "review+wiki.filtered.200.txt"

Review = tuple[float, list[str]]
Span = tuple[int, int]


def files(folder: Path, aspect: int) -> list[Path]:
    """The files that ``load`` reads: training, heldout, annotations, vectors.

    Raises:
        DataError: the folder or one of them is missing.
    """
    names = [f"reviews.aspect{aspect}.{part}.txt" for part in ("train", "heldout")]
    names += [_ANNOTATIONS, _VECTORS]
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with {', '.join(names)}")
    return [_find(folder, name) for name in names]


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder / name}: no such file (nor {name}.gz), one of the published data")


def load(folder: Path, aspect: int, length: int, reviews: int | None = None) -> Corpus:
    """The reviews for one aspect, each cut to its first ``length`` words.

    Args:
        folder: where the files are.
        aspect: from 0 to 3.
        length: of the longest review, in words.
        reviews: takes that many training reviews from the beginning; None takes all.

    Raises:
        DataError: a file is missing, or not of the format above; the message says where.
    """
    train_path, heldout_path, annotations_path, vectors_path = files(folder, aspect)
    train = _reviews(train_path, aspect, reviews)
    heldout = _reviews(heldout_path, aspect)
    if len(heldout) < 2:
        raise DataError(
            f"{heldout_path}: one review; two at least are needed, to validate and test"
        )
    annotated = list(_annotations(annotations_path, aspect))
    if not annotated:
        raise DataError(f"{annotations_path}: no review; expected one JSON object per line")
    known = dict.fromkeys(word for _, review in train for word in review)
    numbers = {word: number for number, word in enumerate(known, FIRST_WORD)}

    def numbered(words: list[str]) -> list[int]:
        return [numbers.get(word, PAD) for word in words]

    def tensors(part: list[Review]) -> Reviews:
        rows = [numbered(words) for _, words in part]
        return Reviews(padded(rows, length), torch.tensor([rating for rating, _ in part]))

    rows = [numbered(words) for words, _ in annotated]
    return Corpus(
        train=tensors(train),
        heldout=tensors(heldout),
        annotated=Annotated(
            padded(rows, length), marked(rows, [spans for _, spans in annotated], length)
        ),
        embeddings=_vectors(vectors_path, numbers),
        words=["<pad>", "<start>", "<unknown>", *known],
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines from 1, without their ends."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n")
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: not readable as UTF-8 text: {error}") from error


def _fail(path: Path, line: int, found: str, expected: str) -> NoReturn:
    raise DataError(f"{path}, line {line}: {found}; expected {expected}")


def _reviews(path: Path, aspect: int, limit: int | None = None) -> list[Review]:
    result: list[Review] = []
    for number, line in _lines(path):
        if len(result) == limit:
            break
        head, tab, text = line.partition("\t")
        ratings = _numbers(head.split())
        expected = f"{_RATINGS} ratings in [0, 1], a tabulator, and the words"
        if not tab:
            _fail(path, number, "no tabulator", expected)
        if ratings is None or len(ratings) != _RATINGS:
            _fail(path, number, f"the ratings {head[:60]!r}", expected)
        if not all(0 <= rating <= 1 for rating in ratings):
            _fail(path, number, f"a rating outside of [0, 1] in {head[:60]!r}", expected)
        words = text.split()
        if not words:
            _fail(path, number, "no words", expected)
        result.append((ratings[aspect], words))
    if not result:
        raise DataError(f"{path}: no review; expected one per line")
    return result


def _numbers(parts: list[str]) -> list[float] | None:
    try:
        return [float(part) for part in parts]
    except ValueError:
        return None


def _annotations(path: Path, aspect: int) -> Iterator[tuple[list[str], list[Span]]]:
    expected = f'a JSON object with the words as a list "x" and a list of [start, end) "{aspect}"'
    for number, line in _lines(path):
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            _fail(path, number, f"no JSON ({error})", expected)
        if not isinstance(content, dict):
            _fail(path, number, f"a JSON {type(content).__name__}", expected)
        missing = {"x", str(aspect)} - content.keys()
        if missing:
            _fail(path, number, f"no {sorted(missing)} in it", expected)
        words, spans = content["x"], content[str(aspect)]
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            _fail(path, number, '"x" is no list of words', expected)
        if not (isinstance(spans, list) and all(_is_span(span, len(words)) for span in spans)):
            _fail(path, number, f'"{aspect}" is {spans!r:.80}', f"{expected}, 0 <= start <= end")
        yield words, [(start, end) for start, end in spans]


def _is_span(value: object, words: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(end) is int for end in value)
        and 0 <= value[0] <= value[1] <= words
    )


def _vectors(path: Path, numbers: dict[str, int]) -> Tensor:
    result = torch.zeros(FIRST_WORD + len(numbers), VECTOR)
    known = 0
    for line, text in _lines(path):
        word, *parts = text.split() if text.strip() else [""]
        if len(parts) != VECTOR:
            _fail(path, line, f"{len(parts)} numbers", f"a word and {VECTOR} numbers")
        if word not in numbers:
            continue
        vector = _numbers(parts)
        if vector is None:
            _fail(path, line, f"no numbers after {word!r:.40}", f"{VECTOR} of them")
        result[numbers[word]] = torch.tensor(vector)
        known += 1
    if not known:
        raise DataError(f"{path}: no vector of any word of the training reviews")
    return result
