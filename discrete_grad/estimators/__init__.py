# SPDX-License-Identifier: Apache-2.0
"""Gradient estimators for learning through the choice of k items, one file each.

``names()`` lists them, ``get(name)`` gives one; all are called alike (``Estimator``).
"""

from discrete_grad.estimators.interpolation import blackbox
from discrete_grad.estimators.negative_identity import identity
from discrete_grad.estimators.registry import Estimator, get, names
from discrete_grad.estimators.score_function import MovingAverageBaseline
from discrete_grad.estimators.simple_parts import simple_backward_only, simple_forward_only

__all__ = [
    "Estimator",
    "MovingAverageBaseline",
    "blackbox",
    "get",
    "identity",
    "names",
    "simple_backward_only",
    "simple_forward_only",
]
