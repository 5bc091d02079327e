# SPDX-License-Identifier: Apache-2.0
"""Sizes, budgets and the values that are tried."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.session import JSON


@dataclass(frozen=True)
class Cell:
    """What is chosen for an estimator: by tuning, or as published.

    Args:
        learning_rate: of Adam.
        step: I-MLE's lambda; None for the others.
        temperature: what the noise is multiplied with.
    """

    learning_rate: float
    step: float | None
    temperature: float


@dataclass(frozen=True)
class Setting:
    """Everything about the trainings but what a ``Cell`` says.

    Args:
        graphs: numbers of training, validation and test graphs.
        pull: of edges, in the decoder, at first; None is the published decoder.
        prediction: length of the predictions that are trained, in frames, by number of frames T.
        starts: how many of the frames that predictions start from are used in a step; None is all.
        adaptation: by how much AIMLE changes its beta in a step.
        fixed: cells of estimators that are not tuned, by estimator and number of frames.
        seeds: of the final comparison, by number of frames.
    """

    graphs: tuple[int, int, int]
    encoder_width: int
    decoder_width: int
    pull: float | None
    batch: int
    steps: int
    evaluate_every: int
    prediction: Mapping[int, int]
    starts: int | None
    noise: str
    learning_rates: tuple[float, ...]
    imle_steps: tuple[float, ...]
    tuning_seeds: tuple[int, ...]
    seeds: Mapping[int, int]
    adaptation: float = 1e-3
    fixed: Mapping[tuple[str, int], Cell] = field(default_factory=dict)

    def cells(self, estimator: str) -> list[Cell]:
        """What is tried for an estimator: every learning rate, for I-MLE with every lambda."""
        steps = self.imle_steps if estimator == "imle" else (None,)
        return [Cell(rate, step, 1.0) for step in steps for rate in self.learning_rates]

    def task(self, estimator: str, cell: Cell, seed: int, source: dict[str, JSON]) -> JSON:
        """The settings of one training, as ``train.train`` takes them."""
        return {
            "estimator": estimator,
            "lambda": cell.step,
            "learning_rate": cell.learning_rate,
            "temperature": cell.temperature,
            "seed": seed,
            "data": source,
            "encoder_width": self.encoder_width,
            "decoder_width": self.decoder_width,
            "pull": self.pull,
            "batch": self.batch,
            "steps": self.steps,
            "evaluate_every": self.evaluate_every,
            "prediction": self.prediction[source["frames"]],
            "starts": self.starts,
            "noise": self.noise,
            "adaptation": self.adaptation,
        }


FULL_GRAPHS = (50_000, 10_000, 10_000)

REDUCED = Setting(
    graphs=(20_000, 250, 1_000),
    encoder_width=32,
    decoder_width=32,
    pull=0.05,
    batch=32,
    steps=1500,
    evaluate_every=150,
    prediction={10: 1, 20: 1},
    starts=2,
    noise="gumbel",
    learning_rates=(3e-3, 1e-2),
    imle_steps=(0.01, 0.03, 0.1, 0.3, 1.0),
    tuning_seeds=(1000, 1001),
    seeds={10: 10, 20: 10},
)
WHY_REDUCED = (
    "for two CPU cores: 32 hidden units in place of 256, 1,500 steps of 32 graphs in place of "
    "50,000 of 128, one-step predictions from 2 random frames in place of predictions over 9 or 10 "
    "frames, 20,000 training graphs in place of 50,000. Gumbel noise at temperature 1, whose KL "
    "the loss has, in place of Sum-of-Gamma noise. A term of the decoder by which edges pull at "
    "first: without it about half of the trial trainings, short as they were, ended with trees of "
    "long distances"
)

PUBLISHED = Setting(
    graphs=FULL_GRAPHS,
    encoder_width=256,
    decoder_width=256,
    pull=None,
    batch=128,
    steps=50_000,
    evaluate_every=500,
    prediction={10: 9, 20: 10},
    starts=None,
    noise="sum_of_gamma",
    learning_rates=(1e-4, 5e-4),
    imle_steps=(0.01, 0.1, 1.0, 10.0),
    tuning_seeds=(1000, 1001),
    seeds={10: 10, 20: 10},
    # The best settings that the published code lists.
    fixed={
        ("aimle_central", 10): Cell(5e-4, None, 0.1),
        ("aimle", 10): Cell(1e-4, None, 1.0),
        ("aimle_central", 20): Cell(5e-4, None, 1.0),
        ("aimle", 20): Cell(5e-4, None, 0.1),
    },
)

QUICK = replace(
    REDUCED,
    graphs=(320, 50, 50),
    encoder_width=8,
    decoder_width=8,
    batch=16,
    steps=12,
    evaluate_every=6,
    learning_rates=(3e-3,),
    imle_steps=(0.1, 1.0),
    tuning_seeds=(1000,),
    seeds={10: 2, 20: 2},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The experiment's own options."""
    add = parser.add_argument
    add(
        "--frames",
        type=int,
        choices=(10, 20),
        action="append",
        help="frames T of a layout; repeatable; default: 10 and 20",
    )
    add(
        "--published",
        action="store_true",
        help="the published sizes, steps and settings; for a GPU",
    )
    add(
        "--full-data",
        action="store_true",
        help="generate {:,} training, {:,} validation and {:,} test graphs".format(*FULL_GRAPHS),
    )
    add(
        "--graphs",
        type=int,
        nargs=3,
        metavar=("TRAIN", "VALID", "TEST"),
        help="generate so many graphs",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="read the arrays of the published generator, "
        "{data,edges}_{train,valid,test}_novar_1skip_{10,20}t_1r_graph10.npy",
    )
    add("--steps", type=int, help="training steps")
    add("--generate-only", action="store_true", help="write the data and end")


def setting(options: argparse.Namespace) -> Setting:
    """What the command line asks for."""
    chosen = QUICK if options.quick else PUBLISHED if options.published else REDUCED
    if options.full_data:
        chosen = replace(chosen, graphs=FULL_GRAPHS)
    if options.graphs:
        chosen = replace(chosen, graphs=tuple(options.graphs))
    if options.steps:
        chosen = replace(chosen, steps=options.steps)
    return chosen
