# SPDX-License-Identifier: Apache-2.0
"""Learning to explain: predict a rating from k words of a review, and choose those words."""

from experiments.experiment import Experiment
from experiments.learning_to_explain.options import add_arguments
from experiments.learning_to_explain.plots import figures
from experiments.learning_to_explain.report import tables
from experiments.learning_to_explain.study import run

EXPERIMENT = Experiment(
    name="learning-to-explain",
    title="choose the k words of a review from which its rating is predicted",
    source="SIMPLE, arXiv:2210.01941, section 5; AIMLE, arXiv:2209.04862, section 5",
    run=run,
    tables=tables,
    figures=figures,
    add_arguments=add_arguments,
)
