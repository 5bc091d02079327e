# SPDX-License-Identifier: Apache-2.0
"""Tables of the three parts, from the results alone."""

from __future__ import annotations

from statistics import fmean, median

from experiments.gradient_quality.names import LOSSES, row_label
from experiments.plots import LABELS
from experiments.session import JSON
from experiments.tables import Table, mean_std


def tables(results: JSON) -> dict[str, Table]:
    """By short names: "toy", "toy-draws", "synthetic", ..., "scale-1000", ..."""
    found = {
        "toy": _toy(results["toy"]),
        "toy-draws": _toy_draws(results["toy"]),
        "synthetic-fixed": _fixed(results["synthetic"]),
        "synthetic-adaptive": _adaptive(results["synthetic"]),
        "synthetic-agreement": _agreement(results["synthetic"]),
        "synthetic-outside": _outside(results["synthetic"]),
    }
    for size in results["scale"]["sizes"]:
        for loss in LOSSES:
            key = f"scale-{size['n']}-{loss.replace(' ', '-')}"
            found[key] = _scale(results["scale"], size["n"], size["k"], loss)
    found["scale-tuning"] = _tuning(results["scale"])
    return {name: table for name, table in found.items() if table.rows}


def _toy(part: JSON) -> Table:
    rows = []
    fewest_draws: dict[str, JSON] = {}
    for row in part["rows"]:
        fewest_draws.setdefault(row["estimator"], row)
    for row in fewest_draws.values():
        enumerated = part["enumerated"].get(row["estimator"])
        published = row["published"]
        rows.append(
            [
                row_label(row["estimator"], row["samples"]),
                "–" if enumerated is None else mean_std(enumerated, 4),
                mean_std(row["bias"], 4),
                f"{max(fmean(row['bias_noise']), 0.0):.4f}",
                mean_std(row["variance"], 4),
                mean_std(row["error"], 4),
                " / ".join(f"{published[name]:.4f}" for name in ("bias", "variance", "error"))
                if published
                else "–",
            ]
        )
    return Table(
        f"n = {part['n']}, k = {part['k']}, f(z) = ||z - b||², {part['repeats']:,} estimates at "
        f"each of {len(part['seeds'])} seeds, mean ± standard deviation over the seeds. Noise: the "
        "bias that an unbiased estimator of the same covariance shows on average.",
        [
            "estimator",
            "bias, enumerated",
            "bias, sampled",
            "of that noise",
            "variance",
            "error",
            "published: bias / variance / error",
        ],
        rows,
    )


def _toy_draws(part: JSON) -> Table:
    found: dict[str, dict[int, JSON]] = {}
    for row in part["rows"]:
        found.setdefault(row["estimator"], {})[row["samples"]] = row
    draws = sorted({row["samples"] for row in part["rows"]})
    rows = [
        [
            LABELS[name],
            *(mean_std(rows[count]["error"], 3) if count in rows else "–" for count in draws),
            _chi_square(rows.values()),
        ]
        for name, rows in found.items()
        if len(rows) > 1
    ]
    return Table(
        "Error by the number of draws S of an estimate. χ² / freedom: Hotelling's test, over all "
        "seeds and S, that the mean of the estimates is the exact gradient: then χ² is about the "
        "freedom.",
        ["estimator", *(f"S = {count}" for count in draws), "χ² / freedom"],
        rows,
    )


def _chi_square(rows: JSON) -> str:
    tested = [row for row in rows if "chi_square" in row]
    if not tested:
        return "–"
    statistic, freedom = (sum(sum(row[key]) for row in tested) for key in ("chi_square", "freedom"))
    return f"{statistic:.0f} / {freedom}"


def _fixed(part: JSON) -> Table:
    cells = {
        (cell["lambda"], cell["estimator"], cell["samples"]): cell
        for cell in part["cells"]
        if "lambda" in cell
    }
    steps, names, samples = (sorted({place[i] for place in cells}) for i in range(3))
    return Table(
        f"Cosine / sparsity of I-MLE's gradient, n = {part['n']}, k = {part['k']}, "
        f"{len(part['seeds'])} seeds, mean of {part['repeats']} estimates at each.",
        ["λ", *(f"{LABELS[name]}, S = {count}" for name in names for count in samples)],
        [
            [f"{step:g}", *(_pair(cells[step, name, s]) for name in names for s in samples)]
            for step in steps
        ],
    )


def _adaptive(part: JSON) -> Table:
    cells = [cell for cell in part["cells"] if "passes" in cell]
    samples = sorted({cell["samples"] for cell in cells})
    rows = []
    for place in dict.fromkeys((cell["estimator"], cell["passes"]) for cell in cells):
        of_place = [cell for cell in cells if (cell["estimator"], cell["passes"]) == place]
        reached = ("beta_reached", "lambda_reached")
        rows.append(
            [
                f"{LABELS[place[0]]}, {place[1]} passes",
                *(_pair(cell) for cell in of_place),
                *(" / ".join(f"{cell[name]:.3f}" for cell in of_place) for name in reached),
            ]
        )
    return Table(
        "Cosine / sparsity of AIMLE's gradient after so many passes that adapt β; β and λ reached, "
        "for each S.",
        ["estimator", *(f"S = {count}" for count in samples), "β", "λ"],
        rows,
    )


