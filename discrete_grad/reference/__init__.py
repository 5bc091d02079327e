# SPDX-License-Identifier: Apache-2.0
"""The specification in pure PyTorch: readable, on any device with float64, and differentiable.

Every other implementation is held to this one. docs/mathematics.md derives it.
"""

from __future__ import annotations

from .contour import vjp
from .noise import perturbation_noise
from .philox import philox4x32, uniform
from .sampling import sample, sample_indices
from .subset import count_log_prob, entropy, marginals, mode
from .topk import perturbed_topk, perturbed_topk_indices, top_k, topk_difference

__all__ = [
    "count_log_prob",
    "entropy",
    "marginals",
    "mode",
    "perturbation_noise",
    "perturbed_topk",
    "perturbed_topk_indices",
    "philox4x32",
    "sample",
    "sample_indices",
    "top_k",
    "topk_difference",
    "uniform",
    "vjp",
]
