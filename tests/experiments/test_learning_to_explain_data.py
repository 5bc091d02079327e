# SPDX-License-Identifier: Apache-2.0
"""Learning to explain: the generated reviews, and the published files."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import discrete_grad as dg
from experiments import __main__ as command_line
from experiments.errors import DataError
from experiments.learning_to_explain import (
    beeradvocate,
    generator,
    metrics,
    source,
)
from experiments.learning_to_explain.corpus import FIRST_WORD, PAD, marked, padded
from experiments.learning_to_explain.model import choosable

SMALL = generator.Size(train=60, heldout=20, annotated=10, length=80, embedding=8)
DEFAULT = generator.Size(train=1000, heldout=400, annotated=200, length=100, embedding=50)


@pytest.fixture(scope="module")
def corpus() -> Any:
    return generator.generate(DEFAULT, 0, 0)


def _tensors(corpus: Any) -> list[Tensor]:
    return [
        corpus.train.tokens,
        corpus.train.ratings,
        corpus.heldout.tokens,
        corpus.heldout.ratings,
        corpus.annotated.tokens,
        corpus.annotated.rationale,
        corpus.embeddings,
    ]


def test_generated_reviews_depend_on_the_seed_alone() -> None:
    first, again, other = (generator.generate(SMALL, 1, seed) for seed in (5, 5, 6))
    for a, b, c in zip(_tensors(first), _tensors(again), _tensors(other), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_aspects_share_words_and_vectors_and_differ_in_rating_and_rationale() -> None:
    first, other = (generator.generate(SMALL, aspect, 5) for aspect in (0, 3))
    assert torch.equal(first.train.tokens, other.train.tokens)
    assert torch.equal(first.embeddings, other.embeddings)
    assert not torch.equal(first.train.ratings, other.train.ratings)
    assert not (first.annotated.rationale & other.annotated.rationale).any()


@pytest.mark.parametrize("aspect", range(4))
def test_random_words_have_a_precision_under_15_percent(aspect: int) -> None:
    annotated = generator.generate(DEFAULT, aspect, 0).annotated
    scores = torch.rand(annotated.tokens.shape, generator=torch.Generator().manual_seed(1))
    for k in (5, 10, 15):
        chosen = dg.subset.mode(choosable(scores, annotated.tokens, k), k)
        # The share of rationale words: 11 of 85 on average.
        assert 8 < metrics.precision(chosen, annotated, k).percent < 15


def test_the_planted_words_have_a_precision_of_100_percent(corpus: Any) -> None:
    annotated = corpus.annotated
    shortest = int(annotated.rationale.sum(1).min())
    chosen = dg.subset.mode(annotated.rationale.float(), shortest)
    assert metrics.precision(chosen, annotated, shortest).percent == 100


def test_a_rationale_is_one_phrase_of_the_aspects_words_and_filler() -> None:
    rng = np.random.default_rng(3)
    texts = generator.texts(50, 100, rng)
    first_filler = FIRST_WORD + generator.ASPECTS * generator.SENTIMENT_WORDS
    for row, spans in zip(texts.rows, texts.spans.tolist(), strict=True):
        assert 70 <= len(row) <= 100
        taken: set[int] = set()
        for aspect, (start, end) in enumerate(spans):
            assert 8 <= end - start <= 14
            assert end <= len(row)
            assert taken.isdisjoint(range(start, end))
            taken.update(range(start, end))
            own = FIRST_WORD + aspect * generator.SENTIMENT_WORDS
            for word in row[start:end]:
                assert word >= first_filler or own <= word < own + generator.SENTIMENT_WORDS


def _polarity(words: list[int], aspect: int) -> float:
    first = FIRST_WORD + aspect * generator.SENTIMENT_WORDS
    steps = [word - first for word in words if 0 <= word - first < generator.SENTIMENT_WORDS]
    return float(np.mean(steps)) if steps else float("nan")


def test_the_phrase_tells_the_rating_and_what_lies_outside_does_not() -> None:
    texts = generator.texts(600, 100, np.random.default_rng(4))
    rated = 2
    inside, outside, other = [], [], []
    for row, spans in zip(texts.rows, texts.spans.tolist(), strict=True):
        start, end = spans[rated]
        inside.append(_polarity(row[start:end], rated))
        outside.append(_polarity(row[:start] + row[end:], rated))
        other.append(_polarity(row[spans[0][0] : spans[0][1]], 0))

    def correlation(values: list[float]) -> float:
        known = np.isfinite(values)
        return float(np.corrcoef(np.array(values)[known], texts.ratings[known, rated])[0, 1])

    assert correlation(inside) > 0.8
    # Five standard errors of a correlation that is 0.
    assert abs(correlation(outside)) < 5 / 550**0.5
    # Of another aspect: the correlation between the aspects shows, thinned by noise.
    assert 0.25 < correlation(other) < 0.5
    assert np.corrcoef(texts.ratings.T)[0, 1] == pytest.approx(0.46, abs=0.12)


def test_word_vectors_point_along_aspect_and_sentiment() -> None:
    vectors = generator.vectors(4000, np.random.default_rng(5))
    assert not vectors[:FIRST_WORD].any()
    size = generator.SENTIMENT_WORDS
    own = vectors[FIRST_WORD : FIRST_WORD + size]
    other = vectors[FIRST_WORD + size : FIRST_WORD + 2 * size]
    polarity = np.linspace(-1, 1, size)
    slope = polarity @ own / (polarity @ polarity)
    other_slope = polarity @ other / (polarity @ polarity)
    # |v + v_a|^2 / 2 = 1 along the own sentiment, half of it shared with another aspect.
    assert np.inner(slope, slope) - 9 / (polarity @ polarity) == pytest.approx(1, abs=0.3)
    assert np.inner(slope, other_slope) == pytest.approx(0.5, abs=0.15)
    filler = vectors[FIRST_WORD + generator.ASPECTS * size :]
    assert np.linalg.norm(filler, axis=1).mean() == pytest.approx(3, rel=0.01)
    topic = own.mean(0)
    assert np.inner(topic, topic) - 9 / size == pytest.approx(1, abs=0.15)


def test_too_short_reviews_are_refused() -> None:
    with pytest.raises(ValueError, match="length must be 80 or more, got 60"):
        dataclasses.replace(SMALL, length=60)


def test_padding_is_on_the_left_and_spans_move_with_the_words() -> None:
    assert padded([[7, 8], [4, 5, 6, 9]], 3).tolist() == [[PAD, 7, 8], [4, 5, 6]]
    spans = marked([[7, 8], [4, 5, 6, 9]], [[(1, 2)], [(0, 1), (2, 4)]], 3)
    assert spans.tolist() == [[False, False, True], [True, False, True]]


def _write_files(folder: Path, zipped: bool = False) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Tiny files for aspect 1, in the published format; the words and their vectors."""
    vectors = np.random.default_rng(0).normal(size=(4, 200)).round(4)
    words = ["good", "bad", "hops", "the"]
    contents = {
        "reviews.aspect1.train.txt": (
            "0.8 0.9 0.7 0.6 0.5\tthe hops good good\n0.2 0.1 0.3 0.4 0.5\tbad , the\n"
        ),
        "reviews.aspect1.heldout.txt": (
            "0.8 0.6 0.7 0.6 0.5\tgood sour hops\n0.2 0.3 0.3 0.4 0.5\tthe bad\n"
            "0.2 0.5 0.3 0.4 0.5\tsour\n"
        ),
        "annotations.json": (
            json.dumps({"x": ["the", "good", "sour", "hops"], "0": [], "1": [[1, 3]]})
            + "\n"
            + json.dumps({"x": ["bad"], "0": [[0, 1]], "1": [], "raw": "Bad."})
            + "\n"
        ),
        "review+wiki.filtered.200.txt": "".join(
            f"{word} {' '.join(map(str, vector))}\n"
            for word, vector in zip([*words[:3], "rare"], vectors, strict=True)
        ),
    }
    for name, text in contents.items():
        if zipped:
            with gzip.open(folder / f"{name}.gz", "wt", encoding="utf-8") as file:
                file.write(text)
        else:
            (folder / name).write_text(text, encoding="utf-8")
    return words, vectors


