# SPDX-License-Identifier: Apache-2.0
"""Tuning, then the final comparison, for T = 10 and T = 20."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, median

from experiments.errors import UsageError
from experiments.relational_inference import data, grid
from experiments.relational_inference.grid import Cell, Setting
from experiments.relational_inference.latent import ESTIMATORS
from experiments.relational_inference.scale import solver_times, unlearned_trees
from experiments.relational_inference.train import load, train
from experiments.session import JSON, Session, Task

_SCORES = (
    "elbo_sample",
    "elbo_map",
    "kl",
    "precision_sample",
    "recall_sample",
    "accuracy_sample",
    "precision_map",
    "accuracy_map",
)
_CURVE = ("elbo_sample", "precision_sample")


def run(session: Session) -> JSON:
    """All results; ``tables`` and ``figures`` say what is in them.

    Raises:
        UsageError: no results are to be published.
    """
    if session.options.generate_only and session.options.publish:
        raise UsageError("--publish: with --generate-only there are no results")
    setting = grid.setting(session.options)
    frames = sorted(session.options.frames or setting.prediction)
    sources = {number: _source(session, setting, number) for number in frames}
    if session.options.generate_only:
        return {"setting": setting_of(session, setting), "frames": {}}
    names = session.estimators(ESTIMATORS)
    tried = _tune(session, setting, names, sources[frames[0]])
    times = Task("solver", {"batches": [setting.batch, 4 * setting.batch]}, 2)
    results: dict[str, JSON] = {
        "setting": setting_of(session, setting),
        "tuning": {"frames": frames[0], "seeds": setting.tuning_seeds, "cells": tried},
        "solver": session.map(solver_times, [times], "solver")[0],
        "frames": {},
    }
    for number in frames:
        cells = _finalists(setting, names, tried, number, all_steps=number == frames[0])
        results["frames"][str(number)] = _final(session, setting, cells, sources[number])
    return results


def setting_of(session: Session, setting: Setting) -> dict[str, JSON]:
    """For the record: every size, and what was reduced."""
    sizes = asdict(setting)
    sizes["fixed"] = {f"{name}, T={t}": asdict(cell) for (name, t), cell in setting.fixed.items()}
    data_from = "published arrays" if session.options.data else "generated"
    reduced = None if session.options.published else grid.WHY_REDUCED
    made = {"data": data_from, "reduced": reduced, **sizes}
    as_read: dict[str, JSON] = json.loads(json.dumps(made))  # keys of numbers of frames are text
    return as_read


def _source(session: Session, setting: Setting, frames: int) -> dict[str, JSON]:
    options = session.options
    if options.data is not None:
        source = {"path": str(options.data), "frames": frames, "parameters": None}
    else:
        parameters = data.Parameters(*setting.graphs, frames)
        path = data.generate(options.output / "data", parameters)
        source = {"path": str(path), "frames": frames, "parameters": asdict(parameters)}
    load(source)  # a malformed file ends the run here, not in the middle
    return source


def _tune(
    session: Session, setting: Setting, names: Sequence[str], source: dict[str, JSON]
) -> list[dict[str, JSON]]:
    """Every cell of the grid, with its validation ELBO for each tuning seed."""
    cells = [
        (name, cell)
        for name in names
        if (name, source["frames"]) not in setting.fixed
        for cell in setting.cells(name)
    ]
    tasks = [
        Task(
            f"tuning/{name}/lambda-{cell.step}/rate-{cell.learning_rate}/seed-{seed}",
            setting.task(name, cell, seed, source),
            setting.steps,
        )
        for name, cell in cells
        for seed in setting.tuning_seeds
    ]
    found = iter(session.map(train, tasks, "tuning"))
    return [
        {
            "estimator": name,
            **asdict(cell),
            "elbos": [round(next(found)["valid"]["elbo_sample"], 1) for _ in setting.tuning_seeds],
        }
        for name, cell in cells
    ]


def _finalists(
    setting: Setting,
    names: Sequence[str],
    tried: list[dict[str, JSON]],
    frames: int,
    *,
    all_steps: bool,
) -> list[tuple[str, Cell]]:
    """The cell of each estimator with the best validation ELBO; with ``all_steps`` of each lambda.

    Values that were tuned at another number of frames are taken over.
    """

    def best(name: str, steps: Sequence[float | None]) -> Cell:
        cells = [c for c in tried if c["estimator"] == name and c["step"] in steps]
        chosen = max(cells, key=lambda cell: fmean(cell["elbos"]))
        return Cell(chosen["learning_rate"], chosen["step"], chosen["temperature"])

    result: list[tuple[str, Cell]] = []
    for name in names:
        if (name, frames) in setting.fixed:
            result.append((name, setting.fixed[name, frames]))
        elif name == "imle" and all_steps:
            result += [(name, best(name, [step])) for step in setting.imle_steps]
        elif name == "imle":
            result.append((name, best(name, setting.imle_steps)))
        else:
            result.append((name, best(name, [None])))
    return result


def _final(
    session: Session,
    setting: Setting,
    cells: list[tuple[str, Cell]],
    source: dict[str, JSON],
) -> dict[str, JSON]:
    frames = source["frames"]
    seeds = session.seeds(setting.seeds[frames])
    tasks = [
        Task(
            f"final/{frames}/{name}/lambda-{cell.step}/seed-{seed}",
            setting.task(name, cell, seed, source),
            setting.steps,
        )
        for name, cell in cells
        for seed in seeds
    ]
    found = iter(session.map(train, tasks, f"T = {frames}"))
    test = load(source)["test"]
    return {
        "seeds": seeds,
        "baselines": {
            name: {key: round(value, 4) for key, value in scores.items()}
            for name, scores in unlearned_trees(test).items()
        },
        "runs": [_run_of(name, cell, [next(found) for _ in seeds]) for name, cell in cells],
        "example": {
            "positions": [[round(x, 3) for x in xy] for xy in test.positions[0, -1].tolist()],
            "edges": data.pairs(test.edges[0]),
        },
    }


def _run_of(name: str, cell: Cell, found: list[JSON]) -> dict[str, JSON]:
    """One estimator's results: a list over the seeds for every score."""
    curves = [result["curve"] for result in found]
    longest = max(curves, key=len)
    return {
        "estimator": name,
        **asdict(cell),
        "test": {key: [_rounded(result["test"][key]) for result in found] for key in _SCORES},
        "best": [result["best"] for result in found],
        "diverged": [result["diverged"] for result in found],
        "steps": [point["step"] for point in longest],
        "curve": {
            key: [[_rounded(point[key]) for point in curve] for curve in curves] for key in _CURVE
        },
        "changed": [_median([point["changed"] for point in curve]) for curve in curves],
        "lambda": [_median([point["lambda"] for point in curve]) for curve in curves],
        "tree": found[0]["tree"],
        "seconds_per_step": [round(result["seconds_per_step"], 6) for result in found],
        "solver_seconds_per_step": [
            round(result["solver_seconds_per_step"], 6) for result in found
        ],
    }


def _rounded(value: float) -> float:
    return round(value, 1 if abs(value) >= 10 else 4)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{median(known):.3g}") if known else None
