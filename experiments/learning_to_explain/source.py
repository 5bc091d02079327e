# SPDX-License-Identifier: Apache-2.0
"""Where a run's reviews come from, as JSON-able settings: a task's process loads them by these."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from experiments.learning_to_explain import beeradvocate, generator
from experiments.learning_to_explain.corpus import Corpus
from experiments.session import JSON


def generated(size: generator.Size, aspect: int, seed: int) -> dict[str, JSON]:
    """Settings of generated reviews."""
    return {"generated": vars(size), "aspect": aspect, "seed": seed}


def published(folder: Path, aspect: int, length: int, reviews: int | None) -> dict[str, JSON]:
    """Settings of BeerAdvocate's files, with what shows that a file has changed.

    Raises:
        DataError: a file is missing.
    """
    found = ((path, path.stat()) for path in beeradvocate.files(folder, aspect))
    return {
        "folder": str(folder.resolve()),
        "aspect": aspect,
        "length": length,
        "reviews": reviews,
        "files": [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in found],
    }


def load(settings: dict[str, JSON]) -> Corpus:
    """The reviews that these settings name; a process keeps the last ones.

    Raises:
        DataError: a file is missing or malformed.
    """
    return _load(json.dumps(settings))


@functools.lru_cache(maxsize=1)
def _load(settings: str) -> Corpus:
    given = json.loads(settings)
    if "generated" in given:
        size = generator.Size(**given["generated"])
        return generator.generate(size, given["aspect"], given["seed"])
    folder, length = Path(given["folder"]), given["length"]
    return beeradvocate.load(folder, given["aspect"], length, given["reviews"])