@pytest.mark.parametrize("zipped", [False, True])
def test_published_files_are_read(tmp_path: Path, zipped: bool) -> None:
    _, vectors = _write_files(tmp_path, zipped)
    found = beeradvocate.load(tmp_path, 1, 4)

    def texts(tokens: Tensor) -> list[str]:
        return [" ".join(found.words[word] for word in row.tolist()) for row in tokens]

    assert found.words == ["<pad>", "<start>", "<unknown>", "the", "hops", "good", "bad", ","]
    assert texts(found.train.tokens) == ["the hops good good", "<pad> bad , the"]
    torch.testing.assert_close(found.train.ratings, torch.tensor([0.9, 0.1]))
    # "sour" is not in the training reviews: padding in its place.
    assert texts(found.heldout.tokens) == [
        "<pad> good <pad> hops",
        "<pad> <pad> the bad",
        "<pad> <pad> <pad> <pad>",
    ]
    torch.testing.assert_close(found.heldout.ratings, torch.tensor([0.6, 0.3, 0.5]))
    assert texts(found.annotated.tokens) == ["the good <pad> hops", "<pad> <pad> <pad> bad"]
    assert found.annotated.rationale.tolist() == [[False, True, True, False], [False] * 4]
    expected = torch.zeros(8, 200)
    for word, row in (("good", 0), ("bad", 1), ("hops", 2)):
        expected[found.words.index(word)] = torch.from_numpy(vectors[row])
    torch.testing.assert_close(found.embeddings, expected)


