# SPDX-License-Identifier: Apache-2.0
"""The section of BENCHMARKS.md on one GPU, from what bench/gpu.py wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tables import Record, duration, multiple, table

TITLES = {
    "marginals": "Marginals, forward",
    "marginals_grad": "Marginals, forward + backward",
    "sample": "Exact sampling, k-hot",
}
PERTURBED_TITLES = {
    "perturbed": "Perturbed top-k, k-hot",
    "perturbed_difference": "Perturbed top-k: difference of two selections",
}
CUDA_RATIO = "CUDA C++ / ours"


def newest(results: Path) -> list[Record]:
    """The newest file of each kind of GPU in a folder."""
    found: dict[str, Record] = {}
    for path in sorted(results.glob("gpu-*.json")):
        written = json.loads(path.read_text(encoding="utf-8"))
        kind = written["environment"]["host_kind"]
        if kind not in found or _date(found[kind]) < _date(written):
            found[kind] = written
    return [found[kind] for kind in sorted(found)]


def _date(written: Record) -> str:
    return str(written["environment"]["date"])


def _time(record: Record) -> str:
    return duration(record["p50"]) if record["p50"] is not None else f"- ({record['reason']})"


def _ratio(record: Record) -> str:
    if record.get("over_ours") is None:
        return f"- ({record['reason']})" if record["reason"] else "-"
    return f"**{multiple(record['over_ours'])}**"


def _cells(ours: Record, dp: Record, softmax: Record) -> list[str]:
    cells = [*(f"{ours[part]:,}" for part in ("rows", "n", "k")), ours["dtype"], _time(ours)]
    timed = ours["p50"] is not None
    cells.append(f"{ours['floor'] / ours['p50']:.0%}" if timed else "-")
    over_softmax = timed and softmax["p50"] is not None
    cells.append(multiple(ours["p50"] / softmax["p50"]) if over_softmax else "-")
    cells.append(_ratio(dp))
    cells.append(f"{ours['peak_bytes'] / 2**20:,.1f}" if timed else "-")
    cells.append(f"{ours['error']:.1g}" if ours["error"] is not None else "-")
    return cells


def tables(results: list[Record]) -> str:
    """One table for each op."""
    grouped: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record in results:
        case = tuple(record[key] for key in ("op", "rows", "n", "k", "dtype"))
        grouped.setdefault(case, {})[record["provider"]] = record
    header = ["rows", "n", "k", "dtype", "discrete_grad", "of copy bandwidth", "ours / softmax"]
    header += ["DP / ours", "MiB beyond inputs and outputs", "our error", CUDA_RATIO]
    parts = []
    for op, title in TITLES.items():
        rows = [
            [
                *_cells(providers["discrete_grad"], providers["dp"], providers["softmax"]),
                _ratio_of("cuda", providers),
            ]
            for (of, *_), providers in grouped.items()
            if of == op and {"discrete_grad", "dp", "softmax"} <= providers.keys()
        ]
        if rows:
            parts.append(f"### {title}\n\n{table(header, rows)}")
    return "\n".join(parts)


def perturbed_tables(results: list[Record]) -> str:
    """One table for each op of perturbed top-k, beside torch.topk of logits plus noise."""
    header = ["rows", "n", "k", "samples", "discrete_grad", "of copy bandwidth"]
    header += ["torch.topk / ours", "MiB beyond inputs and outputs", "rows that differ", CUDA_RATIO]
    parts = []
    for op, title in PERTURBED_TITLES.items():
        of_op = [record for record in results if record["op"] == op]
        grouped: dict[tuple[int, ...], dict[str, Record]] = {}
        for record in of_op:
            grouped.setdefault(_problem(record), {})[record["provider"]] = record
        rows = []
        for providers in grouped.values():
            ours = providers["discrete_grad"]
            cells = [f"{number:,}" for number in _problem(ours)] + [_time(ours)]
            timed = ours["p50"] is not None
            cells.append(f"{ours['floor'] / ours['p50']:.0%}" if timed else "-")
            cells.append(_ratio(providers["torch.topk"]))
            cells.append(f"{ours['peak_bytes'] / 2**20:,.1f}" if timed else "-")
            cells.append(f"{ours['error']:.2%}" if ours["error"] is not None else "-")
            cells.append(_ratio_of("cuda", providers))
            rows.append(cells)
        if rows:
            parts.append(f"### {title}\n\n{table(header, rows)}")
    return "\n".join(parts)


def _ratio_of(name: str, providers: dict[str, Record]) -> str:
    """A dash for results that were taken before there was this provider."""
    return _ratio(providers[name]) if name in providers else "-"


def _problem(record: Record) -> tuple[int, ...]:
    return tuple(record[key] for key in ("rows", "n", "k", "samples"))


def section(written: Record) -> str:
    """The device, the versions, the tables."""
    about = written["environment"]
    commit = about["commit"][:12] if about["commit"] else "outside a repository"
    if about["uncommitted_changes"]:
        commit += " with uncommitted changes"
    return "\n".join(
        [
            f"## {about['device']}, {about['date'][:10]}\n",
            f"{about['multiprocessors']} multiprocessors, {about['device_memory_gib']} GiB, "
            f"measured copy bandwidth {about['copy_bandwidth'] / 1e12:.2f} TB/s (read + written). "
            f"discrete_grad {about['discrete_grad']} ({commit}), torch {about['torch']}, "
            f"Python {about['python']}. Bandwidth: the least bytes the op must move, over its "
            "time, over the bandwidth of a copy. Softmax: of the same tensor, forward or forward "
            "+ backward.\n",
            tables(written["gpu_results"]),
            perturbed_tables(written["gpu_results"]),
        ]
    )
