# SPDX-License-Identifier: Apache-2.0
"""Figures of the results."""

from __future__ import annotations

from statistics import fmean, stdev

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plots import COLOURS, LABELS, figure, style
from experiments.relational_inference.report import AIMLE, best_imle, label
from experiments.session import JSON

_SCORES = {"elbo_sample": "test ELBO", "precision_sample": "test edge precision"}


def figures(results: JSON) -> dict[str, Figure]:
    """ "lambda": scores over I-MLE's lambda; "curves" and "layout" for each number of frames."""
    made = {}
    tuned = results["tuning"]["frames"] if results["frames"] else None
    for frames, final in results["frames"].items():
        if int(frames) == tuned and any(run["estimator"] == "imle" for run in final["runs"]):
            made["lambda"] = _over_lambda(final)
        made[f"curves-t{frames}"] = _curves(final, results["setting"])
        made[f"layout-t{frames}"] = _layouts(final)
    return made


def _shown(final: dict[str, JSON]) -> list[dict[str, JSON]]:
    """Every estimator, I-MLE at its best lambda."""
    best = best_imle(final["runs"], "elbo_sample")
    return [run for run in final["runs"] if run["estimator"] != "imle" or run is best]


def _over_lambda(final: dict[str, JSON]) -> Figure:
    made, axes = figure(1, len(_SCORES))
    imle = [run for run in final["runs"] if run["estimator"] == "imle"]
    steps = [run["step"] for run in imle]
    for panel, (score, name) in zip(axes[0], _SCORES.items(), strict=True):
        means = [fmean(run["test"][score]) for run in imle]
        errors = [_spread(run["test"][score]) for run in imle]
        panel.errorbar(
            steps, means, errors, color=COLOURS["imle"], marker="o", capsize=3, label="I-MLE"
        )
        for run in imle:
            values = run["test"][score]
            panel.plot([run["step"]] * len(values), values, ".", color=COLOURS["imle"], alpha=0.4)
        for run in final["runs"]:
            if run["estimator"] in AIMLE:
                _band(panel, run, score)
        style(panel, "λ of I-MLE", name, log="x", legend=True)
    return made


def _band(panel: Axes, run: dict[str, JSON], score: str) -> None:
    values, colour = run["test"][score], COLOURS[run["estimator"]]
    mean, spread = fmean(values), _spread(values)
    panel.axhline(mean, color=colour, label=f"{LABELS[run['estimator']]} (|: its own λ)")
    panel.axhspan(mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    found = [value for value in run["lambda"] if value is not None]
    panel.plot(found, [mean] * len(found), "|", color=colour, markersize=9)


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _curves(final: dict[str, JSON], setting: dict[str, JSON]) -> Figure:
    made, axes = figure(1, len(_SCORES))
    for panel, score in zip(axes[0], _SCORES, strict=True):
        for run in _shown(final):
            # A training that diverged has a shorter curve: only what all have is shown.
            length = min(len(curve) for curve in run["curve"][score])
            curves = np.array([curve[:length] for curve in run["curve"][score]])
            # A training that diverges would hide all others from a mean.
            low, middle, high = np.quantile(curves, [0.25, 0.5, 0.75], axis=0)
            steps = run["steps"][:length]
            colour = COLOURS[run["estimator"]]
            panel.plot(steps, middle, color=colour, label=label(run))
            panel.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        name = _SCORES[score].replace("test", "validation")
        style(panel, f"steps of {setting['batch']} graphs", name, legend=panel is axes[0, 0])
    return made


def _layouts(final: dict[str, JSON]) -> Figure:
    example = final["example"]
    runs = _shown(final)
    made, axes = figure(1, len(runs) + 1, width=2.3, height=2.5)
    positions = np.array(example["positions"])
    true = {tuple(edge) for edge in example["edges"]}
    drawn = [("true tree", "#000000", true)]
    for run in runs:
        inferred = {tuple(edge) for edge in run["tree"]}
        title = f"{LABELS[run['estimator']]}: {len(inferred & true)} of {len(true)}"
        drawn.append((title, COLOURS[run["estimator"]], inferred))
    for panel, (title, colour, edges) in zip(axes[0], drawn, strict=True):
        for i, j in edges:
            wrong = (i, j) not in true
            panel.plot(
                *positions[[i, j]].T, color=colour, linestyle=":" if wrong else "-", linewidth=1.6
            )
        panel.plot(*positions.T, "o", color="#333333", markersize=4)
        panel.set_title(title, fontsize="small")
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_aspect("equal")
    return made
