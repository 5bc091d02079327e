# SPDX-License-Identifier: Apache-2.0
"""Every benchmark of BENCHMARKS.md, one process after another; then BENCHMARKS.md.

    python bench/all.py [--quick] [--only run targets ...] [--threads N] [--out FOLDER]

`make bench` is --quick, under 5 minutes on two cores; `make bench-full` is all, under 15. With
--out nothing of the repository is changed: results, figures and BENCHMARKS.md go to that folder.

Not among them: crossover.py, which a change of the kernels calls for, and clients.py, whose table
docs/clients.md repeats; their results are shown as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import report
from machine import host_kind, today

HERE = Path(__file__).resolve().parent
# The name of a script, and of the file that it writes.
STEPS = {
    "targets": "targets.json",
    "run": f"{host_kind()}-{today()}.json",
    "scaling": "scaling.json",
    "memory": "memory.json",
    "perturbed": "perturbed.json",
}


def command(name: str, quick: bool, out: Path | None, threads: int | None) -> list[str]:
    """The command line of one step."""
    parts = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if quick else [])]
    if threads is not None:
        parts += ["--threads", str(threads)]
    if out is not None:
        parts += ["--output" if name == "run" else "--out", str(out / STEPS[name])]
        if name == "scaling":
            parts += ["--figures", str(out / "figures")]
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under five minutes")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--out", type=Path, help="a folder; the repository stays as it is")
    options = parser.parse_args()
    # A script finds the files beside it by its own directory.
    unsafe = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    for name in options.only:
        start = time.perf_counter()
        subprocess.run(
            command(name, options.quick, options.out, options.threads), check=True, env=unsafe
        )
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    if options.out is None:
        print(f"wrote {report.write()}")
    else:
        print(f"wrote {report.write(options.out, options.out / report.OUTPUT.name)}")


if __name__ == "__main__":
    main()
