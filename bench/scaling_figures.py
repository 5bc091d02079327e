# SPDX-License-Identifier: Apache-2.0
"""The figures of BENCHMARKS.md, from what bench/scaling.py wrote. All axes are logarithmic.

python bench/scaling_figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from machine import RESULTS, ROOT
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from providers import CIRCUIT, DFT, DFT_TILTED, DP, OURS, SOFTMAX, TREE

Record = dict[str, Any]

# After Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind readers too.
_STYLES = {
    OURS: ("#0072B2", "o"),
    DP: ("#D55E00", "s"),
    CIRCUIT: ("#E69F00", "^"),
    TREE: ("#009E73", "D"),
    SOFTMAX: ("#999999", "x"),
    DFT: ("#CC79A7", "v"),
    DFT_TILTED: ("#A0527C", "v"),
    "contour": ("#0072B2", "o"),
    "linear": ("#56B4E9", "P"),
    "recursion": ("#003A5D", "*"),
}
_LABELS = {
    DP: "log-space DP",
    CIRCUIT: "circuit",
    TREE: "FFT product tree",
    SOFTMAX: "torch.softmax",
    DFT: "DFT, complex64",
    DFT_TILTED: "DFT, tilted",
}
_TITLES = {
    "marginals": "marginals",
    "marginals_grad": "marginals, forward + backward",
    "sample": "exact sample",
}


def _line(
    axes: Axes, records: list[Record], over: str, name: str, label: str, **style: Any
) -> None:
    points = sorted((record[over], record["p50"]) for record in records)
    if points:
        colour, marker = _STYLES[name]
        places, times = zip(*points, strict=True)
        axes.loglog(places, times, color=colour, marker=marker, markersize=4, label=label, **style)


def _finish(axes: Axes, x: str, y: str = "seconds") -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", alpha=0.3)


def _legend_below(figure: Any, axes: Axes) -> None:
    """Outside of the panels, where it hides no point."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    print(f"wrote {path}")


def _names(records: list[Record]) -> list[str]:
    present = {record["provider"] for record in records}
    return [name for name in _STYLES if name in present]


def _by_op(records: list[Record], over: str, x: str, path: Path) -> None:
    """One panel for each op, one line for each provider."""
    ops = [op for op in _TITLES if any(record["op"] == op for record in records)]
    figure, axes = plt.subplots(
        1, len(ops), figsize=(4 * len(ops), 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for one, op in zip(axes[0], ops, strict=True):
        for name in _names(records):
            mine = [r for r in records if r["op"] == op and r["provider"] == name]
            _line(one, mine, over, name, _LABELS.get(name, name))
        one.set_title(_TITLES[op])
        _finish(one, x, "seconds" if one is axes[0][0] else "")
    _legend_below(figure, axes[0][0])
    _save(figure, path)


def _over_k(records: list[Record], path: Path) -> None:
    """Left: this library at n = 65536, a line for each op. Right: marginals at n = 1024, all."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.5, 3.8), sharey=True, layout="constrained"
    )
    for op, dashes in zip(_TITLES, ("-", "--", ":"), strict=True):
        mine = [r for r in records if r["op"] == op and r["n"] == 65536 and r["provider"] == OURS]
        _line(left, mine, "k", OURS, _TITLES[op], linestyle=dashes)
    left.set_title("n = 65,536, discrete_grad")
    short = [record for record in records if record["n"] == 1024]
    for name in _names(short):
        mine = [record for record in short if record["provider"] == name]
        _line(right, mine, "k", name, _LABELS.get(name, name))
    right.set_title("n = 1,024, marginals")
    for axes in (left, right):
        _finish(axes, "k", "seconds" if axes is left else "")
    left.legend(fontsize=8)
    _legend_below(figure, right)
    _save(figure, path)


def _accuracy(records: list[Record], path: Path) -> None:
    """Filled markers are float32, hollow ones float64."""
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for name in _names(records):
        colour, marker = _STYLES[name]
        label = f"discrete_grad, {name}" if name in ("contour", "linear", "recursion") else None
        for record in records:
            if record["provider"] == name and record["error"]:
                single = record["dtype"] == "float32"
                axes.loglog(
                    record["p50"], record["error"], marker, markersize=8, color=colour,
                    fillstyle="full" if single else "none", linestyle="none",
                    label=(label or _LABELS[name]) if single else None,
                )  # fmt: skip
    axes.set_title("filled: float32, hollow: float64")
    _finish(axes, "seconds", "largest absolute error")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def draw(written: Record, folder: Path) -> None:
    """bench-n.png, bench-k.png, bench-rows.png and bench-accuracy.png in a folder."""
    _by_op(written["over_n"], "n", "n (16 rows, k = n / 16)", folder / "bench-n.png")
    _over_k(written["over_k"], folder / "bench-k.png")
    _by_op(written["over_rows"], "rows", "rows (n = 64, k = 8)", folder / "bench-rows.png")
    _accuracy(written["accuracy"], folder / "bench-accuracy.png")


if __name__ == "__main__":
    results = json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))
    draw(results, ROOT / "docs" / "figures")
