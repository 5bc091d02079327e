# SPDX-License-Identifier: Apache-2.0
"""examples/moe_router.py and examples/nm_sparsity.py in their quick form."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, out: Path) -> tuple[dict, str]:
    """The record of ``python examples/name.py --quick``, and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONSAFEPATH", None)  # the two scripts import what they share
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = name.replace("_", "-")
    picture = (out / f"{written}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    return json.loads((out / f"{written}.json").read_text()), done.stdout


def test_moe_router(tmp_path):
    record, printed = run("moe_router", tmp_path)
    assert len(record["runs"]) == 4
    for name, (result,) in record["runs"].items():
        assert result["losses"][-1] < result["losses"][0] < math.log(256)
        assert 1 <= result["largest_load"] <= 4  # E / k: all tokens to the same two experts
        assert f"| {name} | {result['loss']:.3f} | {result['tokens_per_second']} |" in printed
    assert record["commit"] is None or len(record["commit"]) == 40


def test_nm_sparsity(tmp_path):
    record, printed = run("nm_sparsity", tmp_path)
    runs = {name: result for name, (result,) in record["runs"].items()}
    assert len(runs) == 6
    assert all(f"| {name} | {result['loss']:.3f} |" in printed for name, result in runs.items())
    assert runs["magnitude"]["flipped_percent"] == 0
    # Losses after so few steps tell little; masks have moved all the same, and every model has its
    # zeros, or the script would have ended with an error.
    for name in ("masks by SIMPLE", "masks by straight-through Gumbel"):
        assert runs[name]["flipped_percent"] > 0
    assert runs["magnitude, weights fine-tuned"]["loss"] < runs["magnitude"]["loss"]


@pytest.mark.parametrize("name", ["moe_router", "nm_sparsity"])
def test_the_published_results(name):
    """docs/large-models.md has the table that the committed record gives."""
    docs = EXAMPLES.parent / "docs"
    record = json.loads((docs / "figures" / f"{name.replace('_', '-')}.json").read_text())
    page = (docs / "large-models.md").read_text(encoding="utf-8")
    assert record["settings"]["quick"] is False
    assert record["settings"]["seeds"] == 5
    for label, group in record["runs"].items():
        assert len(group) == 5
        mean = sum(result["loss"] for result in group) / 5
        assert f"| {label} | {mean:.3f} ± " in page
