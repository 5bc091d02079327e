# SPDX-License-Identifier: Apache-2.0
"""The experiments by name."""

from __future__ import annotations

import importlib

from experiments.experiment import Experiment

NAMES = (
    "gradient-quality",
    "subset-vae",
    "learning-to-explain",
    "relational-inference",
    "sparse-regression",
)


def load(name: str) -> Experiment:
    """Import the experiment."""
    module = importlib.import_module(f"experiments.{name.replace('-', '_')}")
    found: Experiment = module.EXPERIMENT
    return found
