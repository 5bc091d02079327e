# SPDX-License-Identifier: Apache-2.0
"""The power-of-two circuit of the SIMPLE paper for the k-subset law, level by level.

Ahmed, Zeng, Niepert, Van den Broeck, ICLR 2023 (arXiv:2210.01941), section 4, as published_circuit
has it, with the log-weights 0 (out) and theta (in) at the leaves, which make it the k-subset law,
with its whole gradient. (What SFESS and PR-MPNN put there is another law of the scores.)
"""

from __future__ import annotations

import torch
from published_circuit import padded, root
from torch import Tensor


def log_partition(logits: Tensor, k: int) -> Tensor:
    """log Z_k, [rows], of logits [rows, n]; k >= 1."""
    theta = padded(logits)
    return root(torch.stack([torch.zeros_like(theta), theta], -1), k)
