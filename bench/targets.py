# SPDX-License-Identifier: Apache-2.0
"""The numbers to reach, measured: each beside the fastest published way to the same result.

    python bench/targets.py [--quick] [--out FILE]

It writes bench/results/targets.json (or the file that --out names) and BENCHMARKS.md.

float32, all cores. A speed-up is the time of the fastest published baseline over ours, medians of
one run with all of them in turns, after each was held to the reference; baselines as they are
written and through torch.compile (compiled.py, only in full runs: it compiles for minutes). A
baseline with an error above 1e-3 is not counted. Beside it stands the fastest of all baselines:
those with the tilt of tilt.py are not published anywhere. I-MLE is held to its published algorithm
(perturbed.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import compiled
import memory
import perturbed
import report
import torch
from cases import Case
from checks import SAME_QUANTITY
from machine import RESULTS, cores, environment, load_average, save
from measure import time_in_turns
from providers import BASELINES, DP, MARGINALS, OURS, PUBLISHED, SOFTMAX, Provider, providers_of
from run import run_case
from tqdm import tqdm

FILE = "targets.json"
Record = dict[str, Any]

# Rows of 1024 items and more, for the ratio to torch.softmax; and a sampler's everyday cases.
_LONG_ROWS = ((64, 1024, 64), (1, 8192, 1000), (16, 65536, 4096), (1, 1_000_000, 100_000))
_SAMPLED = ((1024, 64, 8), (64, 256, 32), *_LONG_ROWS)
_MILLION = 1_000_000
_ANY_K = (1, 10, 1000, 100_000, 500_000)
_NO_GPU = "not yet run on a GPU"


@dataclass(frozen=True)
class Settings:
    threads: int
    seconds: float
    compiled: bool


@dataclass(frozen=True)
class Row:
    """``measure`` gives what it finds under the keys of ``_record``."""

    work: str
    published: str
    to_reach: str
    measure: Callable[[Settings], Record]


def _record(
    measured: str, reached: bool | None, details: list[Record] | None = None, **more: object
) -> Record:
    """``measured``: the number beside the one to reach; ``details``: what it was made from."""
    return {"measured": measured, "reached": reached, **more, "details": details or []}


def right(record: Record) -> bool:
    """Whether it computes what it is timed for."""
    return record["error"] is not None and record["error"] <= SAME_QUANTITY[torch.float32]


def fastest(records: list[Record], of: Iterable[str] = PUBLISHED) -> Record:
    """The fastest of some baselines, compiled or not, that is right."""
    names = {name + suffix for name in of for suffix in ("", compiled.SUFFIX)}
    found = [record for record in records if record["provider"] in names and right(record)]
    return min(found, key=lambda record: record["p50"])


def _ours(records: list[Record]) -> Record:
    return next(record for record in records if record["provider"] == OURS)


def _of(case: Case, settings: Settings, names: tuple[str, ...] | None = None) -> list[Record]:
    providers: list[Provider] = providers_of(case)
    if names is not None:
        providers = [provider for provider in providers if provider.name in names]
    elif settings.compiled:
        providers += compiled.providers_of(case)
    return run_case(case, settings.threads, settings.seconds, providers)


def _beside(ours: Record, records: list[Record]) -> Record:
    """Our time, the fastest published baseline's, and the fastest one's of all."""
    best, any_best = fastest(records), fastest(records, BASELINES)
    return {
        "ours": ours["p50"],
        "best": best["provider"],
        "best_seconds": best["p50"],
        "over_any": float(f"{any_best['p50'] / ours['p50']:.3g}"),
        "any_best": any_best["provider"],
    }


def speedup(case: Case, goal: float, settings: Settings) -> Record:
    records = _of(case, settings)
    ours, best = _ours(records), fastest(records)
    ratio = best["p50"] / ours["p50"]
    # The same call where there is next to nothing to do: what no kernel can spare.
    fixed = _ours(_of(Case(case.op, 1, 8, 2), settings, (OURS, SOFTMAX)))["p50"]
    beside = _beside(ours, records)
    return _record(
        f"{ratio:.3g}x", ratio >= goal, records, **beside, goal=goal, fixed_seconds=fixed
    )


def over_dp(case: Case, seconds: float, goal: float, settings: Settings) -> Record:
    """Under so many seconds, and so much faster than the dynamic programme."""
    names = (OURS, *BASELINES)
    records = _of(case, settings, names)
    ours = _ours(records)
    dp = next(record for record in records if record["provider"] == DP)
    ratio = dp["p50"] / ours["p50"]
    return _record(
        f"{ours['p50'] * 1e3:.3g} ms, {ratio:,.0f}x over the DP",
        ours["p50"] < seconds and ratio >= goal,
        records,
        **_beside(ours, records),
    )


def any_k(seconds: float, spread: float, settings: Settings) -> Record:
    """A row of 10^6 items: under so many seconds, and the slowest k near the fastest."""
    records = [
        _ours(_of(Case("marginals", 1, _MILLION, k), settings, (OURS, SOFTMAX))) for k in _ANY_K
    ]
    times = {record["k"]: record["p50"] for record in records}
    ours, ratio = times[100_000], max(times.values()) / min(times.values())
    return _record(
        f"{ours * 1e3:.3g} ms, slowest k over fastest {ratio:.2f}",
        max(times.values()) <= seconds and ratio <= spread,
        records,
        ours=ours,
    )


def at_most(
    op: str, shapes: tuple[tuple[int, int, int], ...], yardstick: str, most: float, s: Settings
) -> Record:
    """Ours over a yardstick, the worst of several shapes."""
    records, ratios = [], {}
    for shape in shapes:
        found = _of(Case(op, *shape), s, (OURS, yardstick))
        other = next(record for record in found if record["provider"] == yardstick)
        ratios[shape] = _ours(found)["p50"] / other["p50"]
        records += found
    worst = max(ratios, key=lambda shape: ratios[shape])
    rows, n, k = worst
    return _record(
        f"{min(ratios.values()):.2g}x to {ratios[worst]:.2g}x (rows {rows:,}, n {n:,}, k {k:,})",
        ratios[worst] <= most,
        records,
    )


def imle(noise: str, goal: float, settings: Settings) -> Record:
    case = perturbed.Case(256, 1024, 16, 10, noise)
    perturbed.check(case)
    torch.set_num_threads(settings.threads)
    calls = {name: perturbed.calls(case, perturbed.MODES[1], name) for name in perturbed.PROVIDERS}
    timings = time_in_turns(calls, seconds=settings.seconds, most_rounds=100)
    ours, published = (timings[name].p50 for name in perturbed.PROVIDERS)
    return _record(
        f"{published / ours:.3g}x",
        published / ours >= goal,
        ours=ours,
        best="published algorithm",
        best_seconds=published,
    )


def simple_memory(settings: Settings) -> Record:
    found = memory.measure(memory.CASE, settings.threads)
    ours = found[OURS]
    assert isinstance(ours, dict)
    return _record(
        f"{ours['beyond_outputs_bytes'] / 2**20:.2g} MiB, {max(ours['over_logits'], 0):.2g} of the "
        "logits",
        ours["over_logits"] < memory.LIMIT,
        [found],
    )


def not_run(settings: Settings) -> Record:
    return _record(_NO_GPU, None)


_MARGINALS = Case("marginals", 64, 256, 32)
_GRAD = Case("marginals_grad", 64, 256, 32)
_EXPERTS = Case("marginals_grad", 1024, 64, 8)
_DP_ROW = Case("marginals", 1, 8192, 1000)
ROWS = (
    Row("marginals, B=64 n=256 k=32", "14 ms circuit, 23 ms DP", "100x",
        partial(speedup, _MARGINALS, 100.0)),
    Row("marginals forward + backward, same", "303 ms circuit, 73 ms DP", "500x",
        partial(speedup, _GRAD, 500.0)),
    Row("marginals forward + backward, B=1024 n=64 k=8", "229 ms circuit, 33 ms DP", "100x",
        partial(speedup, _EXPERTS, 100.0)),
    Row("marginals, B=1 n=8192 k=1000", "DP of 8192 steps", "under 1 ms, 1000x over the DP",
        partial(over_dp, _DP_ROW, 1e-3, 1000.0)),
    Row("marginals, n=10^6, k=10^5", "none", "25 ms, any k within 1.5x",
        partial(any_k, 25e-3, 1.5)),
    Row("marginals over torch.softmax of the same tensor, n >= 1024", "", "at most 10x",
        partial(at_most, "marginals", _LONG_ROWS, SOFTMAX, 10.0)),
    Row("the same on a GPU", "", "at most 4x", not_run),
    Row("exact sample over the marginals", "DP table, then n sequential steps", "at most 2x",
        partial(at_most, "sample", _SAMPLED, MARGINALS, 2.0)),
    Row("I-MLE forward + backward, Gumbel, B=256 n=1024 k=16 S=10", "53 ms", "5x",
        partial(imle, "gumbel", 5.0)),
    Row("the same with Sum-of-Gamma", "1.71 s", "60x", partial(imle, "sum_of_gamma", 60.0)),
    Row("memory of SIMPLE forward + backward beyond inputs and outputs, B=64 n=65536 k=4096",
        "O(B n k)", f"below {memory.LIMIT} of the logits", simple_memory),
    Row("GPU, n=4 k=2 (N:M masks), 10^8 groups", "", "80 % of the copy bandwidth", not_run),
    Row("GPU, perturbed top-k against torch.topk(logits + noise)", "", "5x", not_run),
)  # fmt: skip


def fill(rows: tuple[Row, ...], settings: Settings) -> list[Record]:
    filled = []
    with tqdm(rows, unit="row", disable=None) as progress:
        for row in progress:
            progress.set_description(row.work)
            about = {"work": row.work, "published": row.published, "to_reach": row.to_reach}
            filled.append({**about, **row.measure(settings)})
    return filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less time, and nothing compiled")
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--out", type=Path, help="another file; BENCHMARKS.md stays as it is")
    options = parser.parse_args()
    torch.manual_seed(0)
    record = environment()
    settings = Settings(options.threads, 0.2 if options.quick else 1.0, not options.quick)
    rows = fill(ROWS, settings)
    record["load_average_after"] = load_average()
    written = {
        "environment": record,
        "quick": options.quick,
        "threads": options.threads,
        "rows": rows,
    }
    for row in rows:
        print(f"{row['work']}: {row['measured']}, to reach {row['to_reach']}: {row['reached']}")
    save(written, options.out or RESULTS / FILE)
    if not options.out:
        print(f"wrote {report.write()}")


if __name__ == "__main__":
    main()
