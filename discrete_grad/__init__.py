# SPDX-License-Identifier: Apache-2.0
"""Learning through the choice of k items out of n: the exact k-subset law and gradients through it.

``dg.subset`` has the law's functions, ``dg.KSubset`` is the same as a
``torch.distributions.Distribution``, ``dg.simple`` draws exact subsets with the SIMPLE gradient.
"""

from discrete_grad import subset
from discrete_grad.backends import backend, show_config
from discrete_grad.distributions import KSubset
from discrete_grad.estimators.simple import simple

__all__ = ["KSubset", "backend", "show_config", "simple", "subset"]
