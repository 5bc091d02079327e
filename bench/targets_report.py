# SPDX-License-Identifier: Apache-2.0
"""The section of BENCHMARKS.md on the numbers to reach, from what bench/targets.py wrote."""

from __future__ import annotations

import json

from bounds import BOUNDS
from machine import RESULTS
from providers import BASELINES, OURS
from tables import Record, duration, multiple, table, taken_on

_REACHED = {True: "yes", False: "**no**", None: "-"}


def section(written: Record) -> str:
    """The table, what each baseline took, and the bounds of the rows that are missed."""
    header = ["work", "published", "discrete_grad", "fastest published", "over it", "to reach"]
    header += ["reached", "over the fastest of all"]
    rows = [_cells(row) for row in written["rows"]]
    compiled = "" if not written["quick"] else " Nothing compiled was compared."
    missed = [
        f"- {row['work']}: {BOUNDS[row['work']](row)}"
        for row in written["rows"]
        if row["reached"] is False and row["work"] in BOUNDS
    ]
    parts = [
        "## Numbers to reach\n",
        f"{taken_on(written['environment'], written['quick'])} float32, {written['threads']} "
        "threads. `published`: the times this library set out from, of the authors' code or the "
        "paper's algorithm on two other cores. `fastest published`: the fastest here of the "
        "methods with published code, compiled or not, that gives the same result within 1e-3; "
        "`over the fastest of all` counts those too that were only made here, at their best. All "
        f"that ran are below.{compiled}\n",
        table(header, rows),
        *(["What stops the rows that are missed:\n", "\n".join(missed) + "\n"] if missed else []),
        _speedups(written["rows"]),
        _published_layer(),
    ]
    return "\n".join(part for part in parts if part)


def _cells(row: Record) -> list[str]:
    ours = duration(row["ours"]) if "ours" in row else ""
    best = f"{row['best']}, {duration(row['best_seconds'])}" if "best" in row else ""
    of_all = f"{row['over_any']:.3g}x ({row['any_best']})" if "over_any" in row else ""
    cells = [row["work"], row["published"], ours, best, row["measured"], row["to_reach"]]
    return [*cells, _REACHED[row["reached"]], of_all]


def _speedups(rows: list[Record]) -> str:
    """Time of each baseline over ours, with its error."""
    lines = []
    for row in rows:
        by_name = {record["provider"]: record for record in row["details"] if "provider" in record}
        others = [r for n, r in by_name.items() if n.removesuffix(", compiled") in BASELINES]
        for record in sorted(others, key=lambda record: record["p50"]):
            error = "not finite" if record["error"] is None else f"{record['error']:.0e}"
            ratio = multiple(record["p50"] / by_name[OURS]["p50"])
            lines.append([row["work"], record["provider"], duration(record["p50"]), ratio, error])
    if not lines:
        return ""
    header = ["work", "baseline", "time", "over ours", "its error"]
    return "Every baseline of these rows:\n\n" + table(header, lines)


def _published_layer() -> str:
    """SFESS's layer of learning to explain, as bench/clients.py recorded it."""
    path = RESULTS / "clients.json"
    if not path.exists():
        return ""
    written = json.loads(path.read_text(encoding="utf-8"))
    found = [case for case in written["cases"] if case["task"] == "learning to explain"]
    if not found:
        return ""
    case = found[0]
    times = {name: duration(case[name]["p50"]) for name in ("exact", "compat", "circuit")}
    return (
        f"The SIMPLE layer of SFESS for learning to explain (rows {case['rows']}, n = {case['n']}, "
        f"k = {case['k']}; forward + backward, {written['threads']} thread) took 12.9 s as "
        f"published, on another core. On the published circuit's arithmetic, all nodes of a level "
        f"at once: {times['circuit']}; through `discrete_grad.compat` in the same run: "
        f"{times['compat']} in the published law ({multiple(case['speedup']['compat'])}x), "
        f"{times['exact']} in the exact one ({multiple(case['speedup']['exact'])}x), "
        f"{written['environment']['date'][:10]} (docs/clients.md, bench/clients.py).\n"
    )
