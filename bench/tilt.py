# SPDX-License-Identifier: Apache-2.0
"""A shift of the logits that puts the mean of the independent draws at k.

With q_i = sigmoid(theta_i - s), log Z_k = sum_i softplus(theta_i - s) + k s + log P(S = k) for any
s, S the number of successes of independent Bernoulli(q_i). P(S = k) is far from rounding error only
where sum q_i is near k, so methods in linear space are of use with this s alone (the saddle point:
Barthelme, Amblard, Tremblay 2018, arXiv:1803.01576). The published baselines take s = 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_HALVINGS = 40


@torch.no_grad()
def shift(logits: Tensor, k: int) -> Tensor:
    """s with sum_i sigmoid(theta_i - s) = k, [rows, 1], by bisection; constant in the gradient."""
    n = logits.shape[-1]
    share = min(max(k, 0.5), n - 0.5) / n
    middle = math.log(share / (1 - share))
    low = logits.amin(-1, keepdim=True) - middle
    high = logits.amax(-1, keepdim=True) - middle
    for _ in range(_HALVINGS):
        half = (low + high) / 2
        above = torch.sigmoid(logits - half).sum(-1, keepdim=True) > k
        low, high = torch.where(above, half, low), torch.where(above, high, half)
    return (low + high) / 2


def log_partition(logits: Tensor, k: int, s: Tensor, log_count: Tensor) -> Tensor:
    """log Z_k, [rows], from ``log_count`` = log P(S = k), [rows], at the shift s, [rows, 1]."""
    return F.softplus(logits - s).sum(-1) + k * s.squeeze(-1) + log_count
