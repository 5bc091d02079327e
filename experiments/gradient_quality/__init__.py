# SPDX-License-Identifier: Apache-2.0
"""How good the estimators' gradients are, where the exact gradient is known.

Bias, variance and error on SIMPLE's problem, cosine and sparsity on AIMLE's, and beyond both error
against time at up to 100,000 items.
"""

from __future__ import annotations

from experiments.experiment import Experiment
from experiments.gradient_quality import scale, synthetic, toy
from experiments.gradient_quality.figures import figures
from experiments.gradient_quality.tables import tables
from experiments.session import JSON, Session

_NAMES = tuple(dict.fromkeys((*toy.NAMES, *synthetic.FIXED, *synthetic.ADAPTIVE, *scale.NAMES)))


def run(session: Session) -> JSON:
    """All three parts; --seeds is the number of each part's seeds, at most as many as it has."""
    names = session.estimators(_NAMES)
    return {
        "toy": toy.run(session, names),
        "synthetic": synthetic.run(session, names),
        "scale": scale.run(session, names),
    }


EXPERIMENT = Experiment(
    "gradient-quality",
    "Bias, variance and error of the gradient estimators, by draws and by time",
    "SIMPLE, ICLR 2023, arXiv:2210.01941, section 5.1; AIMLE, AAAI 2023, arXiv:2209.04862",
    run,
    tables,
    figures,
)
