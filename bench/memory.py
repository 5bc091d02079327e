# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call in a fresh process; of SIMPLE forward + backward, ours and the DP's.

    python bench/memory.py [--quick] [--out FILE]

It writes bench/results/memory.json (or the file that --out names) and BENCHMARKS.md.

Peak memory is what one call adds to a fresh process's resident memory at its highest, inputs not
counted, after a small call that loads the code; it is read from the Linux kernel, after glibc has
given back what is free. Of SIMPLE the sample and the gradient are outputs, and are subtracted.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import baselines
import report
import torch
from cases import Case, make_inputs
from machine import RESULTS, cores, environment, load_average, save
from providers import DP, OURS
from torch import Tensor

import discrete_grad as dg

FILE = "memory.json"
# What SIMPLE may add beyond its outputs, over the size of the logits.
LIMIT = 1.2
CASE = Case("simple_grad", 64, 65536, 4096)
CASES = (Case("simple_grad", 64, 256, 32), Case("simple_grad", 64, 1024, 64), CASE)
# The DP keeps a table of rows * n * (k + 1) numbers for the backward pass, at the least.
_LARGEST_TABLE = 2**24


def _resident(field: str) -> int:
    """A field of the kernel's record of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_of(warm_up: Callable[[], object], call: Callable[[], object]) -> int:
    """Bytes that ``call`` adds at its highest; to be run in a fresh process."""
    warm_up()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest is from now on
    kept = call()
    highest = _resident("VmHWM")
    del kept
    return highest - before


def in_fresh_process(script: str, arguments: object) -> int:
    """The number that ``python script --peak <arguments as JSON>`` prints."""
    command = [sys.executable, str(Path(script).resolve()), "--peak", json.dumps(arguments)]
    # The script finds the files beside it by its own directory.
    unsafe = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=unsafe)
    return int(answer.stdout)


def _simple(provider: str, case: Case) -> Callable[[], tuple[Tensor, Tensor]]:
    inputs = make_inputs(case)
    estimator = dg.simple if provider == OURS else baselines.simple
    given = inputs.grad.unsqueeze(0)

    def call() -> tuple[Tensor, Tensor]:
        drawn = estimator(inputs.logits, case.k, 1)
        (gradient,) = torch.autograd.grad(drawn, inputs.logits, given)
        return drawn, gradient

    return call


def peak_of_simple(provider: str, rows: int, n: int, k: int, threads: int) -> int:
    torch.set_num_threads(threads)
    warm_up = _simple(provider, Case("simple_grad", 2, n if provider == OURS else 64, min(k, 32)))
    return peak_of(warm_up, _simple(provider, Case("simple_grad", rows, n, k)))


def measure(case: Case, threads: int) -> dict[str, object]:
    """Bytes beyond the outputs, and over the logits' size; of a DP too large, its table's bytes."""
    size = case.rows * case.n * case.dtype.itemsize
    table = size * (case.k + 1)
    record: dict[str, object] = {
        "rows": case.rows, "n": case.n, "k": case.k, "threads": threads, "logits_bytes": size,
        "dp_table_bytes": table,
    }  # fmt: skip
    for provider in (OURS, DP):
        if provider == OURS or table // case.dtype.itemsize <= _LARGEST_TABLE:
            arguments = [provider, case.rows, case.n, case.k, threads]
            beyond = in_fresh_process(__file__, arguments) - 2 * size
            record[provider] = {
                "beyond_outputs_bytes": beyond,
                "over_logits": float(f"{beyond / size:.3g}"),
            }
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="accepted; it takes seconds anyway")
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--out", type=Path, help="another file; BENCHMARKS.md stays as it is")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        provider, rows, n, k, threads = json.loads(options.peak)
        print(peak_of_simple(provider, rows, n, k, threads))
        return
    record = environment()
    cases = [measure(case, options.threads) for case in CASES]
    record["load_average_after"] = load_average()
    written = {"environment": record, "quick": options.quick, "cases": cases}
    save(written, options.out or RESULTS / FILE)
    if not options.out:
        print(f"wrote {report.write()}")


if __name__ == "__main__":
    main()
