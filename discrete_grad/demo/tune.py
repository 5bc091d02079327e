# SPDX-License-Identifier: Apache-2.0
"""Where the settings in estimators.py come from: ``python -m discrete_grad.demo.tune --help``.

Every candidate trains on four fifths of a training set and is judged by its ELBO on the last fifth,
for seeds, and so for splits of the digits, that the demo's reported figures do not use. What came
out is in docs/figures/demo-tuning.json.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from discrete_grad.demo.data import Images, load_digits
from discrete_grad.demo.estimators import ESTIMATORS, Estimator
from discrete_grad.demo.report import write
from discrete_grad.demo.train import TrainingError, train

BATCH_SIZE = 100
LEARNING_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
TEMPERATURES = (0.25, 0.5, 1.0)


def candidates() -> Iterator[Estimator]:
    """Every estimator at every learning rate, the straight-through one at every temperature too.

    With two settings to choose, that one does without the outermost learning rates.
    """
    for estimator in ESTIMATORS.values():
        if "temperature" not in estimator.options:
            yield from (replace(estimator, learning_rate=rate) for rate in LEARNING_RATES)
            continue
        for temperature in TEMPERATURES:
            for rate in LEARNING_RATES[1:-1]:
                options = {"temperature": temperature}
                yield replace(estimator, learning_rate=rate, options=options)


def validation_split(images: Images) -> Images:
    """The training images alone: the last fifth as the test set."""
    held_out = len(images.train) // 5
    return replace(images, train=images.train[held_out:], test=images.train[:held_out])


def validation_elbo(candidate: Estimator, seed: int, epochs: int) -> float:
    """After training with one seed; -inf where training broke down."""
    torch.set_num_threads(1)
    images = validation_split(load_digits(seed))
    try:
        run = train(
            images,
            candidate,
            seed=seed,
            epochs=epochs,
            batch_size=BATCH_SIZE,
            device=torch.device("cpu"),
            on_epoch=lambda _: None,
        )
    except TrainingError:
        return -math.inf
    return run.final.elbo


def _judge(job: tuple[Estimator, int, int]) -> float:
    return validation_elbo(*job)


def main() -> None:
    """Run the grid and write it down, best first within each estimator."""
    parser = argparse.ArgumentParser(
        prog="python -m discrete_grad.demo.tune", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, action="append", help="default: 100 and 101")
    parser.add_argument("--workers", type=int, default=2, help="processes; default: 2")
    parser.add_argument("--output", type=Path, default=Path("demo-output/tuning.json"))
    options = parser.parse_args()
    seeds = options.seed or [100, 101]  # the demo reports others

    grid = list(candidates())
    jobs = [(candidate, seed, options.epochs) for seed in seeds for candidate in grid]
    elbos: list[list[float]] = [[] for _ in grid]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for number, elbo in enumerate(
            tqdm(pool.imap(_judge, jobs), total=len(jobs), unit="run", smoothing=0.05)
        ):
            elbos[number % len(grid)].append(elbo)
    write(_results(grid, elbos, options.epochs, seeds), options.output)
    print(options.output.read_text(encoding="utf-8"))


def _results(
    grid: list[Estimator], elbos: list[list[float]], epochs: int, seeds: list[int]
) -> dict[str, Any]:
    ranked = sorted(
        zip(grid, elbos, strict=True), key=lambda judged: (judged[0].name, -fmean(judged[1]))
    )
    return {
        "settings": {"epochs": epochs, "seeds": seeds, "batch_size": BATCH_SIZE},
        "null": "training broke down: the loss was no longer finite",
        "candidates": [
            {
                "estimator": candidate.name,
                "learning_rate": candidate.learning_rate,
                **candidate.options,
                "validation_elbo": _finite(fmean(own)),
                "by_seed": [_finite(elbo) for elbo in own],
            }
            for candidate, own in ranked
        ],
    }


def _finite(elbo: float) -> float | None:
    return round(elbo, 2) if math.isfinite(elbo) else None


if __name__ == "__main__":
    main()
