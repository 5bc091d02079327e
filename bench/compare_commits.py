# SPDX-License-Identifier: Apache-2.0
"""Time the CPU kernels of several commits, or at several SIMD levels, side by side.

    python bench/compare_commits.py COMMIT COMMIT ...           # bench/results/kernels.json
    python bench/compare_commits.py COMMIT --levels DEFAULT AVX2 AVX512 \\
        --output bench/results/kernels-simd.json

The kernels alone (csrc/cpu/simd), on one thread, at this machine's SIMD level or those named:
of each commit csrc/ is taken from git and compiled with the driver kernels/times.cpp, then the
programs run in turns, so that a change of the machine's speed meets all of them. The file holds the
medians over the rounds; docs/performance.md says what each commit changed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from kernel_program import ISA_FLAGS, build
from machine import RESULTS, ROOT, cores, environment, load_average, save
from tqdm import tqdm

OUTPUT = RESULTS / "kernels.json"


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def build_commit(commit: str, level: str, folder: Path) -> Path:
    """The driver, linked with the kernels of a commit for a SIMD level."""
    archive = subprocess.run(
        ["git", "archive", commit, "csrc"], cwd=ROOT, capture_output=True, check=True
    )
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return build(folder / "csrc", level, folder)


def times(program: Path, budget: float) -> dict[str, float]:
    """Seconds per call of each case."""
    answer = subprocess.run(
        [str(program), str(budget)], capture_output=True, text=True, check=True
    ).stdout
    return {name: float(seconds) for name, seconds in map(str.split, answer.splitlines())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commits", nargs="+", help="anything that git resolves, oldest first")
    parser.add_argument(
        "--levels",
        nargs="+",
        choices=list(ISA_FLAGS),
        default=[torch.backends.cpu.get_cpu_capability()],
        help="default: this machine's",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=0.05, help="seconds for each case and turn")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()

    commits = [git("rev-parse", "--short=10", commit) for commit in options.commits]
    variants = [(commit, level) for commit in commits for level in options.levels]
    record = environment()
    with tempfile.TemporaryDirectory() as scratch:
        with ThreadPoolExecutor(cores()) as pool:
            programs = list(
                pool.map(lambda v: build_commit(*v, Path(scratch, "-".join(v))), variants)
            )
        rounds = [
            [times(program, options.budget) for program in programs]
            for _ in tqdm(range(options.rounds), unit="round", disable=None)
        ]
    record["load_average_after"] = load_average()
    cases = [
        {
            "case": case,
            "seconds": [
                float(f"{statistics.median(turn[at][case] for turn in rounds):.4g}")
                for at in range(len(variants))
            ],
        }
        for case in rounds[0][0]
    ]
    about = [
        {"commit": commit, "level": level, "subject": git("log", "-1", "--format=%s", commit)}
        for commit, level in variants
    ]
    save({"environment": record, "variants": about, "cases": cases}, options.output)


if __name__ == "__main__":
    main()
