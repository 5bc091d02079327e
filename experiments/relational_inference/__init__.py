# SPDX-License-Identifier: Apache-2.0
"""Relational inference: which vertices of a moving graph are joined, as a latent spanning tree."""

from __future__ import annotations

from experiments.experiment import Experiment
from experiments.relational_inference.figures import figures
from experiments.relational_inference.grid import add_arguments
from experiments.relational_inference.report import tables
from experiments.relational_inference.run import run

EXPERIMENT = Experiment(
    name="relational-inference",
    title="latent spanning trees of graph layouts: I-MLE, AIMLE, straight-through",
    source="Minervini, Franceschi, Niepert, AAAI 2023, arXiv:2209.04862, section 6; data and model "
    "of Paulus et al., NeurIPS 2020, arXiv:2006.08063",
    run=run,
    tables=tables,
    figures=figures,
    add_arguments=add_arguments,
)
