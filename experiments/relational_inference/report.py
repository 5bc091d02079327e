# SPDX-License-Identifier: Apache-2.0
"""Tables of the results."""

from __future__ import annotations

from statistics import fmean, stdev

from experiments.plots import LABELS
from experiments.session import JSON
from experiments.tables import Table, mean_std

AIMLE = ("aimle", "aimle_central")


def label(run: dict[str, JSON]) -> str:
    """The estimator, for I-MLE with its lambda."""
    name = LABELS[run["estimator"]]
    return name if run["step"] is None else f"{name}, λ = {run['step']:g}"


def best_imle(runs: list[dict[str, JSON]], score: str) -> dict[str, JSON] | None:
    """The run of I-MLE whose lambda has the best mean of a score on the test set."""
    candidates = [run for run in runs if run["estimator"] == "imle"]
    return max(candidates, key=lambda run: fmean(run["test"][score])) if candidates else None


def tables(results: JSON) -> dict[str, Table]:
    """ "t10" and "t20", the final scores; "verdict"; "scale", trees without learning; "cost"."""
    made = {f"t{frames}": _final(frames, final) for frames, final in results["frames"].items()}
    if not made:
        return {}
    verdict = [
        row for frames, final in results["frames"].items() for row in _verdict(frames, final)
    ]
    if verdict:
        made["verdict"] = Table(
            "AIMLE with its default step against the λ of I-MLE that is best in the same score on "
            "the test graphs. Distance: of the means, in standard deviations over seeds (the "
            "larger of the two).",
            ["", "score", "AIMLE", "best I-MLE", "λ", "distance"],
            verdict,
        )
    made["scale"] = Table(
        "Precision on the test graphs of trees that need no learning: of random weights, and of "
        "maximum spanning trees of minus the distance between vertices.",
        ["", *(f"T = {frames}" for frames in results["frames"])],
        [
            [
                name,
                *(f"{f['baselines'][name]['precision']:.4f}" for f in results["frames"].values()),
            ]
            for name in ("random", "mean distance", "last distance")
        ],
    )
    made["cost"] = _cost(results)
    if results["tuning"]["cells"]:
        made["tuning"] = _tuning(results["tuning"])
    return made


def _final(frames: str, final: dict[str, JSON]) -> Table:
    scores = (
        ("elbo_sample", 0),
        ("precision_sample", 3),
        ("accuracy_sample", 3),
        ("elbo_map", 0),
        ("precision_map", 3),
    )
    return Table(
        f"T = {frames}: test scores, mean ± standard deviation over {len(final['seeds'])} seeds. "
        "ELBO without constants, precision (equal to recall: all trees have 9 edges) and accuracy "
        "of the edges; of one tree of Gumbel-perturbed logits per graph, and of the tree of the "
        "logits (MAP).",
        ["", "lr", "ELBO", "precision", "accuracy", "ELBO, MAP", "precision, MAP"],
        [
            [
                label(run),
                f"{run['learning_rate']:g}",
                *(mean_std(run["test"][score], digits) for score, digits in scores),
            ]
            for run in final["runs"]
        ],
    )


def _verdict(frames: str, final: dict[str, JSON]) -> list[list[str]]:
    rows = []
    for score, name, digits in (("elbo_sample", "ELBO", 0), ("precision_sample", "precision", 3)):
        best = best_imle(final["runs"], score)
        for run in final["runs"]:
            if best is None or run["estimator"] not in AIMLE or len(final["seeds"]) < 2:
                continue
            ours, theirs = run["test"][score], best["test"][score]
            spread = max(stdev(ours), stdev(theirs))
            distance = (fmean(ours) - fmean(theirs)) / spread if spread else 0.0
            rows.append(
                [
                    f"{LABELS[run['estimator']]}, T = {frames}",
                    name,
                    mean_std(ours, digits),
                    mean_std(theirs, digits),
                    f"{best['step']:g}",
                    f"{distance:+.2f}",
                ]
            )
    return rows


def _cost(results: JSON) -> Table:
    rows = []
    for frames, final in results["frames"].items():
        for run in final["runs"]:
            step = fmean(run["seconds_per_step"])
            solver = fmean(run["solver_seconds_per_step"])
            # None for a training that diverged before its first evaluation.
            changed = [value for value in run["changed"] if value is not None]
            rows.append(
                [
                    f"{label(run)}, T = {frames}",
                    f"{1e3 * step:.1f}",
                    f"{100 * solver / step:.0f}%",
                    f"{fmean(changed):.2f}" if changed else "–",
                ]
            )
    calls = "; ".join(
        f"{time['batch']} graphs {1e3 * time['list_seconds']:.2f} ms as a list of edges, "
        f"{1e3 * time['matrix_seconds']:.2f} ms as matrices"
        for time in results["solver"]
    )
    return Table(
        "CPU time of a training step, the spanning trees' share of it, and the non-zero entries of "
        f"the estimator's gradient per graph (median over the training). One call of the solver: "
        f"{calls}.",
        ["", "ms per step", "solver", "non-zero"],
        rows,
    )


def _tuning(tuning: dict[str, JSON]) -> Table:
    return Table(
        f"Validation ELBO of every cell of the grid, T = {tuning['frames']}, one number for "
        f"each of the seeds {', '.join(map(str, tuning['seeds']))}.",
        ["", "lr", "ELBO"],
        [
            [
                label(cell),
                f"{cell['learning_rate']:g}",
                ", ".join(f"{elbo:.0f}" for elbo in cell["elbos"]),
            ]
            for cell in tuning["cells"]
        ],
    )
