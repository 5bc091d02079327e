# SPDX-License-Identifier: Apache-2.0
"""The relaxed k-subset: k rounds of a softmax, O(n k). A yardstick: it is not the k-subset law.

Xie, Ermon, "Reparameterizable Subset Sampling via Continuous Relaxations", IJCAI 2019
(arXiv:1901.10517), section 3; written from the paper. On x_1 = theta + Gumbel noise,

    a_j = softmax(x_j / temperature),    x_{j+1} = x_j + log(1 - a_j),

and the relaxed vector is a_1 + ... + a_k: entries in [0, 1] at low temperatures, with sum k.
"""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 0.5
_LEAST = 1e-20  # 1 - a at an item that a round has taken entirely


def gumbel(like: Tensor, seed: int) -> Tensor:
    """Standard Gumbel noise of the shape of ``like``, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return -torch.empty_like(like).exponential_(generator=generator).log()


def subset(theta: Tensor, k: int, temperature: float = TEMPERATURE) -> Tensor:
    """The relaxed k-hot vector of the k largest of each row, [rows, n]; noise already added."""
    x, total = theta, torch.zeros_like(theta)
    for _ in range(k):
        a = torch.softmax(x / temperature, -1)
        total = total + a
        x = x + (1 - a).clamp(min=_LEAST).log()
    return total
