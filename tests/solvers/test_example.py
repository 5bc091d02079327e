# SPDX-License-Identifier: Apache-2.0
"""examples/shortest_paths.py, on a tenth of its data and steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "shortest_paths.py"


def test_shortest_paths(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "shortest-paths.json").read_text())
    before, after = (results["runs"]["AIMLE"][when] for when in ("before", "after"))
    # Of 100 held-out maps: 5 before; 41 to 58 in runs that differed in the learning rate alone.
    assert before["optimal"] < 0.15
    assert after["optimal"] > before["optimal"] + 0.2
    assert after["excess"] < before["excess"] / 3
    assert f"{after['optimal']:.1%} after" in run.stdout
    picture = (tmp_path / "shortest-paths.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 50_000
