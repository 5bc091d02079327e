# SPDX-License-Identifier: Apache-2.0
"""Learning through the choice of k items out of n: the exact k-subset law, and gradients.

``dg.subset`` has the law's functions, ``dg.KSubset`` is the same as a
``torch.distributions.Distribution``, ``dg.simple`` draws exact subsets with the SIMPLE gradient.
``dg.imle`` and ``dg.aimle`` make any batched solver trainable by perturb-and-MAP (``dg.solvers``
has some), ``dg.imle_topk`` and ``dg.aimle_topk`` do it for the k largest. ``dg.estimators`` has
every estimator by name. ``dg.nn`` has modules for large models.
"""

from discrete_grad import estimators, nn, solvers, subset
from discrete_grad.backends import backend, show_config
from discrete_grad.distributions import KSubset
from discrete_grad.estimators.gumbel_softmax import gumbel_softmax_topk
from discrete_grad.estimators.imle import aimle, imle
from discrete_grad.estimators.imle_topk import aimle_topk, imle_topk
from discrete_grad.estimators.perturb_and_map import perturbed_topk, perturbed_topk_indices
from discrete_grad.estimators.perturbed_optimizer import perturbed_optimizer
from discrete_grad.estimators.score_function import MovingAverageBaseline, score_function
from discrete_grad.estimators.simple import simple
from discrete_grad.estimators.straight_through import straight_through_topk
from discrete_grad.estimators.targets import (
    AdaptiveTargetDistribution,
    BaseTargetDistribution,
    TargetDistribution,
)
from discrete_grad.noise import (
    BaseNoiseDistribution,
    GumbelNoiseDistribution,
    LaplaceNoiseDistribution,
    LogisticNoiseDistribution,
    NormalNoiseDistribution,
    SumOfGammaNoiseDistribution,
)

__all__ = [
    "AdaptiveTargetDistribution",
    "BaseNoiseDistribution",
    "BaseTargetDistribution",
    "GumbelNoiseDistribution",
    "KSubset",
    "LaplaceNoiseDistribution",
    "LogisticNoiseDistribution",
    "MovingAverageBaseline",
    "NormalNoiseDistribution",
    "SumOfGammaNoiseDistribution",
    "TargetDistribution",
    "aimle",
    "aimle_topk",
    "backend",
    "estimators",
    "gumbel_softmax_topk",
    "imle",
    "imle_topk",
    "nn",
    "perturbed_optimizer",
    "perturbed_topk",
    "perturbed_topk_indices",
    "score_function",
    "show_config",
    "simple",
    "solvers",
    "straight_through_topk",
    "subset",
]
