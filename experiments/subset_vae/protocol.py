# SPDX-License-Identifier: Apache-2.0
"""The whole experiment: every grid on the tuning seeds, then the best settings on all seeds."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from statistics import fmean

from discrete_grad.demo.data import Images
from discrete_grad.demo.model import reconstruction_floor
from discrete_grad.demo.train import TrainingError
from experiments.session import JSON, Session, Task
from experiments.subset_vae import pictures
from experiments.subset_vae.grid import COMPARISONS, ESTIMATORS, TUNING_SEEDS, candidates
from experiments.subset_vae.training import load, train

_EPOCHS, _BATCH_SIZE, _PICTURES = 40, 100, 12
_QUICK_EPOCHS, _QUICK_IMAGES, _QUICK_EVERY = 2, 200, 5
_SETTING = (
    "The paper trains on MNIST, 60,000 images of 28x28 pixels, for 200 epochs of 600 steps. Here: "
    "{data}, {images} training images of {height}x{width} pixels, {epochs} epochs of {steps} steps."
)
# Of a final run, what is kept, and to how many digits.
_DIGITS = {
    "elbo": 3,
    "reconstruction": 3,
    "divergence": 3,
    "own_reconstruction": 3,
    "published_divergence": 3,
    "seconds_per_epoch": 4,
}


def add_arguments(parser: ArgumentParser) -> None:
    """The experiment's own options."""
    add = parser.add_argument
    help_data = "folder of MNIST's IDX files; default: scikit-learn's digits"
    add("--data", type=Path, metavar="DIR", help=help_data)
    add("--epochs", type=_positive, metavar="N", help=f"of each training; default: {_EPOCHS}")
    add("--batch-size", type=_positive, metavar="N", default=_BATCH_SIZE, help="default: 100")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def run(session: Session) -> dict[str, JSON]:
    """All comparisons of ``grid.COMPARISONS``.

    Returns:
        By comparison and estimator the grid with its validation ELBOs, the settings chosen, and the
        final runs; what was trained on what, and pictures of the first seed's models.
    """
    common = _common(session)
    images = load({**common, "tuning": False})
    asked = session.estimators(ESTIMATORS)
    entries = [(c, name) for c in COMPARISONS for name in c.estimators if name in asked]
    every = _QUICK_EVERY if session.quick else 1
    grids = {(c.name, name): candidates(c, name)[::every] for c, name in entries}
    chosen = _tune(session, common, grids)
    seeds = session.seeds()
    tasks = [
        _task(
            f"final/{comparison}/{name}/seed-{seed}",
            {**common, **candidate, "seed": seed, "tuning": False},
            pictures=_PICTURES if seed == seeds[0] else 0,
        )
        for (comparison, name), (candidate, _) in chosen.items()
        for seed in seeds
    ]
    found = iter(zip(tasks, session.map(train, tasks, "final runs"), strict=True))
    compared: dict[str, JSON] = {
        c.name: {"k": c.k, "noise": c.noise, "estimators": {}} for c, _ in entries
    }
    for (comparison, name), (candidate, tried) in chosen.items():
        runs = [_final(*next(found)) for _ in seeds]
        entry = {"chosen": _shown(candidate), "candidates": tried, "runs": runs}
        compared[comparison]["estimators"][name] = entry
    return {
        "setting": _setting(images, common),
        "data": {
            "name": images.name,
            "train_images": len(images.train),
            "test_images": len(images.test),
            "height": images.height,
            "width": images.width,
            "observations_per_pixel": images.trials,
            "reconstruction_floor": round(reconstruction_floor(images.test, images.trials), 3),
        },
        "training": {
            "epochs": common["epochs"],
            "batch_size": common["batch_size"],
            "seeds": seeds,
            "tuning_seeds": list(TUNING_SEEDS),
        },
        "originals": pictures.to_text(images.test[:_PICTURES]),
        "comparisons": compared,
    }


def _common(session: Session) -> dict[str, JSON]:
    options = session.options
    return {
        "data": None if options.data is None else str(options.data),
        "images": _QUICK_IMAGES if session.quick else None,
        "epochs": options.epochs or (_QUICK_EPOCHS if session.quick else _EPOCHS),
        "batch_size": options.batch_size,
    }


def _setting(images: Images, common: dict[str, JSON]) -> str:
    return _SETTING.format(
        data=images.name,
        images=len(images.train),
        height=images.height,
        width=images.width,
        epochs=common["epochs"],
        steps=math.ceil(len(images.train) / common["batch_size"]),
    )


def _task(key: str, settings: dict[str, JSON], pictures: int) -> Task:
    return Task(key, {**settings, "pictures": pictures}, settings["epochs"])


def _tune(
    session: Session,
    common: dict[str, JSON],
    grids: dict[tuple[str, str], list[dict[str, JSON]]],
) -> dict[tuple[str, str], tuple[dict[str, JSON], list[dict[str, JSON]]]]:
    """For each grid the best candidate by its mean ELBO, and all with their ELBOs by seed."""
    tasks = [
        _task(
            f"tuning/{comparison}/{name}/{number}/seed-{seed}",
            {**common, **candidate, "seed": seed, "tuning": True},
            pictures=0,
        )
        for (comparison, name), grid in grids.items()
        for number, candidate in enumerate(grid)
        for seed in TUNING_SEEDS
    ]
    found = iter(session.map(train, tasks, "tuning"))
    result = {}
    for key, grid in grids.items():
        elbos = [[next(found).get("elbo", -math.inf) for _ in TUNING_SEEDS] for _ in grid]
        best, candidate = max(zip(map(fmean, elbos), grid, strict=True), key=lambda pair: pair[0])
        if best == -math.inf:
            raise TrainingError(f"{'/'.join(key)}: no candidate's loss stayed finite")
        tried = [
            {
                **_shown(one),
                "validation_elbo": [round(e, 2) if e > -math.inf else None for e in own],
            }
            for one, own in zip(grid, elbos, strict=True)
        ]
        result[key] = candidate, tried
    return result


def _shown(candidate: dict[str, JSON]) -> dict[str, JSON]:
    """What distinguishes one candidate of an estimator from another."""
    rate, samples = candidate["learning_rate"], candidate["num_samples"]
    return {"learning_rate": rate, "num_samples": samples, **candidate["own"]}


def _final(task: Task, found: dict[str, JSON]) -> dict[str, JSON]:
    if found["diverged"]:
        raise TrainingError(f"{task.key}: the loss was no longer finite, with {task.settings}")
    kept = {name: round(found[name], digits) for name, digits in _DIGITS.items() if name in found}
    return {
        "seed": task.settings["seed"],
        **kept,
        "test_elbo": [round(elbo, 1) for elbo in found["test_elbo"]],
        **({"pictures": found["pictures"]} if found["pictures"] else {}),
    }
