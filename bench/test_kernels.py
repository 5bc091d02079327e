# SPDX-License-Identifier: Apache-2.0
"""The comparison of commits: its driver compiles with today's kernels, its report is complete."""

from __future__ import annotations

import shutil
import subprocess

import compare_commits
import kernels_report
import pytest
from machine import ROOT


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_driver_fits_the_kernels() -> None:
    command = ["c++", *compare_commits.FLAGS, "-DLEVEL=DEFAULT", f"-I{ROOT / 'csrc'}"]
    answer = subprocess.run(
        [*command, "-Wall", "-Wextra", "-fsyntax-only", str(compare_commits.DRIVER)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""


def test_report_has_every_commit_and_the_ratio_of_first_and_last() -> None:
    about = {
        "processor": "a processor",
        "cores": 2,
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "c" * 40,
        "uncommitted_changes": False,
        "torch": "2.13.0",
        "load_average": [0.0, 0.0, 0.0],
        "load_average_after": [1.0, 0.5, 0.2],
    }
    written = {
        "environment": about,
        "variants": [
            {"commit": "a" * 10, "level": "DEFAULT", "subject": "Slow"},
            {"commit": "b" * 10, "level": "AVX2", "subject": "Fast"},
        ],
        "cases": [{"case": "forward-1x2-k1-s1", "seconds": [3e-6, 1e-6]}],
    }
    row = "| `forward-1x2-k1-s1` | 3 us | 1 us | **3.0** |"
    by_commit = kernels_report.by_commit(written)
    assert row in by_commit
    assert "Slow" in by_commit
    assert "Fast" in by_commit
    by_level = kernels_report.by_level(written)
    assert row in by_level
    assert "| DEFAULT | AVX2 |" in by_level
