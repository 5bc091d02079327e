# SPDX-License-Identifier: Apache-2.0
"""Ops: what the public functions call. One file per op; each picks the backend that serves a call.

Arguments are checked above this layer. ``k`` is an int or an integer tensor that broadcasts to
``logits.shape[:-1]``.
"""

# Side effect of the import: the ops serve CUDA tensors.
from discrete_grad.ops import gpu as gpu
from discrete_grad.ops.counts import count_log_prob
from discrete_grad.ops.marginals import marginals, vjp
from discrete_grad.ops.methods import choose_method
from discrete_grad.ops.perturbed import (
    noise,
    perturbed_topk,
    perturbed_topk_indices,
    topk_difference,
)
from discrete_grad.ops.sampling import sample, sample_indices, simple

__all__ = [
    "choose_method",
    "count_log_prob",
    "marginals",
    "noise",
    "perturbed_topk",
    "perturbed_topk_indices",
    "sample",
    "sample_indices",
    "simple",
    "topk_difference",
    "vjp",
]
