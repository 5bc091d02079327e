# SPDX-License-Identifier: Apache-2.0
"""Where the settings in estimators.py come from: ``python -m discrete_grad.demo.tune --help``.

Every candidate trains on four fifths of a training set and is judged by its ELBO on the last fifth,
for seeds, and so for splits of the digits, that the demo's reported figures do not use. What came
out is in docs/figures/demo-tuning.json.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from discrete_grad.demo.data import Images, load_digits
from discrete_grad.demo.estimators import ESTIMATORS, Estimator
from discrete_grad.demo.train import TrainingError, train

BATCH_SIZE = 100
LEARNING_RATES = (5e-4, 1e-3, 2e-3)
TEMPERATURES = (None, 0.5, 1.0, 2.0)  # None: the identity


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


@dataclass(frozen=True)
class Job:
    """One training run of the grid."""

    candidate: Estimator
    seed: int
    epochs: int

    def settings(self) -> dict[str, object]:
        """What identifies the run in the file of results."""
        return {
            "estimator": self.candidate.name,
            "learning_rate": self.candidate.learning_rate,
            **self.candidate.options,
            "seed": self.seed,
            "epochs": self.epochs,
            "batch_size": BATCH_SIZE,
        }


def validation_elbo(job: Job) -> float | None:
    """After training; None where training broke down: its loss was no longer finite."""
    torch.set_num_threads(1)
    images = validation_split(load_digits(job.seed))
    try:
        run = train(
            images,
            job.candidate,
            seed=job.seed,
            epochs=job.epochs,
            batch_size=BATCH_SIZE,
            device=torch.device("cpu"),
            on_epoch=lambda _: None,
        )
    except TrainingError:
        return None
    return round(run.final.elbo, 2)


def main() -> None:
    """Run what the file of results does not have yet; every result is written at once."""
    parser = argparse.ArgumentParser(
        prog="python -m discrete_grad.demo.tune", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, action="append", help="default: 100 and 101")
    parser.add_argument("--workers", type=int, default=2, help="processes; default: 2")
    parser.add_argument("--output", type=Path, default=Path("demo-output/tuning.json"))
    options = parser.parse_args()
    path: Path = options.output

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    done = [{**row, "validation_elbo": None} for row in rows]
    grid = list(candidates())
    seeds = options.seed or [100, 101]  # the demo reports others
    jobs = [Job(candidate, seed, options.epochs) for seed in seeds for candidate in grid]
    jobs = [job for job in jobs if {**job.settings(), "validation_elbo": None} not in done]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        elbos = pool.imap(validation_elbo, jobs)
        for job, elbo in zip(jobs, tqdm(elbos, total=len(jobs), unit="run"), strict=True):
            rows.append({**job.settings(), "validation_elbo": elbo})
            lines = ",\n  ".join(map(json.dumps, rows))
            path.write_text(f"[\n  {lines}\n]\n", encoding="utf-8")
    for settings, mean in means(rows):
        print(f"{mean:9.2f}  {settings}")


def means(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Settings with their mean over seeds, best first within each estimator.

    -inf where training broke down for a seed.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        settings = {key: row[key] for key in row if key not in ("seed", "validation_elbo")}
        elbo = row["validation_elbo"]
        found.setdefault(json.dumps(settings), []).append(-math.inf if elbo is None else elbo)
    ranked = [(json.loads(settings), fmean(elbos)) for settings, elbos in found.items()]
    return sorted(ranked, key=lambda entry: (entry[0]["estimator"], -entry[1]))


if __name__ == "__main__":
    main()
