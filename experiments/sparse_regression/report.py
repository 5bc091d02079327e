# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of sparse regression, from its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import plots
from experiments.session import JSON
from experiments.sparse_regression.candidates import SUPPORT, TERMS, TRUTH
from experiments.sparse_regression.learning import PUBLISHED
from experiments.sparse_regression.wide_grid import NATURAL
from experiments.tables import Table, mean_std

_COLUMNS = {"weak": "weak form", "finite": "finite differences"}
_LABELS = {
    **plots.LABELS,
    PUBLISHED: "I-MLE, exact marginals (published)",
    "imle": "I-MLE, perturb-and-MAP",
    "best-subset": "best subset (all 364)",
    "stlsq": "STLSQ",
    "omp": "OMP",
    "iht": "iterative hard thresholding",
    "htp": "hard thresholding pursuit",
    "lasso": "Lasso",
}
_WIDE_LABELS = {**_LABELS, NATURAL: "SIMPLE, natural gradient", "imle": "I-MLE"}
# Colours that plots.COLOURS has for what does not occur here.
_COLOURS = {
    **plots.COLOURS,
    PUBLISHED: plots.COLOURS["imle_central"],
    NATURAL: plots.COLOURS["simple_unbiased"],
    "best-subset": "#000000",
    "stlsq": plots.COLOURS["gumbel_softmax_hard"],
    "omp": plots.COLOURS["score_function"],
    "iht": plots.COLOURS["perturbed_optimizer"],
    "htp": plots.COLOURS["blackbox"],
    "lasso": plots.COLOURS["aimle"],
}


def _label(method: str) -> str:
    """Of "NAME" or "NAME/DRAWS"."""
    name, _, draws = method.partition("/")
    if not draws:
        return _LABELS[name]
    return f"{_LABELS[name]}, {draws} draw{'s' if draws != '1' else ''}"


def _noise(level: str) -> str:
    return f"{100 * float(level):g}%"


def _shown(methods: Sequence[str]) -> list[str]:
    """For the coefficients: the published learner, SIMPLE, and what it is compared with."""
    wanted = ("simple/16", f"{PUBLISHED}/1", "best-subset", "stlsq", "omp")
    return [method for method in wanted if method in methods]


def tables(results: JSON) -> dict[str, Table]:
    """Supports and coefficients of the equation; recall, error and time of the wide problem."""
    found = results["equation"]["found"]
    made = {"support": _supports(found)}
    for columns in _COLUMNS:
        levels = {key: one for key, one in found.items() if key.startswith(f"{columns}/")}
        made[f"coefficients-{columns}"] = _coefficients(columns, levels)
    return {**made, "wide": _recall(results["wide"]), "wide-compared": _compared(results["wide"])}


def _supports(found: JSON) -> Table:
    methods = next(iter(found.values()))
    rows = [[_label(method), *(_hits(one[method]) for one in found.values())] for method in methods]
    heads = [
        f"{_COLUMNS[columns]}, {_noise(level)}"
        for columns, level in (key.split("/") for key in found)
    ]
    caption = "Fields of which the three true terms were found, over seeds; by columns and noise."
    return Table(caption, ["method", *heads], rows)


def _hits(outcomes: JSON) -> str:
    hits = sum(sorted(support) == sorted(SUPPORT) for support in outcomes["supports"])
    return f"{hits}/{len(outcomes['supports'])}"


def _coefficients(columns: str, levels: JSON) -> Table:
    rows = []
    for key, one in levels.items():
        for method in _shown(list(one)):
            values = zip(*one[method]["coefficients"], strict=True)
            cells = [mean_std(list(value), 4) for value in values]
            rows.append([f"{_noise(key.split('/')[1])}, {_label(method)}", *cells])
    caption = (
        f"Coefficients of the true terms, columns by {_COLUMNS[columns]}, mean ± standard "
        "deviation over seeds; 0 where the term was not chosen. Truth: -1."
    )
    return Table(caption, ["noise, method", *TRUTH], rows)


def _recall(wide: JSON) -> Table:
    found, size = wide["found"], wide["size"]
    everywhere = [
        name for name in next(iter(found.values())) if all(name in f for f in found.values())
    ]
    rows = [
        [
            _WIDE_LABELS[method],
            *(mean_std([r["recall"] for r in one[method]], 3) for one in found.values()),
        ]
        for method in everywhere
    ]
    caption = (
        f"Part of the {size['k']} true columns among the {size['k']} chosen of {size['n']:,}, by "
        f"the number of rows; signal over noise {size['snr']:g} (power)."
    )
    return Table(caption, ["method", *(f"{rows_} rows" for rows_ in found)], rows)


def _compared(wide: JSON) -> Table:
    size = wide["size"]
    rows = []
    for method, runs in wide["found"][str(size["compared"])].items():
        cells = [
            mean_std([run[key] for run in runs], digits)
            for key, digits in (
                ("recall", 3),
                ("precision", 3),
                ("error", 3),
                ("residual", 3),
                ("seconds", 1),
            )
        ]
        rows.append([_WIDE_LABELS[method], *cells])
    caption = (
        f"{size['compared']} rows: recall and precision of the support, error of the signal on "
        "new rows over its power, part of the power of y that is not fitted, CPU seconds of one "
        f"core ({size['steps']} steps of the learners)."
    )
    return Table(caption, ["method", "recall", "precision", "error", "residual", "CPU s"], rows)


