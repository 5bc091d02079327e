# SPDX-License-Identifier: Apache-2.0
"""BENCHMARKS.md from the files in bench/results, and from nothing else.

    python bench/report.py

Of each kind of host the newest file is shown; perturbed.json and crossover.json as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cases import OPS
from dispatch_cost import FORWARD_LIMIT, ITEMS_TAKEN, LIMITED, SHAPE
from machine import RESULTS, ROOT
from providers import DESCRIPTIONS, DP, MARGINALS, OURS, SOFTMAX

Record = dict[str, Any]
OUTPUT = ROOT / "BENCHMARKS.md"

_INTRODUCTION = """\
# Benchmarks

Written by `python bench/run.py` from the files in `bench/results/`; do not edit. `make bench` takes
the everyday cases again on your machine (under five minutes), `python bench/run.py` all of them,
`python bench/crossover.py` adds the crossover between the methods, and `python bench/perturbed.py`
I-MLE.

Before anything is timed, its result is held to the float64 reference. Providers of a case are timed
in turns within one process; times are the median over the rounds, with the 20th and 80th percentile
in brackets where it is ours; ratios are of medians of the same run, above 1 where this library is
faster. `error` is the largest absolute deviation from the reference (for samplers: the distance of
the draws from the exact law, in standard deviations).
"""


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:.3g} {unit}"
    raise AssertionError


def multiple(ratio: float) -> str:
    """Two digits or three, never an exponent."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:#.2g}".removesuffix(".")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, columns of numbers to the right."""
    numbers = [any(row[at].lstrip("*")[:1].isdigit() for row in rows) for at in range(len(header))]
    lines = [header, ["---:" if number else ":---" for number in numbers], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def newest_results() -> list[Record]:
    """The newest file of each kind of host."""
    newest: dict[str, Record] = {}
    for path in sorted(RESULTS.glob("*.json")):
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


def _spread(record: Record) -> str:
    low, high = duration(record["p20"]), duration(record["p80"])
    return f"{duration(record['p50'])} ({low} - {high})"


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
        cells += [ours["dtype"], str(ours["threads"]), _spread(ours)]
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
            parts += [f"### {title}\n", rows]
    parts += [f"### Cost of a call: marginals of a {SHAPE} tensor, k = {ITEMS_TAKEN}\n"]
    parts += [_dispatch_table(written["dispatch_cost"])]
    return "\n".join(parts)


def _crossover(written: Record) -> str:
    about = written["environment"]
    rules = table(
        ["dtype", "rule", "mean loss", "worst loss", "worst case"],
        [
            [
                dtype,
                name,
                f"{loss['mean_loss']:.3f}",
                f"{loss['worst_loss']:.2f}",
                loss["worst_case"],
            ]
            for dtype, rules in written["rules"].items()
            for name, loss in rules.items()
        ],
    )
    parts = [
        "## Which method `auto` takes\n",
        f"{about['processor']}, {about['cores']} cores, {about['date'][:10]}, load average "
        f"{about['load_average']} before, {about['load_average_after']} after. A loss is the time "
        'of the method that a rule takes over that of the faster of "contour" and "linear"; the '
        'mean is geometric over all cells. "auto" is the rule of discrete_grad/ops/methods.py; the '
        "others take one method always.\n",
        rules,
        'Time of "linear" over that of "contour", forward | forward + backward, and the fastest '
        "where that is neither:\n",
        _crossover_cells(written["cells"]),
    ]
    return "\n".join(parts)


def _crossover_cells(cells: list[Record]) -> str:
    """float32, one line for each n and k, one column for each number of rows."""
    chosen = [cell for cell in cells if cell["dtype"] == "float32" and 2 * cell["k"] <= cell["n"]]
    by_place = {(c["n"], c["k"], c["rows"], c["op"]): c["seconds"] for c in chosen}
    rows_counts = sorted({cell["rows"] for cell in chosen})

    def ratios(n: int, k: int, rows: int) -> str:
        texts = []
        for op in ("marginals", "marginals_grad"):
            seconds = by_place[n, k, rows, op]
            text = f"{seconds['linear'] / seconds['contour']:.2f}"
            if seconds["recursion"] < min(seconds["linear"], seconds["contour"]):
                text += " (recursion)"
            texts.append(text)
        return ", ".join(texts)

    lines = [
        [str(n), str(k), str(n * k), *(ratios(n, k, rows) for rows in rows_counts)]
        for n, k in sorted({(cell["n"], cell["k"]) for cell in chosen})
    ]
    return table(["n", "k", "n k", *(f"{rows} rows" for rows in rows_counts)], lines)


def _perturbed(written: Record) -> str:
    about = written["environment"]

    def row(case: Record) -> list[str]:
        ours, published = case["discrete_grad"], case["published"]
        return [
            case["noise"],
            *(f"{case[part]:,}" for part in ("rows", "n", "k", "samples", "threads")),
            case["mode"],
            _spread(ours),
            duration(published["p50"]),
            f"**{multiple(case['speedup'])}**",
            *(f"{one['peak_bytes'] / 2**20:.1f}" for one in (ours, published)),
        ]

    header = ["noise", "rows", "n", "k", "samples", "threads", "pass", "discrete_grad"]
    header += ["published", "published / ours", "our MiB", "published MiB"]
    parts = [
        "## I-MLE for top-k\n",
        f"{about['processor']}, {about['cores']} cores, {about['date'][:10]}, load average "
        f"{about['load_average']} before, {about['load_average_after']} after. `dg.imle_topk` "
        "beside a transcript in plain PyTorch of the published algorithm (published_imle.py): all "
        "noise stored, torch.topk, the gamma variates of Sum-of-Gamma noise drawn one by one. "
        "float32. Memory is what one call adds to a fresh process at its highest.\n",
        table(header, [row(case) for case in written["cases"]]),
    ]
    return "\n".join(parts)


def write() -> Path:
    """Write BENCHMARKS.md, and say where."""
    from gpu_report import newest, section  # which takes its tables from this module

    parts = [_INTRODUCTION, *(host(written) for written in newest_results())]
    parts += [section(written) for written in newest(RESULTS)]
    for name, part in (("perturbed", _perturbed), ("crossover", _crossover)):
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts.append(part(json.loads(path.read_text(encoding="utf-8"))))
    names = "\n".join(f"- `{name}`: {text}" for name, text in DESCRIPTIONS.items())
    parts.insert(1, f"Who is compared:\n\n{names}\n")
    OUTPUT.write_text("\n".join(parts), encoding="utf-8")
    return OUTPUT


if __name__ == "__main__":
    print(f"wrote {write()}")
