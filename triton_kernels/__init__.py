# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of discrete_grad, importable as ``discrete_grad.triton_kernels`` only.

The directory stands at the top of the repository beside ``csrc``, and ``setup.py`` maps it to the
package ``discrete_grad.triton_kernels`` in a wheel and in an editable install alike. It must never
be importable as plain ``triton_kernels``: Triton's own repository ships a distribution of that
name, and programs (vLLM is one) decide by its mere presence to import their kernels from it. Hence
relative imports inside this package, and no tool that puts the root of the repository on
``sys.path``: pytest runs in importlib mode, started as ``pytest`` and not ``python -m pytest``.

Importing this package imports Triton. The kernels are in the modules named ``*_kernels``; the
module of the same name without the suffix starts them.
"""

from collections.abc import Callable
from typing import Any

from .counts import count_log_prob, count_log_prob_vjp, count_log_prob_vjp_backward
from .marginals import subset_marginals, subset_marginals_vjp, subset_third_cumulant
from .noise import perturbation_noise
from .perturbed import perturbed_topk, perturbed_topk_indices
from .sampling import simple, subset_sample, subset_sample_indices
from .topk_difference import perturbed_topk_difference

__all__ = ["LAUNCHERS"]

LAUNCHERS: dict[str, Callable[..., Any]] = {
    "subset_marginals": subset_marginals,
    "subset_marginals_vjp": subset_marginals_vjp,
    "subset_third_cumulant": subset_third_cumulant,
    "subset_sample": subset_sample,
    "subset_sample_indices": subset_sample_indices,
    "simple": simple,
    "count_log_prob": count_log_prob,
    "count_log_prob_vjp": count_log_prob_vjp,
    "count_log_prob_vjp_backward": count_log_prob_vjp_backward,
    "perturbation_noise": perturbation_noise,
    "perturbed_topk": perturbed_topk,
    "perturbed_topk_indices": perturbed_topk_indices,
    "perturbed_topk_difference": perturbed_topk_difference,
}
"""What serves each op of ``torch.ops.discrete_grad`` on CUDA tensors, with the op's signature.
"""
