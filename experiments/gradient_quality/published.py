# SPDX-License-Identifier: Apache-2.0
"""Figures of the papers' own code."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from experiments.session import JSON


@functools.cache
def published() -> JSON:
    """What published.json holds; it says itself where its numbers are from."""
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
