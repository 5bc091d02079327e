# SPDX-License-Identifier: Apache-2.0
"""BENCHMARKS.md from the files in bench/results, and from nothing else.

    python bench/report.py

Of each kind of host the newest file is shown; files with a section of their own as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import baselines_report
import crossover_report
import gpu_report
import kernels_report
import memory_report
import perturbed_report
import scaling_report
import targets_report
from cases import OPS
from dispatch_cost import FORWARD_LIMIT, ITEMS_TAKEN, LIMITED, SHAPE
from machine import RESULTS, ROOT
from providers import DESCRIPTIONS, DP, MARGINALS, OURS, SOFTMAX
from tables import Record, duration, multiple, spread, table

OUTPUT = ROOT / "BENCHMARKS.md"

_INTRODUCTION = """\
# Benchmarks

Written by `python bench/report.py` from the files in `bench/results/`; do not edit. `make bench`
measures the everyday cases again on your machine (under five minutes), `make bench-full` all but
the crossover between the methods (`python bench/crossover.py`) and the adapter for clients
(`python bench/clients.py`); `python bench/targets.py` fills the table of numbers to reach.

Before anything is timed, its result is held to the float64 reference. Providers of a case are timed
in turns within one process; times are the median over the rounds, with the 20th and 80th percentile
in brackets where it is ours; ratios are of medians of the same run, above 1 where this library is
faster. `error` is the largest absolute deviation from the reference (for samplers: the distance of
the draws from the exact law, in standard deviations).
"""


def newest_results(results: Path) -> list[Record]:
    """The newest file of each kind of host in a folder."""
    newest: dict[str, Record] = {}
    for path in sorted(results.glob("*.json")):
        written = json.loads(path.read_text(encoding="utf-8"))
        if "results" in written:
            kind = written["environment"]["host_kind"]
            known = newest.get(kind)
            if known is None or known["environment"]["date"] < written["environment"]["date"]:
                newest[kind] = written
    return [newest[kind] for kind in sorted(newest)]


def _cases(results: list[Record]) -> list[dict[str, Record]]:
    """Records by provider, one dictionary for each case in the order of the file."""
    keys = ("op", "rows", "n", "k", "samples", "dtype", "threads")
    grouped: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record in results:
        case = tuple(record[key] for key in keys)
        grouped.setdefault(case, {})[record["provider"]] = record
    return list(grouped.values())


def _op_table(cases: list[dict[str, Record]], op: str) -> str:
    """One row for each case: ours, the baseline and its ratio, yardsticks as multiples of ours."""
    draws = ["draws"] if op in ("sample", "simple_grad") else []
    yardsticks = (MARGINALS, SOFTMAX) if op == "sample" else (SOFTMAX,)
    header = ["rows", "n", "k", *draws, "dtype", "threads", "discrete_grad", "DP", "DP / ours"]
    per_draw = " per draw" if draws else ""
    header += [*(f"ours{per_draw} / {name}" for name in yardsticks), "our error", "DP's error"]

    def row(case: dict[str, Record]) -> list[str]:
        ours, dp = case[OURS], case.get(DP)
        cells = [f"{ours[part]:,}" for part in ("rows", "n", "k", *(["samples"] if draws else []))]
        cells += [ours["dtype"], str(ours["threads"]), spread(ours)]
        cells += (
            [duration(dp["p50"]), f"**{multiple(dp['p50'] / ours['p50'])}**"] if dp else ["-", "-"]
        )
        one = ours["p50"] / ours["samples"]
        cells += [multiple(one / case[name]["p50"]) for name in yardsticks]
        return [*cells, f"{ours['error']:.1g}", f"{dp['error']:.1g}" if dp else "-"]

    rows = [row(case) for case in cases if case[OURS]["op"] == op]
    return table(header, rows) if rows else ""


def _dispatch_table(dispatch: dict[str, Record]) -> str:
    rows = []
    for name, timing in dispatch.items():
        times = [f"{timing[part] * 1e6:.1f}" for part in ("p50", "p20", "p80")]
        rows.append([name, *times, f"{FORWARD_LIMIT * 1e6:.0f}" if name == LIMITED else ""])
    return table(["microseconds per call", "median", "p20", "p80", "to stay under"], rows)


def host(written: Record) -> str:
    """The section of one results file."""
    about = written["environment"]
    commit = about["commit"][:12] if about["commit"] else "outside a repository"
    if about["uncommitted_changes"]:
        commit += " with uncommitted changes"
    memory = f", {about['memory_gib']} GiB" if about["memory_gib"] else ""
    parts = [
        f"## {about['host_kind']}, {about['date'][:10]}\n",
        f"{about['processor']}, {about['cores']} cores{memory}, {about['system']}, "
        f"SIMD {about['simd']}. discrete_grad {about['discrete_grad']} ({commit}), "
        f"torch {about['torch']}, Python {about['python']}. Build: {about['build']}. "
        f"Load average over 1, 5 and 15 minutes before the run: {about['load_average']}, "
        f"after it: {about['load_average_after']}. "
        f"{'Quick run' if written['quick'] else 'Full run'}.\n",
    ]
    cases = _cases(written["results"])
    for op, title in OPS.items():
        rows = _op_table(cases, op)
        if rows:
            parts += [f"### {title}\n", rows, baselines_report.tables(cases, op)]
    parts += [f"### Cost of a call: marginals of a {SHAPE} tensor, k = {ITEMS_TAKEN}\n"]
    parts += [_dispatch_table(written["dispatch_cost"])]
    return "\n".join(parts)


_Sections = tuple[tuple[str, Callable[[Record], str]], ...]
# Sections that have a file of their own, before and after those of run.py.
_FIRST = (("targets", targets_report.section),)
_LAST = (
    ("scaling", scaling_report.section),
    ("memory", memory_report.section),
    ("perturbed", perturbed_report.section),
    ("crossover", crossover_report.section),
    ("kernels", kernels_report.by_commit),
    ("kernels-simd", kernels_report.by_level),
    ("instructions", kernels_report.by_instruction),
)


def _sections(
    results: Path, sections: tuple[tuple[str, Callable[[Record], str]], ...]
) -> list[str]:
    paths = [(results / f"{name}.json", make) for name, make in sections]
    return [make(json.loads(p.read_text(encoding="utf-8"))) for p, make in paths if p.exists()]


def text(results: Path = RESULTS) -> str:
    """BENCHMARKS.md from the files of one folder."""
    names = "\n".join(f"- `{name}`: {text}" for name, text in DESCRIPTIONS.items())
    parts = [_INTRODUCTION, *_sections(results, _FIRST), f"## Who is compared\n\n{names}\n"]
    parts += [host(written) for written in newest_results(results)]
    parts += [gpu_report.section(written) for written in gpu_report.newest(results)]
    return "\n".join(parts + _sections(results, _LAST))


def write(results: Path = RESULTS, output: Path = OUTPUT) -> Path:
    """Write BENCHMARKS.md, and return where."""
    output.write_text(text(results), encoding="utf-8")
    return output


if __name__ == "__main__":
    print(f"wrote {write()}")
