# SPDX-License-Identifier: Apache-2.0
"""A variational autoencoder whose code is 20 subsets of 20 items: SIMPLE, section 5.2.

``grid.py`` has the estimators and their settings, ``training.py`` one training, ``protocol.py`` the
whole experiment; ``model.py`` the bound on the likelihood, ``published_entropy.py`` the entropy
that the published code puts into it.
"""

from experiments.experiment import Experiment
from experiments.subset_vae.charts import figures
from experiments.subset_vae.protocol import add_arguments, run
from experiments.subset_vae.report import tables

EXPERIMENT = Experiment(
    name="subset-vae",
    title="Autoencoder with a code of 20 k-subsets of 20 items, trained with nine estimators",
    source=(
        "Ahmed, Zeng, Niepert, Van den Broeck, SIMPLE, ICLR 2023, arXiv:2210.01941, section 5.2"
    ),
    run=run,
    tables=tables,
    figures=figures,
    add_arguments=add_arguments,
)
