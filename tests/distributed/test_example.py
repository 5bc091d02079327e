# SPDX-License-Identifier: Apache-2.0
"""examples/global_pruning_sharded.py in its quick form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "global_pruning_sharded.py"


def test_global_pruning_sharded():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    accuracy = dict(re.findall(r"test accuracy, (.*): ([\d.]+)%", done.stdout))
    dense, largest, chosen = (float(value) for value in accuracy.values())
    assert dense > 85
    assert chosen > largest
    (counts,) = re.findall(r"of the 189 weights, by process: \[(.*)\]", done.stdout)
    assert sum(map(int, counts.split(","))) == 189
    (sent,) = re.findall(r"to choose 189 of 18944: (\d+) bytes a step", done.stdout)
    assert int(sent) < 4096
