# SPDX-License-Identifier: Apache-2.0
"""Figures of the three parts, from the results alone."""

from __future__ import annotations

import itertools
from statistics import fmean, median

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from experiments import plots
from experiments.gradient_quality.names import LOSSES, row_label
from experiments.plots import COLOURS, LABELS
from experiments.session import JSON

# Told apart without colour too.
_MARKERS = {
    "straight_through": "X",
    "gumbel_softmax": "s",
    "imle": "v",
    "imle_central": "^",
    "aimle": "<",
    "aimle_central": ">",
    "score_function_loo": "D",
    "simple": "o",
    "simple_second_order": "P",
    "simple_unbiased": "*",
}


def figures(results: JSON) -> dict[str, Figure]:
    """By short names: "toy", "synthetic", "draws", "time"."""
    found = {}
    if results["toy"]["rows"]:
        found["toy"] = _toy(results["toy"])
    if results["synthetic"]["cells"]:
        found["synthetic"] = _synthetic(results["synthetic"])
    if results["scale"]["curves"]:
        found["draws"] = _scale(results["scale"], "samples", "draws S of an estimate")
        found["time"] = _scale(
            results["scale"], "seconds", f"seconds for an estimate ({results['scale']['clock']})"
        )
    return found


def _toy(part: JSON) -> Figure:
    order = list(dict.fromkeys(row["estimator"] for row in part["rows"]))
    rows = sorted(part["rows"], key=lambda row: (order.index(row["estimator"]), row["samples"]))
    rows = rows[::-1]
    names = [row_label(row["estimator"], row["samples"]) for row in rows]
    figure, axes = plots.figure(1, 3, width=3.6, height=0.5 + 0.26 * len(rows), sharey=True)
    for panel, measure in zip(axes[0], ("bias", "variance", "error"), strict=True):
        for at, row in enumerate(rows):
            colour = COLOURS[row["estimator"]]
            values = row[measure]
            panel.plot(values, [at] * len(values), "|", color=colour, alpha=0.5, markersize=7)
            panel.plot(fmean(values), at, "o", color=colour, markersize=6)
            if row["published"]:
                ring = {"markerfacecolor": "none", "markeredgecolor": "black", "markersize": 10}
                panel.plot(row["published"][measure], at, "o", **ring)
        plots.style(panel, measure, "")
        panel.set_yticks(range(len(rows)), names, fontsize="small")
        panel.set_xlim(left=-0.02 * panel.get_xlim()[1])
    handles = [
        _handle("o", "grey", "mean over the seeds"),
        _handle("|", "grey", "one seed"),
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markerfacecolor="none",
            markeredgecolor="black",
            markersize=10,
            label="published code",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _handle(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, label=label)


def _synthetic(part: JSON) -> Figure:
    samples = sorted({cell["samples"] for cell in part["cells"]})
    figure, axes = plots.figure(2, len(samples), width=3.8, height=3.0, sharex=True, sharey="row")
    for column, count in enumerate(samples):
        cells = [cell for cell in part["cells"] if cell["samples"] == count]
        for panel, measure in zip(axes[:, column], ("cosine", "sparsity"), strict=True):
            _fixed_steps(panel, cells, measure)
            _adapted_steps(panel, cells, measure)
            bottom = measure == "sparsity"
            plots.style(
                panel,
                "λ" if bottom else "",
                measure if column == 0 else "",
                title=None if bottom else f"S = {count}",
                log="x",
            )
            panel.set_ylim(-0.03, 1.03)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], linestyle="", marker="x", color="black", label="published code"))
    labels.append("published code")
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _fixed_steps(axes: Axes, cells: JSON, measure: str) -> None:
    for name in ("imle", "imle_central"):
        of_name = [cell for cell in cells if cell["estimator"] == name]
        if of_name:
            steps = [cell["lambda"] for cell in of_name]
            axes.plot(
                steps,
                [cell[measure] for cell in of_name],
                "-" if name == "imle" else "--",
                marker=_MARKERS[name],
                color=COLOURS[name],
                markersize=4,
                label=LABELS[name],
            )
            _published(axes, of_name, measure, steps)


def _adapted_steps(axes: Axes, cells: JSON, measure: str) -> None:
    adapted = [cell for cell in cells if "passes" in cell]
    most = max((cell["passes"] for cell in adapted), default=0)
    for cell in adapted:
        name, step = cell["estimator"], cell["lambda_reached"]
        axes.plot(
            step,
            cell[measure],
            linestyle="",
            marker=_MARKERS[name],
            markersize=9,
            markeredgecolor=COLOURS[name],
            markerfacecolor=COLOURS[name] if cell["passes"] == most else "none",
            label=f"{LABELS[name]}, {cell['passes']} passes",
            zorder=3,
        )
        if cell["passes"] < most:
            _published(axes, [cell], measure, [step])


def _published(axes: Axes, cells: JSON, measure: str, steps: list[float]) -> None:
    """What the public code gave, on as many seeds, as crosses."""
    beside = [
        (step, cell["published"][measure])
        for step, cell in zip(steps, cells, strict=True)
        if "published" in cell
    ]
    for place in beside:
        axes.plot(*place, "x", color="black", markersize=5, zorder=4)


def _scale(part: JSON, across: str, xlabel: str) -> Figure:
    sizes, losses = part["sizes"], list(dict.fromkeys(curve["loss"] for curve in part["curves"]))
    figure, axes = plots.figure(len(sizes), len(losses), width=4.6, height=3.6, sharey="row")
    for row, size in enumerate(sizes):
        for column, loss in enumerate(losses):
            panel = axes[row, column]
            for curve in part["curves"]:
                if (curve["n"], curve["loss"]) == (size["n"], loss):
                    _curve(panel, curve, across)
            plots.style(
                panel,
                xlabel if row == len(sizes) - 1 else "",
                "error, 1 - cosine" if column == 0 else "",
                title=f"{LOSSES[loss]}, n = {size['n']:,}, k = {size['k']:,}",
                log="xy",
            )
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.yaxis.set_minor_formatter(NullFormatter())
    by_name: dict[str, Artist] = {}
    for place in itertools.product(range(len(sizes)), range(len(losses))):
        handles, labels = axes[place].get_legend_handles_labels()
        by_name |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(by_name.values()), list(by_name), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def _curve(axes: Axes, curve: JSON, across: str) -> None:
    name, points = curve["estimator"], curve["points"]
    at = [point["samples"] if across == "samples" else median(point["seconds"]) for point in points]
    axes.plot(
        at,
        [fmean(point["error"]) for point in points],
        "-" if name.startswith("simple") else "--",
        marker=_MARKERS[name],
        color=COLOURS[name],
        markersize=5,
        linewidth=1.6 if name.startswith("simple") else 1.1,
        label=LABELS[name],
    )
