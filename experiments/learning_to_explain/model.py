# SPDX-License-Identifier: Apache-2.0
"""The published network: it scores the words of a review, and predicts from k of them.

Source: Chen, Song, Wainwright, Jordan, "Learning to Explain", ICML 2018, arXiv:1802.07814, with the
sizes that SIMPLE (arXiv:2210.01941, section 5) and AIMLE (arXiv:2209.04862, section 5) use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.learning_to_explain.corpus import PAD

_WIDTH, _DENSE, _KERNEL = 100, 250, 3
_DROPOUT = 0.2


class Explainer(nn.Module):
    """Scores (the logits theta) of the words of a review, and a prediction from chosen words.

    Args:
        embeddings: [words, size], frozen.
        generator: of the weights (Glorot's uniform law, biases 0), on the CPU.
    """

    embeddings: Tensor

    def __init__(self, embeddings: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings, persistent=False)
        size = embeddings.shape[1]
        same = _KERNEL // 2
        self.first = nn.Conv1d(size, _WIDTH, _KERNEL, padding=same)
        self.whole = nn.Linear(_WIDTH, _WIDTH)
        self.local = nn.Sequential(
            nn.Conv1d(_WIDTH, _WIDTH, _KERNEL, padding=same),
            nn.ReLU(),
            nn.Conv1d(_WIDTH, _WIDTH, _KERNEL, padding=same),
            nn.ReLU(),
        )
        self.score = nn.Sequential(
            nn.Conv1d(2 * _WIDTH, _WIDTH, 1), nn.ReLU(), nn.Conv1d(_WIDTH, 1, 1)
        )
        self.predictor = nn.Sequential(
            nn.Linear(size, _DENSE), nn.ReLU(), nn.Linear(_DENSE, 1), nn.Sigmoid()
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                assert layer.bias is not None
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def logits(self, tokens: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Scores [reviews, length] of all positions, of ``PAD`` too.

        Args:
            tokens: int64 [reviews, length].
            dropout: makes the dropout of training; without it there is none.
        """
        first = self.first(self.embeddings[tokens].movedim(1, 2)).relu()
        whole = self.whole(first.amax(2)).relu()
        local = self.local(first)
        features = torch.cat([whole.unsqueeze(2).expand_as(local), local], 1)
        if dropout is not None:
            # Not bernoulli_, which takes three times as long on the CPU.
            uniform = torch.rand(features.shape, generator=dropout, device=features.device)
            features = features * (uniform >= _DROPOUT) / (1 - _DROPOUT)
        scores: Tensor = self.score(features)
        return scores.squeeze(1)

    def predict(self, tokens: Tensor, mask: Tensor, k: int) -> Tensor:
        """Ratings [..., reviews] from the mean vector of the chosen words.

        Args:
            tokens: int64 [reviews, length].
            mask: [..., reviews, length], k-hot (or a relaxed k-hot vector).
        """
        chosen = torch.einsum("...bl,ble->...be", mask, self.embeddings[tokens]) / k
        ratings: Tensor = self.predictor(chosen)
        return ratings.squeeze(-1)


def choosable(logits: Tensor, tokens: Tensor, k: int) -> Tensor:
    """``logits`` for a choice of k among the words alone.

    ``PAD`` is excluded (-inf). A review of m < k words has no other k-subset: all its words are
    chosen, and k - m of its ``PAD`` are forced in (+inf), which add nothing to the prediction.
    """
    pad = tokens == PAD
    missing = k - (~pad).sum(1, keepdim=True)
    forced = pad & (pad.cumsum(1) <= missing)
    return logits.masked_fill(pad, -torch.inf).masked_fill(forced, torch.inf)
