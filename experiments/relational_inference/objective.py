# SPDX-License-Identifier: Apache-2.0
"""The loss, -ELBO without constants, and what the inferred trees are measured by."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.relational_inference.data import VERTICES
from experiments.relational_inference.model import Decoder

VARIANCE = 5e-5  # of the predicted positions


def divergence(logits: Tensor) -> Tensor:
    """KL of Gumbel variables at ``logits`` [B, E] from such at 0, per vertex, [B].

    Counted for both directions of each edge, as the published loss does.
    """
    return 2 * (logits + torch.exp(-logits) - 1).sum(-1) / VERTICES


def reconstruction(
    decoder: Decoder, positions: Tensor, edges: Tensor, steps: int, starts: Tensor | None = None
) -> Tensor:
    """Squared errors of predictions over twice the variance, per vertex, [B].

    From each of the frames 0, ``steps``, 2 ``steps``, ..., the next ``steps`` frames are predicted,
    each from the prediction before it. With 1 every frame is predicted from the true one before it.

    Args:
        positions: [B, T, V, 2].
        edges: [B, E].
        steps: the length of a prediction.
        starts: which of the starting frames, int64 [F]; the errors then stand for those of all.
            None is all.
    """
    frames = positions.shape[1]
    all_starts = torch.arange(0, frames - 1, steps, device=positions.device)
    chosen = all_starts if starts is None else all_starts[starts]
    state = positions[:, chosen]
    total = positions.new_zeros(len(positions))
    for ahead in range(1, steps + 1):
        state = decoder(state, edges)
        inside = chosen + ahead < frames
        error = state[:, inside] - positions[:, chosen[inside] + ahead]
        total = total + error.square().sum((1, 2, 3))
    return total * (len(all_starts) / len(chosen)) / (2 * VARIANCE) / VERTICES


def edge_scores(inferred: Tensor, true: Tensor) -> dict[str, float]:
    """Precision, recall and accuracy of edges [N, E], both 0 or 1, as means over the graphs.

    Trees have equally many edges, so that their precision and recall are equal.
    """
    hits = (inferred * true).sum(-1)
    return {
        "precision": (hits / inferred.sum(-1)).mean().item(),
        "recall": (hits / true.sum(-1)).mean().item(),
        "accuracy": (inferred == true).double().mean().item(),
    }