def figures(results: JSON) -> dict[str, Figure]:
    """The field, coefficients over noise, the training, recovery of the wide problem."""
    made: dict[str, Callable[[], Figure]] = {
        "field": lambda: _field(results["equation"]["field"]),
        "coefficients": lambda: _coefficient_figure(results["equation"]["found"]),
        "training": lambda: _training(results["equation"]["curves"]),
        "wide": lambda: _wide(results["wide"]),
    }
    return {key: make() for key, make in made.items()}


def _field(picture: JSON) -> Figure:
    figure, axes = plots.figure(width=7.0, height=3.6)
    values = [[value / 10 for value in row] for row in picture["tenths"]]
    extent = (0.0, picture["duration"], 0.0, picture["length"])
    image = axes[0, 0].imshow(
        values,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="RdBu_r",
        interpolation="bilinear",
    )
    plots.style(axes[0, 0], "t", "x")
    axes[0, 0].grid(False)
    figure.colorbar(image, ax=axes[0, 0], label="u(x, t)")
    return figure


def _coefficient_figure(found: JSON) -> Figure:
    figure, axes = plots.figure(2, 3, width=4.2, height=3.0, sharex=True, sharey=True)
    for row, columns in enumerate(_COLUMNS):
        levels = [key for key in found if key.startswith(f"{columns}/")]
        methods = _shown(list(found[levels[0]]))
        for column, term in enumerate(TRUTH):
            axis = axes[row, column]
            axis.axhline(TRUTH[term], color="black", linewidth=0.8, linestyle=":")
            for i, method in enumerate(methods):
                values = [[c[column] for c in found[key][method]["coefficients"]] for key in levels]
                place = [j + 0.13 * (i - (len(methods) - 1) / 2) for j in range(len(levels))]
                _points(axis, place, values, method, _label(method))
            axis.set_xticks(range(len(levels)), [_noise(key.split("/")[1]) for key in levels])
            plots.style(
                axis,
                "noise" if row else "",
                _COLUMNS[columns] if not column else "",
                title=None if row else f"coefficient of {term}",
                legend=row == 0 and column == 2,
            )
    return figure


def _points(
    axis: Axes, place: Sequence[float], values: Sequence[Sequence[float]], method: str, label: str
) -> None:
    """Means and standard deviations."""
    spread = [stdev(one) if len(one) > 1 else 0.0 for one in values]
    colour = _COLOURS[method.partition("/")[0]]
    means = [fmean(one) for one in values]
    axis.errorbar(place, means, spread, fmt="o", markersize=4, capsize=2, color=colour, label=label)


def _training(curves: JSON) -> Figure:
    figure, axes = plots.figure(1, 2, width=5.6, height=4.2)
    columns, noise = curves["example"]
    where = f"{_COLUMNS[columns]}, {_noise(str(noise))} noise"
    for method, values in curves["probability"].items():
        name, _, draws = method.partition("/")
        axes[0, 0].plot(
            curves["steps"][method],
            values,
            color=_COLOURS[name],
            linestyle=":" if draws == "1" else "-",
            label=_label(method),
        )
    plots.style(axes[0, 0], "step", "probability of the true terms", title=where)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    for shown, marginals in curves["marginals"].items():
        for j, values in enumerate(zip(*marginals, strict=True)):
            true = j in SUPPORT
            axes[0, 1].plot(
                curves["steps"][shown],
                values,
                color=f"C{SUPPORT.index(j)}" if true else "#BBBBBB",
                label=TERMS[j] if true else None,
                zorder=2 if true else 1,
            )
        plots.style(
            axes[0, 1],
            "step",
            "probability of a term",
            title=f"{_label(shown)}, one field",
            legend=True,
        )
    return figure


def _wide(wide: JSON) -> Figure:
    figure, axes = plots.figure(1, 3, width=4.4, height=3.6)
    found, size = wide["found"], wide["size"]
    for axis, key, title in (
        (axes[0, 0], "recall", "part of the true columns found"),
        (axes[0, 1], "error", "error on new rows / signal"),
    ):
        for method in next(iter(found.values())):
            if not all(method in one for one in found.values()):
                continue
            values = [[run[key] for run in one[method]] for one in found.values()]
            place = [float(rows) for rows in found]
            _points(axis, place, values, method, _WIDE_LABELS[method])
            axis.plot(place, [fmean(one) for one in values], color=_COLOURS[method])
        axis.set_xticks([float(rows) for rows in found], list(found))
        plots.style(axis, "rows", title, legend=key == "error")
    for method, runs in found[str(size["compared"])].items():
        if "steps" in runs[0]:
            mean = [
                fmean(one) for one in zip(*(run["recall_over_steps"] for run in runs), strict=True)
            ]
            axes[0, 2].plot(
                runs[0]["steps"], mean, color=_COLOURS[method], label=_WIDE_LABELS[method]
            )
    title = f"{size['compared']} rows, mean over seeds"
    plots.style(axes[0, 2], "step", "part of the true columns found", title=title)
    axes[0, 2].legend(frameon=False, fontsize="small", loc=(0.4, 0.09))
    return figure
