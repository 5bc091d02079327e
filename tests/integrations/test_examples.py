# SPDX-License-Identifier: Apache-2.0
"""examples/transformers_moe.py and transformers_llama.py: their quick form, published results."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, out: Path) -> tuple[dict, str]:
    """The record of ``python examples/name.py --quick``, and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONSAFEPATH", None)  # the examples import what they share
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((out / f"{name.replace('_', '-')}.json").read_text())
    assert record["commit"] is None or len(record["commit"]) == 40
    assert record["versions"]["transformers"]
    return record, done.stdout


def test_moe(tmp_path):
    record, printed = run("transformers_moe", tmp_path)
    picture = (tmp_path / "transformers-moe.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(record["runs"]) == 4
    for name, (result,) in record["runs"].items():
        assert result["losses"][-1] < result["losses"][0] < math.log(256)
        assert 1 <= result["largest_load"] <= 4  # E / k: all tokens to the same two experts
        assert f"| {name} | {result['loss']:.3f} | {result['tokens_per_second']} |" in printed


def test_llama(tmp_path):
    record, printed = run("transformers_llama", tmp_path)
    runs = {name: result for name, (result,) in record["runs"].items()}
    assert len(runs) == 7
    assert all(f"| {name} | {result['loss']:.3f} |" in printed for name, result in runs.items())
    assert all(0 < result["loss"] < math.log(256) for result in runs.values())
    # Every pruned model has its zeros, or the script would have ended with an error.
    assert runs["2:4 learnt"]["text"].startswith("The assignment ")


@pytest.mark.parametrize("name", ["transformers-moe", "transformers-llama"])
def test_the_published_results(name):
    """docs/large-models.md has the table that the committed record gives."""
    docs = EXAMPLES.parent / "docs"
    record = json.loads((docs / "figures" / f"{name}.json").read_text())
    page = (docs / "large-models.md").read_text(encoding="utf-8")
    assert record["settings"]["quick"] is False
    assert record["settings"]["seeds"] == 5
    for label, group in record["runs"].items():
        assert len(group) == 5
        assert f"| {label} | {fmean(result['loss'] for result in group):.3f} ± " in page