def test_reviews_are_cut_to_their_first_words_and_to_the_number_asked_for(tmp_path: Path) -> None:
    _write_files(tmp_path)
    found = beeradvocate.load(tmp_path, 1, 2, reviews=1)
    assert found.words[FIRST_WORD:] == ["the", "hops", "good"]
    assert found.train.tokens.tolist() == [[FIRST_WORD, FIRST_WORD + 1]]
    assert found.annotated.rationale.tolist() == [[False, True], [False, False]]


TRAIN, HELDOUT = "reviews.aspect1.train.txt", "reviews.aspect1.heldout.txt"
NOTES, VECTORS = "annotations.json", "review+wiki.filtered.200.txt"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; expected one with reviews\.asp"):
        beeradvocate.load(tmp_path / "nowhere", 1, 4)


@pytest.mark.parametrize("name", [TRAIN, HELDOUT, NOTES, VECTORS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    _write_files(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as caught:
        beeradvocate.load(tmp_path, 1, 4)
    assert f"{tmp_path / name}: no such file" in str(caught.value)


MALFORMED = {
    "no tabulator": (TRAIN, "0.1 0.2 0.3 0.4 0.5 good", "line 1: no tabulator; expected 5 ratings"),
    "four ratings": (TRAIN, "0.1 0.2 0.3 0.4\tgood", "line 1: the ratings '0.1 0.2 0.3 0.4'"),
    "no number": (HELDOUT, "0 0 0 0 0\ta\n0.1 0.2 x 0 0\ta", "line 2: the ratings '0.1 0.2 x 0 0'"),
    "not normalised": (TRAIN, "1 2 3 4 5\tgood", "line 1: a rating outside of [0, 1]"),
    "not a number": (TRAIN, "nan 0 0 0 0\tgood", "line 1: a rating outside of [0, 1]"),
    "no words": (TRAIN, "0.1 0.2 0.3 0.4 0.5\t ", "line 1: no words"),
    "empty": (TRAIN, "", "no review; expected one per line"),
    "one heldout": (HELDOUT, "0.1 0.2 0.3 0.4 0.5\tgood", "one review; two at least"),
    "no JSON": (NOTES, "{]", "line 1: no JSON"),
    "no object": (NOTES, "[1]", "line 1: a JSON list; expected a JSON object"),
    "no aspect": (NOTES, '{"x": ["a"], "0": []}', "line 1: no ['1'] in it"),
    "no list": (NOTES, '{"x": "good", "1": []}', 'line 1: "x" is no list of words'),
    "span": (NOTES, '{"x": ["a"], "1": [[0, 2]]}', 'line 1: "1" is [[0, 2]]'),
    "no span": (NOTES, '{"x": ["a"], "1": [0, 1]}', 'line 1: "1" is [0, 1]'),
    "no annotations": (NOTES, "", "no review; expected one JSON object per line"),
    "short vector": (VECTORS, "good 1 2 3", "line 1: 3 numbers; expected a word and 200 numbers"),
    "no vector": (VECTORS, "good" + " x" * 200, "line 1: no numbers after 'good'"),
    "strangers": (VECTORS, "zzz" + " 1" * 200, "no vector of any word of the training reviews"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named_with_what_was_expected(tmp_path: Path, case: str) -> None:
    name, content, message = MALFORMED[case]
    _write_files(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        beeradvocate.load(tmp_path, 1, 4)
    assert str(tmp_path / name) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    _write_files(tmp_path)
    (tmp_path / TRAIN).unlink()
    (tmp_path / f"{TRAIN}.gz").write_bytes(b"\x1f\x8b no archive")
    with pytest.raises(DataError, match=r"train\.txt\.gz: not readable as UTF-8 text"):
        beeradvocate.load(tmp_path, 1, 4)


def test_settings_of_files_change_with_the_files(tmp_path: Path) -> None:
    _write_files(tmp_path)
    before = source.published(tmp_path, 1, 4, None)
    with (tmp_path / TRAIN).open("a", encoding="utf-8") as file:
        file.write("0.2 0.1 0.3 0.4 0.5\tbad\n")
    after = source.published(tmp_path, 1, 4, None)
    assert before != after
    assert len(source.load(before).train) == 3  # as the files are now
    assert len(source.load(after).train) == 3


def test_a_quick_run_on_files(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "output"
    data.mkdir()
    _write_files(data)
    options = ["--data", str(data), "--aspect", "1", "--k", "2", "--length", "6"]
    arguments = ["learning-to-explain", "--quick", "--estimator", "aimle", *options]
    command_line.main([*arguments, "--seeds", "1", "--output", str(output)])
    results = json.loads((output / "record.json").read_text(encoding="utf-8"))["results"]
    assert results["setting"]["reviews"] == [2, 3, 2]
    assert results["setting"]["embedding_size"] == 200
    assert list(results["final"]["2"]) == ["aimle"]
    assert results["example"]["words"] == ["the", "good", "hops"]
    assert results["example"]["rationale"] == [1]
    (data / NOTES).unlink()
    with pytest.raises(SystemExit, match=r"annotations\.json: no such file"):
        command_line.main([*arguments, "--output", str(output)])