def _pair(cell: JSON) -> str:
    return f"{cell['cosine']:.2f} / {cell['sparsity']:.2f}"


def _agreement(part: JSON) -> Table:
    rows = []
    compared = [cell for cell in part["cells"] if "published" in cell]
    for name in dict.fromkeys(cell["estimator"] for cell in compared):
        of_name = [cell for cell in compared if cell["estimator"] == name]
        row = [LABELS[name], str(len(of_name))]
        for quantity in ("cosine", "sparsity"):
            distances = [abs(cell["published"][f"{quantity}_distance"]) for cell in of_name]
            inside = sum(distance <= 2 for distance in distances)
            mean_square = fmean(distance**2 for distance in distances)
            row += [f"{inside} of {len(distances)}", f"{max(distances):.1f}", f"{mean_square:.2f}"]
        rows.append(row)
    return Table(
        "The public code's cells, one estimate at each seed, beside ours at the same seeds: how "
        "many lie within two standard errors (95% would by chance), the largest distance in "
        "standard errors, and their mean square (1 by chance).",
        [
            "estimator",
            "cells",
            "cosine within 2 SE",
            "largest",
            "mean square",
            "sparsity within 2 SE",
            "largest",
            "mean square",
        ],
        rows,
    )


def _outside(part: JSON) -> Table:
    rows = []
    for cell in part["cells"]:
        place = f"λ = {cell['lambda']:g}" if "lambda" in cell else f"{cell['passes']} passes"
        for quantity in ("cosine", "sparsity"):
            distance = cell.get("published", {}).get(f"{quantity}_distance", 0.0)
            if abs(distance) > 2:
                rows.append(
                    [
                        f"{LABELS[cell['estimator']]}, {place}, S = {cell['samples']}",
                        quantity,
                        f"{cell['published'][f'{quantity}_same_seeds']:.4f}",
                        f"{cell['published'][quantity]:.4f}",
                        f"{distance:+.1f}",
                    ]
                )
    return Table(
        "The cells outside two standard errors.",
        ["cell", "quantity", "ours", "published", "standard errors"],
        rows,
    )


def _scale(part: JSON, n: int, k: int, loss: str) -> Table:
    curves = [curve for curve in part["curves"] if (curve["n"], curve["loss"]) == (n, loss)]
    lists = [[point["samples"] for point in curve["points"]] for curve in curves]
    draws = max(lists, key=len, default=[])
    rows = []
    for curve in curves:
        points = curve["points"]
        seconds = [median(point["seconds"]) for point in (points[0], points[-1])]
        rows.append(
            [
                LABELS[curve["estimator"]],
                *(mean_std(point["error"], 3) for point in points),
                *["–"] * (len(draws) - len(points)),
                " to ".join(f"{1000 * value:.2g}" for value in seconds),
                mean_std(points[-1]["relative"], 2),
            ]
        )
    return Table(
        f"f(z) = {LOSSES[loss]}, n = {n:,}, k = {k:,}: error (1 - cosine) by the number of draws S "
        f"of an estimate, {len(part['seeds'])} seeds. *: 2 for those that compare draws. "
        f"Milliseconds ({part['clock']}): fewest to most draws; relative distance: "
        "‖estimate - exact‖ / ‖exact‖ with the most. –: not run; the relaxed top-k keeps some "
        f"n k S numbers, and is left out above {part['relaxed_limit']:,}.",
        [
            "estimator",
            *(f"S = {count}" if at else "S = 1*" for at, count in enumerate(draws)),
            "ms",
            "relative distance",
        ],
        rows,
    )


def _tuning(part: JSON) -> Table:
    rows = []
    for entry in part["tuning"]:
        best = entry["errors"].index(min(entry["errors"]))
        cell = ", ".join(f"{key} {value}" for key, value in entry["cells"][best].items())
        rows.append(
            [
                f"{LABELS[entry['estimator']]}, {LOSSES[entry['loss']]}",
                f"{entry['n']:,}",
                str(len(entry["cells"])),
                cell.replace("_", " ") + (" (edge)" if _at_edge(entry, best) else ""),
                f"{entry['errors'][best]:.3f}",
            ]
        )
    return Table(
        "What tuning chose, on seeds that are not reported; edge: the least or most of its grid.",
        ["estimator, loss", "n", "cells", "best", "its error"],
        rows,
    )


def _at_edge(entry: JSON, best: int) -> bool:
    """Whether the best number is the smallest or the largest of those tried."""
    (number,) = (key for key in entry["cells"][best] if key != "noise")
    values = [cell[number] for cell in entry["cells"]]
    return values[best] in (min(values), max(values))
