# SPDX-License-Identifier: Apache-2.0
"""docs/experiments.md says what the committed records say, and nothing of runs that were quick."""

from __future__ import annotations

import re

import pytest

from experiments import docs, record, registry

PAGE = docs.PAGE.read_text(encoding="utf-8")
PUBLISHED = [name for name in registry.NAMES if record.published(name).exists()]


def test_the_page_is_up_to_date() -> None:
    assert docs.render(PAGE) == PAGE, "python -m experiments docs"


def test_every_published_experiment_is_on_the_page() -> None:
    assert PUBLISHED
    assert re.findall(r"<!-- record: (\S+) -->", PAGE) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_records_are_of_whole_runs(name: str) -> None:
    found = record.read(record.published(name))
    assert found["experiment"] == name
    assert found["setting"] == "full" or found["setting"].startswith("reduced: ")
    assert found["environment"]["commit"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_figure_is_there_and_shown(name: str) -> None:
    results = record.read(record.published(name))["results"]
    for key in registry.load(name).figures(results):
        file = f"{name}-{key}.png"
        assert (record.FIGURES / file).read_bytes().startswith(b"\x89PNG")
        assert f"figures/{file}" in PAGE
