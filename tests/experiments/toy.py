# SPDX-License-Identifier: Apache-2.0
"""A small experiment that the tests of the runner run: a training that resumes."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

import discrete_grad as dg
from experiments import plots
from experiments.experiment import Experiment
from experiments.session import JSON, Context, Session, Task
from experiments.tables import Table, mean_std
from experiments.training import capture, estimator_state, restore

STEPS = 6


def train(settings: dict[str, JSON], context: Context) -> JSON:
    """Moves the logits of a subset towards one that a target asks for."""
    generator = torch.Generator().manual_seed(settings["seed"])
    target = torch.rand(8, generator=generator)
    logits = torch.nn.Linear(8, 1, bias=False)
    torch.nn.init.zeros_(logits.weight)
    optimizer = torch.optim.Adam(logits.parameters(), 0.1)
    estimator = dg.estimators.get(settings["estimator"])
    parts = {
        "logits": logits,
        "optimizer": optimizer,
        "estimator": estimator_state(estimator),
        "generator": generator,
    }
    losses: list[float] = []
    state = context.restore()
    if state is not None:
        losses = state["losses"]
        restore(state["parts"], **parts)
    while len(losses) < STEPS:
        context.save(lambda: {"losses": list(losses), "parts": capture(**parts)})
        loss = estimator(
            logits.weight[0], 3, lambda z: ((z - target) ** 2).sum(-1), 2, generator=generator
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        context.advance()
    return {"losses": losses}


def run(session: Session) -> JSON:
    names = session.estimators(("simple", "aimle", "score_function_moving_average"))
    tasks = [
        Task(f"{name}/seed-{seed}", {"estimator": name, "seed": seed}, STEPS)
        for name in names
        for seed in session.seeds(3)
    ]
    results = session.map(train, tasks, "train")
    runs: dict[str, JSON] = {name: [] for name in names}
    for task, result in zip(tasks, results, strict=True):
        runs[task.settings["estimator"]].append(result["losses"])
    return {"losses": runs}


def tables(results: JSON) -> dict[str, Table]:
    rows = [
        [plots.LABELS[name], mean_std([losses[-1] for losses in runs], 3)]
        for name, runs in results["losses"].items()
    ]
    return {"loss": Table("The last loss.", ["estimator", "loss"], rows)}


def figures(results: JSON) -> dict[str, Figure]:
    figure, axes = plots.figure()
    for name, runs in results["losses"].items():
        axes[0, 0].plot(runs[0], color=plots.COLOURS[name], label=plots.LABELS[name])
    plots.style(axes[0, 0], "step", "loss", legend=True)
    return {"curves": figure}


EXPERIMENT = Experiment("toy", "A toy", "no paper", run, tables, figures)
