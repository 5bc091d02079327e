# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks, write bench/results/<host kind>-<date>.json and BENCHMARKS.md.

    python bench/run.py [--quick] [--threads 1 2]
    python bench/run.py --filter marginals-64x256    # prints, writes nothing

How it measures: one table of cases (cases.py) serves every provider (providers.py). For each case
the inputs are made once; each provider's result is held to the float64 reference (checks.py), and a
wrong one ends the run; then the providers are timed in turns within this process (measure.py). A
ratio is one of medians of the same run. The file says on which machine, with which versions, at
which commit and under which load it was taken; BENCHMARKS.md is made from such files alone
(report.py), so it can be made again at any time: python bench/report.py.

A quick run takes the everyday cases on all cores and is done in less than five minutes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import dispatch_cost
import report
import torch
from cases import CASES, QUICK_CASES, Case, make_inputs
from checks import check, targets_of
from machine import RESULTS, cores, environment, host_kind, load_average, save, today
from measure import time_in_turns
from providers import Provider, providers_of
from tqdm import tqdm

# The float64 reference takes seconds for so many numbers: a case with more rows is checked on as
# many as have not, longer rows at this length and the same k / n.
_CHECKED_NUMBERS = 2**18
_CHECKED_LENGTH = 2**20


def checked_case(case: Case) -> Case:
    """The case on whose rows its providers are checked."""
    rows = max(1, min(case.rows, _CHECKED_NUMBERS // case.n))
    n = min(case.n, _CHECKED_LENGTH)
    return replace(case, rows=rows, n=n, k=max(1, case.k * n // case.n))


def run_case(
    case: Case, threads: int, seconds: float, providers: Sequence[Provider] | None = None
) -> list[dict[str, object]]:
    """Check, then time, every provider of a case: one record each."""
    torch.set_num_threads(threads)
    targets = targets_of(checked_case(case))
    inputs = targets.inputs if targets.case == case else make_inputs(case)
    errors: dict[str, float] = {}
    calls: dict[str, Callable[[], object]] = {}
    for provider in providers_of(case) if providers is None else providers:
        errors[provider.name] = check(provider, targets)
        calls[provider.name] = partial(provider.run, case, inputs)
    timings = time_in_turns(calls, seconds=seconds, most_rounds=100)
    shape = {"op": case.op, "rows": case.rows, "n": case.n, "k": case.k, "samples": case.samples}
    return [
        {
            **shape,
            "dtype": case.dtype_name,
            "threads": threads,
            "provider": name,
            # JSON has no NaN; a baseline whose error is only reported can have one
            "error": errors[name] if math.isfinite(errors[name]) else None,
            **asdict(timing),
        }
        for name, timing in timings.items()
    ]


def run_all(cases: list[Case], threads: list[int], seconds: float) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    work = [(case, count) for case in cases for count in threads]
    with tqdm(work, unit="case", disable=None) as progress:
        for case, count in progress:
            progress.set_description(f"{case.id}, {count} threads")
            records += run_case(case, count, seconds)
    return records


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check and time discrete_grad against baselines; write BENCHMARKS.md."
    )
    parser.add_argument("--quick", action="store_true", help="everyday cases, under five minutes")
    parser.add_argument("--threads", type=int, nargs="+", help="default: all cores")
    parser.add_argument("--seconds", type=float, help="time for each provider of a case")
    parser.add_argument("--filter", default="", help="only cases with this in their name; prints")
    parser.add_argument("--output", type=Path, help="another file; BENCHMARKS.md stays as it is")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    every = QUICK_CASES if options.quick else CASES
    cases = [case for case in every if options.filter in case.id]
    if not cases:
        raise SystemExit(f"no case has {options.filter!r} in its name: {[c.id for c in every]}")
    threads = options.threads or [cores()]
    seconds = options.seconds or (0.2 if options.quick else 0.5)

    record = environment()
    torch.set_num_threads(threads[-1])
    dispatch = dispatch_cost.measure(seconds)
    results = run_all(cases, threads, seconds)
    record["load_average_after"] = load_average()
    written = {
        "environment": record,
        "quick": options.quick,
        "dispatch_cost": dispatch,
        "results": results,
    }
    print(report.host(written))
    if options.output:
        save(written, options.output)
    elif not options.filter:
        save(written, RESULTS / f"{host_kind()}-{today()}.json")
        print(f"wrote {report.write()}")


if __name__ == "__main__":
    main()
