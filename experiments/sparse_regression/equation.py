# SPDX-License-Identifier: Apache-2.0
"""The terms of the Kuramoto-Sivashinsky equation, from its field with more and less noise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from experiments.session import JSON, Context, Session, Task
from experiments.sparse_regression import grid, learning
from experiments.sparse_regression.candidates import COLUMNS, SUPPORT, TERMS
from experiments.sparse_regression.kuramoto_sivashinsky import Field, load, simulate
from experiments.sparse_regression.statistics import BASELINES, Statistics

# What the curves over the training are kept of, and the method whose marginals are.
SHOWN, SHOWN_METHOD = ("weak", 0.05), "simple/16"
_QUICK_STEPS, _QUICK_NOISE = 60, (0.0, 0.05)


def source(data: Path | None) -> JSON:
    """What names the field in the settings of a task: None, or the file and its content."""
    if data is None:
        return None
    load(data)
    return {"path": str(data), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}


def field(data: JSON) -> Field:
    """The field itself: simulated, or of the file."""
    return simulate() if data is None else load(Path(data["path"]))


def prepare(settings: dict[str, JSON], context: Context) -> JSON:
    """Statistics of the columns, and what the baselines find, for each seed of the noise."""
    clean = field(settings["data"])
    result = []
    for seed in settings["seeds"]:
        noisy = clean.with_noise(settings["noise"], seed)
        statistics = Statistics.of(*COLUMNS[settings["columns"]](noisy))
        found = {name: list(method(statistics, learning.K)) for name, method in BASELINES.items()}
        result.append({"statistics": statistics.to_json(), "supports": found})
        context.advance()
    return result


def run(session: Session, names: list[str]) -> JSON:
    """Supports and coefficients per columns, noise, method and seed."""
    data = source(session.options.data)
    tuning_seeds = list(grid.TUNING_SEEDS[: 1 if session.quick else None])
    seeds = session.seeds()
    levels = _QUICK_NOISE if session.quick else grid.NOISE
    tasks = [
        Task(
            f"columns/{columns}/noise-{noise}/{part}",
            {"columns": columns, "noise": noise, "seeds": chosen, "data": data},
            len(chosen),
        )
        for columns in COLUMNS
        for noise in levels
        for part, chosen in (("tuning", tuning_seeds), ("final", seeds))
    ]
    prepared = dict(
        zip((task.key for task in tasks), session.map(prepare, tasks, "columns"), strict=True)
    )
    methods = [(name, draws) for name in names for draws in grid.DRAWS]
    chosen = _tune(session, methods, prepared, levels)
    trained = _train(session, methods, prepared, levels, chosen)
    found = {}
    for columns in COLUMNS:
        for noise in levels:
            problems = prepared[f"columns/{columns}/noise-{noise}/final"]
            supports = {name: [one["supports"][name] for one in problems] for name in BASELINES}
            for name, draws in methods:
                result = trained[f"{columns}/noise-{noise}/{name}/draws-{draws}"]
                supports[f"{name}/{draws}"] = result["supports"][0]
            statistics = [_statistics(one) for one in problems]
            found[f"{columns}/{noise}"] = {
                method: _outcomes(statistics, one) for method, one in supports.items()
            }
    columns, noise = SHOWN
    curves = {
        f"{name}/{draws}": trained[f"{columns}/noise-{noise}/{name}/draws-{draws}"]
        for name, draws in methods
    }
    return {
        "data": "simulated" if data is None else Path(data["path"]).name,
        "field": _picture(field(data)),
        "terms": list(TERMS),
        "grid": {name: grid.CELLS[name] for name in names},
        "tuning": {"seeds": tuning_seeds, "chosen": chosen},
        "found": found,
        "curves": {
            "example": list(SHOWN),
            "steps": {name: one["steps"] for name, one in curves.items()},
            "probability": {
                name: np.mean(one["probability"][0], axis=0).round(4).tolist()
                for name, one in curves.items()
            },
            "marginals": {
                name: np.round(one["marginals"][0], 4).tolist()
                for name, one in curves.items()
                if name == SHOWN_METHOD
            },
        },
    }


def _tune(
    session: Session,
    methods: list[tuple[str, int]],
    prepared: dict[str, JSON],
    levels: Sequence[float],
) -> dict[str, JSON]:
    """The cell of the grid with the least mean loss over the end of the training."""
    tasks = [
        _task(
            session,
            f"tune/{columns}/noise-{noise}/{name}/draws-{draws}",
            name,
            draws,
            grid.CELLS[name],
            prepared[f"columns/{columns}/noise-{noise}/tuning"],
        )
        for columns in COLUMNS
        for noise in levels
        for name, draws in methods
    ]
    chosen = {}
    for task, result in zip(tasks, session.map(learning.train, tasks, "tune"), strict=True):
        mean = [fmean(losses) for losses in result["losses"]]
        best = int(np.argmin(mean))
        cell = task.settings["cells"][best]
        chosen[task.key.removeprefix("tune/")] = {"cell": cell, "loss": round(mean[best], 6)}
    return chosen


def _train(
    session: Session,
    methods: list[tuple[str, int]],
    prepared: dict[str, JSON],
    levels: Sequence[float],
    chosen: dict[str, JSON],
) -> dict[str, JSON]:
    """The trainings that are reported."""
    tasks = [
        _task(
            session,
            f"train/{columns}/noise-{noise}/{name}/draws-{draws}",
            name,
            draws,
            [chosen[f"{columns}/noise-{noise}/{name}/draws-{draws}"]["cell"]],
            prepared[f"columns/{columns}/noise-{noise}/final"],
        )
        for columns in COLUMNS
        for noise in levels
        for name, draws in methods
    ]
    results = session.map(learning.train, tasks, "train")
    return {task.key.removeprefix("train/"): one for task, one in zip(tasks, results, strict=True)}


def _task(
    session: Session,
    key: str,
    name: str,
    draws: int,
    cells: list[list[float]],
    problems: list[JSON],
) -> Task:
    steps = _QUICK_STEPS if session.quick else grid.STEPS
    settings = {
        "estimator": name,
        "draws": draws,
        "cells": cells,
        "steps": steps,
        "seed": 0,
        "problems": [one["statistics"] for one in problems],
    }
    return Task(key, settings, steps)


def _statistics(prepared: JSON) -> Statistics:
    parts = {name: np.array(value) for name, value in prepared["statistics"].items()}
    return Statistics(**parts)


def _outcomes(statistics: list[Statistics], supports: list[list[int]]) -> JSON:
    """Per seed the support, what it leaves of u_t, and the three coefficients (0 if not chosen)."""
    pairs = list(zip(statistics, supports, strict=True))
    return {
        "supports": supports,
        "residuals": [round(one.residual(support), 6) for one, support in pairs],
        "coefficients": [
            one.coefficients(support)[list(SUPPORT)].round(5).tolist() for one, support in pairs
        ],
    }


def _picture(whole: Field) -> JSON:
    """u on a coarser grid, in tenths: enough to look at."""
    x, t = max(1, len(whole.x) // 128), max(1, len(whole.t) // 60)
    return {
        "length": round(float(whole.x[-1] - whole.x[0]), 3),
        "duration": round(float(whole.t[-1] - whole.t[0]), 3),
        "tenths": (10 * whole.u[::x, ::t]).round().astype(int).tolist(),
    }
