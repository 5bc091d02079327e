# SPDX-License-Identifier: Apache-2.0
"""The circuit that SFESS and PR-MPNN draw marginals from, as arithmetic in plain PyTorch.

SIMPLE's constraint "exactly k of n" as a tree (Ahmed, Zeng, Niepert, Van den Broeck, ICLR 2023,
arXiv:2210.01941, section 4): n is padded to a power of two with scores of -1e10, a leaf holds the
log-weights of its item being out and in, log(1 - exp(-|x|)) (constant in the backward pass) and x,
and an inner node those of 0 .. min(items below it, k) items, the log-space product of its two
children:

    c_j = logsumexp over a + b = j of left_a + right_b.

The marginals are the gradient of the root's entry k in x, their vector-Jacobian product a second
backward pass. Written from that description, a level at a time, all nodes of a level and all rows
in one tensor; the published code goes through its nodes one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PADDING = -1e10


def _product(left: Tensor, right: Tensor, k: int) -> Tensor:
    """[rows, nodes, min(2 (a - 1), k) + 1] of two tensors [rows, nodes, a]."""
    counts = left.shape[-1]
    out = torch.arange(min(2 * (counts - 1), k) + 1, device=left.device)
    taken_right = out.unsqueeze(-1) - torch.arange(counts, device=left.device)
    possible = (taken_right >= 0) & (taken_right < counts)
    terms = left.unsqueeze(-2) + right[..., taken_right.clamp(0, counts - 1)]
    return terms.masked_fill(~possible, -torch.inf).logsumexp(-1)


def padded(scores: Tensor) -> Tensor:
    """Scores [rows, n] with items that are never taken up to the next power of two."""
    rows, n = scores.shape
    padding = scores.new_full((rows, (1 << (n - 1).bit_length()) - n), _PADDING)
    return torch.cat([scores, padding], -1)


def root(level: Tensor, k: int) -> Tensor:
    """The root's entry k, [rows], of leaves [rows, a power of two, 2]: out and in; k >= 1."""
    while level.shape[1] > 1:
        level = _product(level[:, ::2], level[:, 1::2], k)
    return level[:, 0, k]


def log_partition(scores: Tensor, k: int) -> Tensor:
    """The root's entry k, [rows], of scores [rows, n]; k >= 1."""
    x = padded(scores)
    complement = torch.log(-torch.expm1(-x.detach().abs()))
    return root(torch.stack([complement, x], -1), k)


def marginals(scores: Tensor, k: int, *, create_graph: bool = False) -> Tensor:
    """Inclusion probabilities, [rows, n]; with ``create_graph`` they can be differentiated."""
    (mu,) = torch.autograd.grad(log_partition(scores, k).sum(), scores, create_graph=create_graph)
    return mu


def simple(scores: Tensor, k: int) -> Tensor:
    """Gumbel top-k forward, the gradient of the circuit's marginals backward, [rows, n]."""
    mu = marginals(scores, k, create_graph=True)
    noise = torch.distributions.Gumbel(0.0, 1.0).sample(scores.shape)
    best = (scores.detach() + noise).topk(k, dim=-1).indices
    hot = torch.zeros_like(scores).scatter(-1, best, 1.0)
    return hot + (mu - mu.detach())
