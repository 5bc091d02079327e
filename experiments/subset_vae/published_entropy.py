# SPDX-License-Identifier: Apache-2.0
"""The entropy of the k-subset law by a recursion over items, from the first one on or a later one.

The published code of the SIMPLE paper's autoencoder starts the loop over items at the tenth. The
terms of the items before it are lost: what is left is the entropy of the choice among the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.subset_vae.model import GROUPS, ITEMS

PUBLISHED_FIRST_ITEM = 10


@torch.no_grad()
def recursion_entropy(logits: Tensor, k: int, first_item: int) -> Tensor:
    """H(20, k) of the recursion H(i, j) = h(p) + p H(i-1, j-1) + (1-p) H(i-1, j), in nats.

    p is the probability that item i is chosen, given that j of the first i are; h(p) the entropy of
    a yes or no. H(i, j) counts as 0 for the items before ``first_item``.

    Args:
        logits: theta, [..., n]; computed in float64.
        k: size of the subsets.
        first_item: 1 for the entropy itself.

    Source:
        Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: A Gradient Estimator for k-Subset Sampling",
        ICLR 2023, arXiv:2210.01941, section 5.2 and its algorithm for the entropy.
    """
    items = logits.double().unbind(-1)
    nothing = torch.zeros_like(items[0])
    log_weight = [nothing] + [torch.full_like(nothing, -math.inf)] * k
    entropy = [nothing] * (k + 1)
    for i, item in enumerate(items, start=1):
        before = log_weight
        log_weight = [nothing] + [
            torch.logaddexp(before[j], item + before[j - 1]) for j in range(1, k + 1)
        ]
        if i < first_item:
            continue
        # From the largest j down: H(i-1, j-1) is still there when H(i, j) needs it.
        for j in range(min(i, k), 0, -1):
            p = (item + before[j - 1] - log_weight[j]).exp().clamp_max(1.0)
            choice = torch.special.entr(p) + torch.special.entr(1 - p)
            entropy[j] = choice + p * entropy[j - 1] + (1 - p) * entropy[j]
    return entropy[k]


def published_divergence(logits: Tensor, k: int) -> Tensor:
    """KL(q || uniform) with the entropy as published, the sum over the groups, [batch]."""
    entropy = recursion_entropy(logits, k, PUBLISHED_FIRST_ITEM).sum(-1)
    return GROUPS * math.log(math.comb(ITEMS, k)) - entropy
