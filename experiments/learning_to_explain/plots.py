# SPDX-License-Identifier: Apache-2.0
"""Figures of the results."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import plots
from experiments.learning_to_explain.grid import CANDIDATES
from experiments.learning_to_explain.report import known_median, label
from experiments.session import JSON

_METRICS = {"error": "test MSE × 100", "precision": "subset precision (%)"}


def figures(results: JSON) -> dict[str, Figure]:
    """From the results alone."""
    made = {"final": _final(results), "example": _example(results)}
    if results["lambdas"]:
        made["lambda"] = _lambda(results)
    return made


def _look(key: str) -> dict[str, Any]:
    """Both forms of AIMLE have its colour; those from beta = 0 are hatched."""
    candidate = CANDIDATES[key]
    return {
        "color": plots.COLOURS[candidate.estimator],
        "hatch": "////" if candidate.from_zero else "",
    }


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _final(results: JSON) -> Figure:
    sizes = list(results["final"])
    keys = list(results["final"][sizes[0]])
    result, grid = plots.figure(1, 2, width=6.0, height=3.8)
    width = 0.86 / len(keys)
    for axes, (metric, name) in zip(grid[0], _METRICS.items(), strict=True):
        for i, key in enumerate(keys):
            runs = [results["final"][k][key][metric] for k in sizes]
            axes.bar(
                [place + (i - (len(keys) - 1) / 2) * width for place in range(len(sizes))],
                [fmean(values) for values in runs],
                0.92 * width,
                yerr=[_spread(values) for values in runs],
                error_kw={"elinewidth": 0.8},
                edgecolor="white",
                linewidth=0.3,
                label=label(key),
                **_look(key),
            )
        axes.set_xticks(range(len(sizes)), [f"k = {k}" for k in sizes])
        plots.style(axes, "", name)
    chance = results["chance"]["precision"]
    for place, k in enumerate(sizes):
        grid[0, 1].hlines(
            chance[k],
            place - 0.45,
            place + 0.45,
            colors="black",
            linestyles="dotted",
            linewidth=1.2,
            label="random words" if place == 0 else None,
        )
    handles, names = grid[0, 1].get_legend_handles_labels()
    result.legend(
        handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize="small"
    )
    return result


def _lambda(results: JSON) -> Figure:
    points = results["lambdas"]
    final = results["final"][str(results["tuned_k"])]
    result, grid = plots.figure(2, 2, width=5.0, height=3.0, sharex=True, sharey="row")
    for row, (metric, name) in zip(grid, _METRICS.items(), strict=True):
        for axes, estimator in zip(row, ("aimle", "aimle_central"), strict=True):
            runs = [point["runs"][metric] for point in points]
            axes.errorbar(
                [point["lambda"] for point in points],
                [fmean(values) for values in runs],
                yerr=[_spread(values) for values in runs],
                color=plots.COLOURS["imle"],
                marker="o",
                capsize=2,
                label="I-MLE over λ",
            )
            for key in (estimator, f"{estimator}_from_zero"):
                if key in final:
                    _band(axes, key, final[key][metric], final[key]["lambda"])
            bottom = metric == "precision"
            plots.style(axes, "λ" if bottom else "", name, log="x")
            if bottom:  # where there is room
                axes.legend(frameon=False, fontsize="small", loc="lower left")
            axes.label_outer()
    return result


def _band(axes: Axes, key: str, values: list[float], lambdas: list[float | None]) -> None:
    """The mean and its deviation over the width of the figure, and the lambda that was reached."""
    mean, deviation = fmean(values), _spread(values)
    from_zero = CANDIDATES[key].from_zero
    colour = "black" if from_zero else plots.COLOURS[CANDIDATES[key].estimator]
    axes.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.13, linewidth=0)
    axes.axhline(mean, color=colour, linestyle="--" if from_zero else "-", linewidth=1.2)
    reached = known_median(lambdas)
    axes.plot([reached], [mean], "D-", color=colour, label=f"{label(key)}, at its λ")


def _example(results: JSON) -> Figure:
    example = results["example"]
    keys, words = list(example["chosen"]), example["words"]
    result, grid = plots.figure(width=max(6.0, 0.135 * len(words)), height=0.22 * len(keys) + 1.4)
    axes = grid[0, 0]
    for position in example["rationale"]:
        axes.axvspan(position - 0.5, position + 0.5, color="#F0E442", alpha=0.45, linewidth=0)
    for row, key in enumerate(keys):
        chosen = example["chosen"][key]
        colour = plots.COLOURS[CANDIDATES[key].estimator]
        axes.plot(chosen, [row] * len(chosen), "s", markersize=6, color=colour)
    axes.set_yticks(range(len(keys)), [label(key) for key in keys], fontsize=8)
    axes.set_xticks(range(len(words)), words, rotation=90, fontsize=6)
    axes.set_xlim(-1, len(words))
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.set_title(
        f"The {results['tuned_k']} words chosen (seed 0); shaded: the rationale", fontsize="medium"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    return result
