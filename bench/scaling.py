# SPDX-License-Identifier: Apache-2.0
"""Time over n, over k and over rows; accuracy over time; one thread and two.

    python bench/scaling.py [--quick] [--out FILE] [--figures FOLDER]

It writes bench/results/scaling.json, docs/figures/bench-*.png and BENCHMARKS.md. With --out the
file alone is written, and figures only to the folder that --figures names.

The exponent of an op is the slope of log time over log n, least squares over n >= 4096, of 16 rows:
with one row of 4096 items, the fixed cost of a call would be a third of the time. Below that length
and for few rows the figures show the fixed cost. Large cases are checked on part of their rows, and
rows above 2^20 items at that length (run.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
import scaling_figures
import torch
from cases import Case, Inputs
from checks import check, targets_of
from machine import RESULTS, ROOT, cores, environment, load_average, save
from measure import time_in_turns
from providers import CIRCUIT, DFT, DFT_TILTED, DP, OURS, PROVIDERS, SOFTMAX, TREE, Provider
from run import run_case
from torch import Tensor
from tqdm import tqdm

import discrete_grad as dg

FILE = "scaling.json"
FIGURES = ROOT / "docs" / "figures"
Record = dict[str, Any]

OPS = ("marginals", "marginals_grad", "sample")
FROM_N = 4096

_COMPARED = (OURS, DP, CIRCUIT, TREE, SOFTMAX)
_LENGTHS = (8, 32, 128, 512, 1024, 4096, 16384, 65536, 262144, 1_048_576, 10_000_000)
_COUNTS = (1, 10, 32, 256, 2048, 16384, 32768)
_SHORT_COUNTS = (1, 4, 10, 32, 64, 256, 512)
_BATCHES = (1, 8, 64, 512, 4096, 32768, 262144, 1_000_000)
_THREADED = ((1024, 64, 8), (64, 1024, 64), (16, 65536, 4096))
# Of a slow baseline's case: numbers in its table beyond which one call takes seconds.
_BASELINE_WORK = 2**22
_METHODS = ("contour", "linear", "recursion")


def sweeps(quick: bool) -> dict[str, list[Case]]:
    """The cases of each sweep."""
    lengths = [n for n in _LENGTHS if not quick or n <= 262144]
    batches = [rows for rows in _BATCHES if not quick or rows <= 32768]
    ops = OPS[:2] if quick else OPS
    return {
        "n": [Case(op, 16, n, max(1, n // 16)) for op in ops for n in lengths],
        "k": [Case(op, 16, 65536, k) for op in ops for k in _COUNTS]
        + [Case("marginals", 16, 1024, k) for k in _SHORT_COUNTS],
        "rows": [Case(op, rows, 64, 8) for op in ops for rows in batches],
    }


def _compared(case: Case) -> list[Provider]:
    few = case.rows * case.n * (case.k + 1) <= _BASELINE_WORK
    return [
        provider
        for provider in PROVIDERS[case.op]
        if provider.name in _COMPARED
        and provider.supports(case)
        and (few or provider.name not in (DP, CIRCUIT))
    ]


def exponent(records: Sequence[Record], from_n: int = FROM_N) -> float:
    """The slope of log time over log n."""
    points = [(record["n"], record["p50"]) for record in records if record["n"] >= from_n]
    lengths, times = (np.log(np.array(values)) for values in zip(*points, strict=True))
    return float(np.polyfit(lengths, times, 1)[0])


def _with_threads(run: Callable[[], object], threads: int) -> Callable[[], object]:
    def call() -> object:
        torch.set_num_threads(threads)
        return run()

    return call


def threads_ratio(case: Case, seconds: float) -> Record:
    """Time of one thread over that of two, in turns."""
    provider = PROVIDERS[case.op][0]
    targets = targets_of(case)
    check(provider, targets)
    run = partial(provider.run, case, targets.inputs)
    timings = time_in_turns(
        {str(count): _with_threads(run, count) for count in (1, 2)},
        seconds=seconds,
        most_rounds=100,
        block=20e-3,
    )
    one, two = (timings[name].p50 for name in ("1", "2"))
    shape = {"op": case.op, "rows": case.rows, "n": case.n, "k": case.k}
    return {**shape, "one": one, "two": two, "ratio": float(f"{one / two:.3g}")}


def _by_method(method: str, case: Case, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return dg.subset.marginals(inputs.logits, case.k, method=method)


def accuracy(threads: int, seconds: float) -> list[Record]:
    """Error and time of the marginals of 64 rows, n = 256, k = 32, in two precisions."""
    records = []
    for dtype in (torch.float32, torch.float64):
        case = Case("marginals", 64, 256, 32, dtype=dtype)
        names = (DP, CIRCUIT, TREE, DFT, DFT_TILTED)
        providers = [p for p in PROVIDERS["marginals"] if p.name in names]
        # The names of methods, not of this library: checks.py promises less of the recursion.
        providers += [Provider(m, "marginals", partial(_by_method, m)) for m in _METHODS]
        records += run_case(case, threads, seconds, providers)
    return records


def summary(records: dict[str, list[Record]], threads: list[Record]) -> dict[str, Any]:
    """What is held to the bounds: exponents, the spread over k, the gain of a second thread."""

    def of(sweep: str, op: str, n: int | None = None, provider: str = OURS) -> list[Record]:
        return [
            record
            for record in records[sweep]
            if record["provider"] == provider and record["op"] == op and n in (None, record["n"])
        ]

    found = sorted({record["op"] for record in records["n"]}, key=OPS.index)
    over_k = {}
    for op in found:
        times = {record["k"]: record["p50"] for record in of("k", op, 65536)}
        over_k[op] = float(f"{times[32768] / times[10]:.3g}")
    return {
        "exponents": {op: round(exponent(of("n", op)), 3) for op in found},
        "exponents_of_softmax": {
            op: round(exponent(of("n", op, provider=SOFTMAX)), 3) for op in found
        },
        "half_over_ten": over_k,
        "two_threads": {
            f"{r['op']}, {r['rows']} x {r['n']}, k = {r['k']}": r["ratio"] for r in threads
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and less time for each")
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--out", type=Path, help="another file; BENCHMARKS.md stays as it is")
    parser.add_argument("--figures", type=Path, help=f"default: {FIGURES.relative_to(ROOT)}")
    options = parser.parse_args()
    seconds = 0.05 if options.quick else 0.3
    torch.manual_seed(0)
    about = environment()
    records: dict[str, list[Record]] = {}
    for name, cases in sweeps(options.quick).items():
        records[name] = []
        for case in tqdm(cases, desc=f"over {name}", unit="case", disable=None):
            records[name] += run_case(case, options.threads, seconds, _compared(case))
    threads = []
    if cores() > 1:
        ops = OPS[:2] if options.quick else OPS
        work = [Case(op, *shape) for shape in _THREADED for op in ops]
        threads = [threads_ratio(case, 5 * seconds) for case in tqdm(work, desc="threads")]
    records["accuracy"] = accuracy(options.threads, seconds)
    about["load_average_after"] = load_average()
    written = {
        "environment": about,
        "quick": options.quick,
        "threads": options.threads,
        "summary": summary(records, threads),
        "over_n": records["n"],
        "over_k": records["k"],
        "over_rows": records["rows"],
        "accuracy": records["accuracy"],
        "two_threads": threads,
    }
    for what, values in written["summary"].items():
        print(f"{what}: {values}")
    save(written, options.out or RESULTS / FILE)
    figures = options.figures or (None if options.out else FIGURES)
    if figures is not None:
        scaling_figures.draw(written, figures)
    if not options.out:
        print(f"wrote {report.write()}")


if __name__ == "__main__":
    main()
