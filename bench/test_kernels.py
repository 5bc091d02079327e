# SPDX-License-Identifier: Apache-2.0
"""The comparison of commits: its driver compiles with today's kernels, its report is complete."""

from __future__ import annotations

import shutil
import subprocess

import instructions
import kernel_program
import kernels_report
import pytest
from machine import ROOT

ABOUT = {
    "processor": "a processor",
    "cores": 2,
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "c" * 40,
    "uncommitted_changes": False,
    "torch": "2.13.0",
    "load_average": [0.0, 0.0, 0.0],
    "load_average_after": [1.0, 0.5, 0.2],
}


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_driver_fits_the_kernels() -> None:
    command = ["c++", *kernel_program.FLAGS, "-DLEVEL=DEFAULT", f"-I{ROOT / 'csrc'}"]
    answer = subprocess.run(
        [*command, "-Wall", "-Wextra", "-fsyntax-only", str(kernel_program.DRIVER)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""


def test_report_has_every_commit_and_the_ratio_of_first_and_last() -> None:
    written = {
        "environment": ABOUT,
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


ANNOTATED = """\
--------------------------------------------------------------------------------
Ir
--------------------------------------------------------------------------------
1,600 (100.0%)  PROGRAM TOTALS

--------------------------------------------------------------------------------
Ir                   file:function
--------------------------------------------------------------------------------
1,000 (62.50%)  ???:void dg::AVX2::multiply_nodes<float, 4>(float const*, long, long) [/x/times]
  200 (12.50%)  ???:void dg::AVX2::multiply_nodes<float, 2>(float const*, long, long) [/x/times]
  250 (15.62%)  ???:dg::AVX2::Row<float> dg::AVX2::tilt_segment<float>(float const*) [/x/times]
  100 ( 6.25%)  ./math/../sysdeps/ieee754/dbl-64/s_log1p.c:__log1p_fma [/usr/lib/libm.so.6]
   50 ( 3.12%)  ???:dg::AVX2::Halves<dg::AVX2::Two<float __vector(8)> >::prepare(long) [/x/times]
"""


def test_instructions_are_summed_by_the_name_of_the_function() -> None:
    assert instructions.counts(ANNOTATED) == {
        "multiply_nodes": 1200,
        "tilt_segment": 250,
        "libm": 100,
        "prepare": 50,
    }


def test_instructions_report_has_the_largest_parts() -> None:
    parts = {"multiply_nodes": 6.0, "libm": 2.0, "other": 0.1}
    written = {
        "environment": ABOUT,
        "level": "AVX2",
        "cases": [{"case": "forward-1x2-k1-s1", "per_item": 8.1, "parts": parts}],
    }
    text = kernels_report.by_instruction(written)
    assert "| `forward-1x2-k1-s1` | 8.1 | multiply_nodes 6.0, libm 2.0 |" in text
