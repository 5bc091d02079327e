# SPDX-License-Identifier: Apache-2.0
"""The tests of the CPU kernels at the SIMD levels below this machine's own, which
ATEN_CPU_CAPABILITY forces in a process of its own.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Each kind of row once: short, in a tile, in several tiles, searched through a sample.
CHOSEN = (
    "accurate or bits_of_its_word or rows_of_trouble or bad_row or any_strides "
    "or (every_k and (33 or 255)) "
    "or (perturbed_logits or two_selections) and (batch2 or batch5 or batch6 or batch9)"
)


ROOT = Path(__file__).parents[2]


def run(level: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "ATEN_CPU_CAPABILITY": level},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one level only")
@pytest.mark.parametrize("level", ["default", "avx2"])
def test_lower_levels(level, tmp_path):
    asked = "from discrete_grad import _C; print(_C.cpu_capability().lower())"
    served = run(level, tmp_path, "-c", asked).strip()
    if level != "default" and served != level:
        pytest.skip(f"this processor has no {level}")
    assert served == level
    tests = str(Path(__file__).with_name("test_cpu_topk.py"))
    settings = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT))
    quiet = ("-q", "-x", "-p", "no:cacheprovider")
    run(level, tmp_path, "-m", "pytest", *quiet, *settings, "-k", CHOSEN, tests)
