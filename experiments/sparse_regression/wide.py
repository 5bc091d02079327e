# SPDX-License-Identifier: Apache-2.0
"""Which 100 of 100,000 columns a regression needs: recovery over the number of rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.session import JSON, Context, Session, Task
from experiments.sparse_regression import wide_baselines, wide_grid, wide_problem
from experiments.sparse_regression.wide_learning import learn


def solve(settings: dict[str, JSON], context: Context) -> JSON:
    """One method on one problem."""
    problem = wide_problem.make(**settings["problem"])
    k, method = settings["problem"]["k"], settings["method"]
    if method in wide_grid.LEARNERS:
        found = learn(problem, k, settings["settings"], context)
    else:
        methods: dict[str, Callable[[wide_problem.Problem, int], list[int]]] = {
            "omp": wide_baselines.matching_pursuit,
            "iht": wide_baselines.hard_thresholding,
            "htp": wide_baselines.hard_thresholding_pursuit,
            "lasso": partial(wide_baselines.lasso, **settings["settings"]),
        }
        found = wide_baselines.timed(lambda: methods[method](problem, k))
        context.advance()
    support = found.pop("support")
    return {**problem.judge(support), **found, "seconds": round(found["seconds"], 3)}


def run(session: Session, names: list[str]) -> JSON:
    """Recall, error and time per rows, method and seed."""
    size = wide_grid.QUICK if session.quick else wide_grid.FULL
    chosen = _tune(session, size, names)
    tasks = [
        _task(f"wide/rows-{rows}/seed-{seed}/{method}", size, rows, seed, method, chosen)
        for rows in size.rows
        for seed in session.seeds()
        for method in (*wide_grid.BASELINES, *names)
        if rows == size.compared or method not in wide_grid.LEARNERS or method == wide_grid.NATURAL
    ]
    found: dict[str, JSON] = {}
    for task, result in zip(tasks, session.map(solve, tasks, "wide"), strict=True):
        rows, method = task.settings["problem"]["rows"], task.settings["method"]
        found.setdefault(str(rows), {}).setdefault(method, []).append(result)
    return {
        "size": {
            "n": size.n,
            "rows": list(size.rows),
            "compared": size.compared,
            "k": size.k,
            "snr": size.snr,
            "steps": size.steps,
        },
        "grid": {
            **{name: wide_grid.LEARNERS[name] for name in names},
            "lasso": [{"penalty": penalty} for penalty in wide_grid.PENALTIES],
        },
        "tuning": {"seed": wide_grid.TUNING_SEED, "chosen": chosen},
        "found": found,
    }


def _tune(session: Session, size: wide_grid.Size, names: list[str]) -> dict[str, JSON]:
    """The settings whose support leaves the least residual on a problem of its own."""
    grids: dict[str, list[dict[str, JSON]]] = {
        **{name: wide_grid.LEARNERS[name] for name in names},
        "lasso": [{"penalty": penalty} for penalty in wide_grid.PENALTIES],
    }
    tasks = [
        _task(
            f"wide/tune/{method}/{i}",
            size,
            size.compared,
            wide_grid.TUNING_SEED,
            method,
            {method: cell},
        )
        for method, cells in grids.items()
        for i, cell in enumerate(cells)
    ]
    best: dict[str, JSON] = {}
    for task, result in zip(tasks, session.map(solve, tasks, "wide: tune"), strict=True):
        method = task.settings["method"]
        if method not in best or result["residual"] < best[method]["residual"]:
            index = int(task.key.rpartition("/")[2])
            best[method] = {"residual": result["residual"], "cell": grids[method][index]}
    return {method: one["cell"] for method, one in best.items()}


def _task(
    key: str,
    size: wide_grid.Size,
    rows: int,
    seed: int,
    method: str,
    chosen: dict[str, JSON],
) -> Task:
    problem = {"n": size.n, "rows": rows, "k": size.k, "snr": size.snr, "seed": seed}
    own: dict[str, JSON] = dict(chosen.get(method, {}))
    steps = 1
    if method in wide_grid.LEARNERS:
        steps = size.steps
        own |= {"estimator": method, "steps": steps, "training_seed": seed}
    return Task(key, {"problem": problem, "method": method, "settings": own}, steps)
