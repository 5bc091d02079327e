# SPDX-License-Identifier: Apache-2.0
"""Part two: cosine and sparsity over the step lambda on AIMLE's problem of 10 items, 5 chosen."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

import discrete_grad as dg
from experiments.gradient_quality import measure, problems
from experiments.gradient_quality.estimation import adapted, configured, estimate
from experiments.gradient_quality.published import published
from experiments.session import JSON, Context, Session, Task

N, K = 10, 5
SEEDS = 64
SAMPLES = (1, 10, 100)
LAMBDAS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
PASSES = (100, 1000)
RULE = {"initial_beta": 0.0, "beta_update_step": 1e-3, "target_norm": 1.0}
REPEATS = 64
FIXED = ("imle", "imle_central")
ADAPTIVE = ("aimle", "aimle_central")
ZERO = 1e-8  # entries below it count as zeros


class Means(NamedTuple):
    """Of one quantity at one seed: over the repeats, and the variance of a single one."""

    mean: float
    variance: float


def run(session: Session, names: list[str]) -> JSON:
    """Cells of estimator, step (or number of passes that adapt it) and samples."""
    seeds = session.seeds(SEEDS)
    common = {"seeds": seeds, "repeats": 8 if session.quick else REPEATS}
    lambdas = LAMBDAS[::4] if session.quick else LAMBDAS
    passes = PASSES[:1] if session.quick else PASSES
    tasks = [
        Task(
            f"synthetic/{name}/S-{samples}/lambda-{step:g}",
            {"estimator": name, "samples": samples, "lambda": step, **common},
        )
        for name in FIXED
        if name in names
        for samples in SAMPLES
        for step in lambdas
    ] + [
        Task(
            f"synthetic/{name}/S-{samples}/passes-{count}",
            {"estimator": name, "samples": samples, "passes": count, "rule": RULE, **common},
            len(seeds),
        )
        for name in ADAPTIVE
        if name in names
        for count in passes
        for samples in SAMPLES
    ]
    measured = session.map(measure_cell, tasks, "synthetic")
    cells = [_cell(task.settings, found) for task, found in zip(tasks, measured, strict=True)]
    return {"n": N, "k": K, **common, "cells": cells}


def measure_cell(settings: dict[str, JSON], context: Context) -> JSON:
    """Of each seed: mean and variance of the cosine and the sparsity of single estimates."""
    name, samples, repeats = settings["estimator"], settings["samples"], settings["repeats"]
    found: dict[str, list[JSON]] = {"cosine": [], "sparsity": []}
    if "passes" in settings:
        found |= {"lambda": [], "beta": []}
    for seed in settings["seeds"]:
        theta, loss = problems.published(seed, N)
        exact = loss.gradient(theta, K)
        device = context.device
        theta, loss = theta.to(device), loss.to(device)
        generator = torch.Generator(device).manual_seed(seed)
        if "passes" in settings:
            estimator = adapted(
                name,
                theta,
                K,
                loss,
                samples,
                settings["passes"],
                generator,
                noise="gumbel",
                **settings["rule"],
            )
            beta = estimator.options["target"].beta.item()
            found["beta"].append(round(beta, 6))
            found["lambda"].append(round(_typical_step(beta, theta, loss), 6))
            context.advance()
        else:
            target = dg.TargetDistribution(beta=settings["lambda"], do_gradient_scaling=True)
            estimator = configured(name, target=target, noise="gumbel")
        estimates = estimate(estimator, theta.expand(repeats, N), K, loss, samples, generator).cpu()
        found["cosine"].append(_means(measure.cosine(estimates, exact)))
        found["sparsity"].append(_means((estimates.abs() < ZERO).double().mean(-1)))
    return found


def _typical_step(beta: float, theta: Tensor, loss: problems.Distance) -> float:
    """beta ||theta|| / ||df/dz||, with the mean square of df/dz = 2 (z - b) over the law."""
    mean_square = 4 * (loss(torch.zeros_like(theta)) + K)
    marginals = dg.subset.marginals(theta, K)
    mean_square = mean_square - 8 * (marginals * loss.offset).sum()
    return float(beta * theta.norm() / mean_square.sqrt())


def _means(values: Tensor) -> Means:
    return Means(round(values.mean().item(), 6), round(values.var().item(), 8))


def _cell(settings: dict[str, JSON], found: JSON) -> JSON:
    """Over all seeds, and over those of the published cell beside that."""
    at = "passes" if "passes" in settings else "lambda"
    place = {name: settings[name] for name in ("estimator", at, "samples")}
    cell = {**place, **_over_seeds(found, len(settings["seeds"]))}
    beside = next(
        (one for one in published()["synthetic"]["cells"] if place.items() <= one.items()), None
    )
    if beside is None or beside["seeds"] > len(settings["seeds"]):
        return cell
    ours = _over_seeds(found, beside["seeds"])
    distance = {
        f"{name}_distance": _distance(beside[name], ours, name, settings["repeats"])
        for name in ("cosine", "sparsity")
    }
    same = {f"{name}_same_seeds": ours[name] for name in ("cosine", "sparsity")}
    return {**cell, "published": {**beside, **same, **distance}}


def _over_seeds(found: JSON, count: int) -> dict[str, float]:
    """Means over the first ``count`` seeds; "_std" is that of a single estimate over the seeds,
    "_error" the standard error of the mean of a single estimate per seed, at these seeds.
    """
    result = {}
    for name in ("cosine", "sparsity"):
        means, variances = (torch.tensor(found[name][:count]).double().T)[:2]
        spread = means.var() if count > 1 else torch.zeros(())
        result[name] = round(means.mean().item(), 4)
        result[f"{name}_std"] = round((spread + variances.mean()).sqrt().item(), 4)
        result[f"{name}_error"] = round((variances.mean() / count).sqrt().item(), 5)
    for name in ("lambda", "beta"):
        if name in found:
            result[f"{name}_reached"] = round(math.fsum(found[name][:count]) / count, 4)
    return result


def _distance(value: float, ours: dict[str, float], name: str, repeats: int) -> float:
    """Of a published mean from ours, in standard errors of their difference at the same seeds."""
    error = ours[f"{name}_error"] * math.sqrt(1 + 1 / repeats)
    # Both means are rounded to four digits: they cannot be closer than that.
    return round((value - ours[name]) / max(error, 1e-4), 2)
