# SPDX-License-Identifier: Apache-2.0
"""The k-subset law by listing every subset: the oracle of the tests of the public API.

Plain float64 sums over C(n, k) subsets, differentiable by autograd; nothing of the package is used.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

INF = float("inf")


def subsets(n: int, k: int) -> Tensor:
    """All k-hot vectors, float64 [C(n, k), n]."""
    rows = [
        [float(i in chosen) for i in range(n)] for chosen in itertools.combinations(range(n), k)
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), n)


def law(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All subsets [C, n] and their log-probabilities [..., C]: -inf where p(S) = 0."""
    hot = subsets(logits.shape[-1], k)
    finite = torch.where(logits.isinf(), 0.0, logits.double())
    score = (finite.unsqueeze(-2) * hot).sum(-1)
    picked, chosen = logits.unsqueeze(-2), hot == 1
    impossible = ((picked == -INF) & chosen | (picked == INF) & ~chosen).any(-1)
    score = score.masked_fill(impossible, -INF)
    return hot, score - score.logsumexp(-1, keepdim=True)


def marginals(logits: Tensor, k: int) -> Tensor:
    hot, log_p = law(logits, k)
    return (log_p.exp().unsqueeze(-1) * hot).sum(-2)


def covariance(logits: Tensor, k: int) -> Tensor:
    hot, log_p = law(logits, k)
    deviation = hot - marginals(logits, k).unsqueeze(-2)
    return torch.einsum("...c,...ci,...cj->...ij", log_p.exp(), deviation, deviation)


def entropy(logits: Tensor, k: int) -> Tensor:
    _, log_p = law(logits, k)
    return -(log_p.exp() * log_p.masked_fill(log_p == -INF, 0.0)).sum(-1)


def kl_divergence(logits_p: Tensor, logits_q: Tensor, k: int) -> Tensor:
    _, log_p = law(logits_p, k)
    _, log_q = law(logits_q, k)
    nothing = log_p == -INF
    ratio = log_p.masked_fill(nothing, 0.0) - log_q.masked_fill(nothing, 0.0)
    return (log_p.exp() * ratio).sum(-1)
