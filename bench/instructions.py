# SPDX-License-Identifier: Apache-2.0
"""Instructions of the CPU kernels for each item, counted by callgrind, function by function.

    python bench/instructions.py [--level AVX2] [--out FILE]

It needs valgrind, which knows no AVX-512. Of a case the driver kernels/times.cpp makes two calls,
and none in a second run; the difference is what the calls took, which no other process on the
machine can change. It writes bench/results/instructions.json (or the file that --out names) and
BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import report
from kernel_program import ISA_FLAGS, build
from machine import RESULTS, ROOT, cores, environment, save
from tqdm import tqdm

FILE = "instructions.json"
CALLS = 2
# The drawing of ten samples from a row is not among them: it is that of one.
CASES = tuple(
    f"{op}-{shape}-s1"
    for shape in (
        "16384x4-k2",
        "2000x20-k10",
        "1024x64-k8",
        "64x256-k32",
        "64x1024-k64",
        "1x8192-k1000",
    )
    for op in ("forward", "vjp", "sample")
)
_CALLGRIND = ("valgrind", "--tool=callgrind")
# A line of callgrind_annotate: instructions, their share, and file:function [object].
_LINE = re.compile(r"^\s*([\d,]+) \(\s*[\d.]+%\)\s+(.*)$")
_ARGUMENTS = re.compile(r"<[^<>]*>")
_OURS = re.compile(r"dg::[A-Z0-9]+::(?:\w+::)*(\w+)\(")


def part_of(function: str) -> str:
    """The name a function goes by in the table: of ours its own, of others their library."""
    plain = re.sub(r"__vector\(\d+\)", "", function)
    while plain != (plain := _ARGUMENTS.sub("", plain)):
        pass
    found = _OURS.search(plain)
    if found is not None:
        return found.group(1)
    return "libm" if "libm" in function or "/math/" in function else "other"


def counts(text: str) -> Counter[str]:
    """Instructions by part, from what callgrind_annotate prints."""
    totals: Counter[str] = Counter()
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is not None and "PROGRAM TOTALS" not in line:
            totals[part_of(found.group(2))] += int(found.group(1).replace(",", ""))
    return totals


def count(program: Path, case: str, calls: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch, "callgrind.out")
        subprocess.run(
            [*_CALLGRIND, f"--callgrind-out-file={profile}", str(program), case, str(calls)],
            check=True,
            capture_output=True,
        )
        annotate = ["callgrind_annotate", "--threshold=100", "--auto=no", str(profile)]
        return counts(subprocess.run(annotate, check=True, capture_output=True, text=True).stdout)


def items_of(case: str) -> int:
    rows, n = re.search(r"-(\d+)x(\d+)-", case).groups()
    return int(rows) * int(n)


def measure(program: Path, case: str) -> dict[str, object]:
    called, idle = count(program, case, CALLS), count(program, case, 0)
    items = CALLS * items_of(case)
    parts = {name: (called[name] - idle[name]) / items for name in called}
    return {
        "case": case,
        "per_item": round(sum(parts.values()), 2),
        "parts": {
            name: round(value, 2)
            for name, value in sorted(parts.items(), key=lambda part: -part[1])
            if value >= 0.05
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    levels = [level for level in ISA_FLAGS if level != "AVX512"]
    parser.add_argument("--level", choices=levels, default="AVX2", help="SIMD level")
    parser.add_argument("--out", type=Path, help="another file; BENCHMARKS.md stays as it is")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind, which counts the instructions, is not installed")
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(cores()) as pool:
        program = build(ROOT / "csrc", options.level, Path(scratch))
        found = pool.map(lambda case: measure(program, case), CASES)
        cases = list(tqdm(found, total=len(CASES), unit="case", disable=None))
    record = environment()
    written = {"environment": record, "level": options.level, "cases": cases}
    save(written, options.out or RESULTS / FILE)
    if options.out is None:
        print(f"wrote {report.write()}")


if __name__ == "__main__":
    main()
