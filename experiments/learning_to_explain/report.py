# SPDX-License-Identifier: Apache-2.0
"""Tables of the results."""

from __future__ import annotations

from statistics import fmean, median, stdev

from experiments import plots
from experiments.learning_to_explain.grid import CANDIDATES
from experiments.session import JSON
from experiments.tables import Table, mean_std

_OWN = {"lambda": "λ", "temperature": "temperature", "num_samples": "draws"}


def label(key: str) -> str:
    """A candidate's name in tables and figures."""
    candidate = CANDIDATES[key]
    name = plots.LABELS[candidate.estimator]
    return f"{name}, β from 0" if candidate.from_zero else name


def best_lambda(results: JSON) -> JSON:
    """The point of I-MLE's lambdas with the least mean test error, on the reported seeds."""
    return min(results["lambdas"], key=lambda point: fmean(point["runs"]["error"]))


def tables(results: JSON) -> dict[str, Table]:
    """From the results alone."""
    made = {"final": _final(results), "tuning": _tuning(results)}
    if results["lambdas"]:
        made["lambda"] = _lambda(results)
    return made


def _final(results: JSON) -> Table:
    sizes = list(results["final"])
    columns = ["estimator"]
    for k in sizes:
        columns += [f"MSE × 100, k = {k}", f"precision, k = {k}"]
    rows = []
    for key in results["final"][sizes[0]]:
        row = [label(key)]
        for k in sizes:
            runs = results["final"][k][key]
            row += [mean_std(runs["error"], 3), mean_std(runs["precision"], 1)]
        rows.append(row)
    chance = results["chance"]
    rows.append(["random words; the mean rating"])
    for k in sizes:
        rows[-1] += [f"{chance['error']:.2f}", f"{chance['precision'][k]:.1f}"]
    setting = results["setting"]
    caption = (
        f"Test error and subset precision in percent, {len(results['seeds'])} seeds, "
        f"{setting['data']} reviews, {setting['steps']} training steps. The settings were tuned "
        f"at k = {results['tuned_k']}."
    )
    return Table(caption, columns, rows)


def _own(options: JSON) -> str:
    return ", ".join(f"{_OWN[name]} {options[name]:g}" for name in options if name in _OWN) or "–"


def _tuning(results: JSON) -> Table:
    rows = []
    for key, cells in results["tuning"].items():
        chosen = results["chosen"][key]
        seconds = results["final"][str(results["tuned_k"])][key]["seconds_per_step"]
        errors = [cell["error"] for cell in cells]
        rows.append(
            [
                label(key),
                str(len(cells)),
                f"{chosen['learning_rate']:g}",
                _own(chosen["options"]),
                f"{min(errors):.2f}",
                f"{max(errors):.2f}",
                f"{1000 * fmean(seconds):.0f}",
            ]
        )
    columns = ["estimator", "cells", "learning rate", "chosen", "best", "worst", "ms per step"]
    caption = (
        "Tuning: validation error × 100 of the best and the worst cell of each grid, on seeds that "
        "are not reported; and the time of a training step in the reported runs."
    )
    return Table(caption, columns, rows)


def _lambda(results: JSON) -> Table:
    best = best_lambda(results)
    tuned = results["chosen"]["imle"]["options"]["lambda"]
    rows = []
    for point in results["lambdas"]:
        runs, value = point["runs"], point["lambda"]
        marks = [name for name, at in (("best", best["lambda"]), ("tuned", tuned)) if at == value]
        suffix = f" ({', '.join(marks)})" if marks else ""
        beta = value / known_median(runs["scale"])
        rows.append([f"I-MLE{suffix}", f"{value:g}", f"{beta:.2g}", *_outcome(runs, best)])
    for key, runs in results["final"][str(results["tuned_k"])].items():
        if "beta" in runs:
            rows.append(_adaptive(label(key), runs, best))
    for rule in results["rules"]:
        name = f"{label(rule['key'])}, step {rule['beta_update_step']:g}"
        rows.append(_adaptive(name, rule["runs"], best))
    columns = ["", "λ", "β", "changed", "MSE × 100", "precision", "MSE − best", "precision − best"]
    caption = (
        f"λ at k = {results['tuned_k']}. λ = β ‖θ‖ / ‖dL/dz‖: of I-MLE λ is given, of AIMLE what β "
        "made of it (means over the last epoch, median over the seeds). Changed: non-zero entries "
        "of the gradient per review. The last two columns compare with the best λ of I-MLE on the "
        "reported seeds, in standard deviations over its seeds: a negative difference in MSE and "
        "a positive one in precision are better than I-MLE."
    )
    return Table(caption, columns, rows)


def _adaptive(name: str, runs: JSON, best: JSON) -> list[str]:
    return [
        name,
        f"{known_median(runs['lambda']):.2g}",
        f"{known_median(runs['beta']):.2g}",
        *_outcome(runs, best),
    ]


def _outcome(runs: JSON, best: JSON) -> list[str]:
    return [
        f"{fmean(runs['nonzeros']):.2f}",
        mean_std(runs["error"], 3),
        mean_std(runs["precision"], 1),
        *(f"{deviations(runs, best, name):+.1f}" for name in ("error", "precision")),
    ]


def deviations(runs: JSON, best: JSON, name: str) -> float:
    """How far the mean is from that of the best lambda, in the latter's standard deviations.

    NaN where there is no such deviation: of one seed.
    """
    values = best["runs"][name]
    if len(values) == 1:
        return float("nan")
    return float((fmean(runs[name]) - fmean(values)) / stdev(values))


def known_median(values: list[float | None]) -> float:
    """Of those that there are: a training may have ended without a gradient."""
    known = [value for value in values if value is not None]
    return median(known) if known else float("nan")
