# SPDX-License-Identifier: Apache-2.0
"""Part three: error against draws and against time, at 1,000 and 100,000 items."""

from __future__ import annotations

import time
from statistics import fmean

import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad.estimators import Estimator
from experiments.gradient_quality import grid, measure, problems
from experiments.gradient_quality.estimation import adapted, configured, estimate
from experiments.session import JSON, Context, Session, Task

SIZES = {1000: (100, (1, 4, 16, 64, 256, 1024)), 100_000: (1000, (1, 4, 16, 64))}
LOSSES = ("distance", "least squares")
NAMES = (
    "straight_through",
    "gumbel_softmax",
    "imle",
    "imle_central",
    "aimle",
    "aimle_central",
    "score_function_loo",
    "simple",
    "simple_second_order",
    "simple_unbiased",
)
AIMLE_PASSES = 300
AIMLE_RULE = {"initial_beta": 1.0, "beta_update_step": 2e-2}
REPEATS = {1000: 5, 100_000: 3}
# The relaxed top-k keeps some n k S numbers for its backward pass; more than this is left out.
RELAXED_LIMIT = 10**7


def run(session: Session, names: list[str]) -> JSON:
    """The curves of every estimator at both sizes and for both losses, and their tuning."""
    names = [name for name in NAMES if name in names]
    seeds = session.seeds(10)
    problems_ = [(n, loss) for n in SIZES for loss in LOSSES]
    tuning = [
        Task(f"scale/{n}/{loss}/tune/{name}", _tuning(session, n, loss, name))
        for n, loss in problems_
        for name in names
        if name in grid.CELLS and _feasible(name, n, grid.SAMPLES)
    ]
    tuned = session.map(tune, tuning, "scale: tuning") if tuning else []
    chosen: dict[tuple[int, str], dict[str, JSON]] = {place: {} for place in problems_}
    for task, errors in zip(tuning, tuned, strict=True):
        cells = task.settings["cells"]
        place = (task.settings["n"], task.settings["loss"])
        chosen[place][task.settings["estimator"]] = cells[errors.index(min(errors))]
    tasks = [
        Task(
            f"scale/{n}/{loss}/seed-{seed}",
            {
                **_common(session, n, loss),
                "seed": seed,
                "repeats": 2 if session.quick else REPEATS[n],
                "estimators": {
                    name: {"cell": chosen[n, loss].get(name), "samples": points}
                    for name in names
                    if (points := _samples(session, n, name))
                },
            },
            len(names),
        )
        for n, loss in problems_
        for seed in seeds
    ]
    measured = session.map(measure_curves, tasks, "scale") if names else []
    return {
        "sizes": [{"n": n, "k": k} for n, (k, _) in SIZES.items()],
        "seeds": seeds,
        "aimle": {"passes": _passes(session), **AIMLE_RULE},
        "clock": _clock(session),
        "relaxed_limit": RELAXED_LIMIT,
        "tuning": [
            {
                **{key: task.settings[key] for key in ("n", "loss", "estimator", "cells")},
                "errors": errors,
            }
            for task, errors in zip(tuning, tuned, strict=True)
        ],
        "curves": [
            _curve(n, loss, name, chosen[n, loss].get(name), tasks, measured)
            for n, loss in problems_
            for name in names
            if _samples(session, n, name)
        ],
    }


def _clock(session: Session) -> str:
    one_thread = _one_thread(session.device, session.options.threads)
    return "processor time of one thread" if one_thread else "wall clock"


def _passes(session: Session) -> int:
    return 20 if session.quick else AIMLE_PASSES


def _common(session: Session, n: int, loss: str) -> dict[str, JSON]:
    rule = {"passes": _passes(session), **AIMLE_RULE}
    return {"n": n, "k": SIZES[n][0], "loss": loss, "aimle": rule}


def _tuning(session: Session, n: int, loss: str, name: str) -> dict[str, JSON]:
    cells = grid.CELLS[name]
    return {
        **_common(session, n, loss),
        "estimator": name,
        "cells": cells[::5] if session.quick else cells,
        "seeds": grid.SEEDS[:1] if session.quick else grid.SEEDS,
        "samples": grid.SAMPLES,
        "repeats": 1 if session.quick else grid.REPEATS,
    }


def _feasible(name: str, n: int, samples: int) -> bool:
    return name != "gumbel_softmax" or n * SIZES[n][0] * samples <= RELAXED_LIMIT


def _samples(session: Session, n: int, name: str) -> list[int]:
    """Numbers of draws; of those that compare draws, at least two."""
    least = 2 if name in ("simple_unbiased", "score_function_loo") else 1
    points = SIZES[n][1][:2] if session.quick else SIZES[n][1]
    return [max(samples, least) for samples in points if _feasible(name, n, samples)]


def tune(settings: dict[str, JSON], context: Context) -> list[float]:
    """The error of each cell, mean over the tuning seeds and repeats."""
    k, name = settings["k"], settings["estimator"]
    errors: list[list[float]] = [[] for _ in settings["cells"]]
    for seed in settings["seeds"]:
        theta, loss, exact = _problem(settings, seed, context.device)
        for cell, found in zip(settings["cells"], errors, strict=True):
            generator = torch.Generator(context.device).manual_seed(seed)
            estimator = _estimator(name, cell, settings, theta, loss, generator)
            for _ in range(settings["repeats"]):
                estimates = estimate(estimator, theta, k, loss, settings["samples"], generator)
                found.append(1 - measure.cosine(estimates.double(), exact).item())
    context.advance()
    return [round(fmean(found), 5) for found in errors]


def measure_curves(settings: dict[str, JSON], context: Context) -> JSON:
    """Of each estimator: error, relative distance and seconds by number of draws."""
    theta, loss, exact = _problem(settings, settings["seed"], context.device)
    curves = {}
    for name, how in settings["estimators"].items():
        generator = torch.Generator(context.device).manual_seed(settings["seed"])
        start = _now(context.device)
        estimator = _estimator(name, how["cell"], settings, theta, loss, generator)
        curve: dict[str, JSON] = {"adaptation_seconds": _now(context.device) - start}
        curve |= {"error": [], "relative": [], "seconds": []}
        for samples in how["samples"]:
            # The first call allocates memory; it is not timed.
            estimate(estimator, theta, settings["k"], loss, samples, generator)
            errors, distances, seconds = [], [], []
            for _ in range(settings["repeats"]):
                start = _now(context.device)
                found = estimate(estimator, theta, settings["k"], loss, samples, generator)
                seconds.append(_now(context.device) - start)
                errors.append(1 - measure.cosine(found.double(), exact).item())
                distances.append(((found - exact).norm() / exact.norm()).item())
            curve["error"].append(fmean(errors))
            curve["relative"].append(fmean(distances))
            # What else the machine does can only add to it, by the cache at least.
            curve["seconds"].append(min(seconds))
        curves[name] = curve
        context.advance()
    return curves


def _problem(
    settings: dict[str, JSON], seed: int, device: torch.device
) -> tuple[Tensor, problems.Loss, Tensor]:
    """theta and the loss in float32, the exact gradient in float64."""
    theta, loss = problems.large(settings["loss"], seed, settings["n"], settings["k"])
    theta, loss = theta.to(device), loss.to(device)
    exact = loss.to(torch.float64).gradient(theta.double(), settings["k"])
    return theta, loss, exact


def _estimator(
    name: str,
    cell: dict[str, JSON] | None,
    settings: dict[str, JSON],
    theta: Tensor,
    loss: problems.Loss,
    generator: torch.Generator,
) -> Estimator:
    """With the settings of a cell of the grid; AIMLE's step is adapted first."""
    if cell is None:
        return configured(name)
    if "lambda" in cell:
        return configured(
            name, target=dg.TargetDistribution(beta=cell["lambda"]), noise=cell["noise"]
        )
    if "temperature" in cell:
        return configured(name, temperature=cell["temperature"])
    rule = {**settings["aimle"], "target_norm": cell["target_share"] * settings["k"]}
    passes = rule.pop("passes")
    return adapted(
        name, theta, settings["k"], loss, 1, passes, generator, noise=cell["noise"], **rule
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    one_thread = _one_thread(device, torch.get_num_threads())
    return time.process_time() if one_thread else time.perf_counter()


def _one_thread(device: torch.device, threads: int) -> bool:
    """Then the processor's time is taken: other processes do not count."""
    return device.type == "cpu" and threads == 1


def _curve(
    n: int, loss: str, name: str, cell: JSON, tasks: list[Task], measured: list[JSON]
) -> JSON:
    """Lists over the seeds at each number of draws."""
    of_seeds = [
        found[name]
        for task, found in zip(tasks, measured, strict=True)
        if (task.settings["n"], task.settings["loss"]) == (n, loss)
    ]
    samples = next(
        task.settings["estimators"][name]["samples"]
        for task in tasks
        if (task.settings["n"], task.settings["loss"]) == (n, loss)
    )
    points = [
        {
            "samples": count,
            **{
                key: [float(f"{one[key][at]:.4g}") for one in of_seeds]
                for key in ("error", "relative", "seconds")
            },
        }
        for at, count in enumerate(samples)
    ]
    adaptation = [float(f"{one['adaptation_seconds']:.4g}") for one in of_seeds]
    return {
        "n": n,
        "loss": loss,
        "estimator": name,
        "chosen": cell,
        "adaptation_seconds": adaptation,
        "points": points,
    }
