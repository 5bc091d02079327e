# SPDX-License-Identifier: Apache-2.0
"""The autoencoder's bound on the log-likelihood, for any size of the subsets.

The network, the data and the reconstruction loss are those of ``discrete_grad.demo``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad.demo.model import GROUPS, ITEMS, SubsetVAE

__all__ = ["GROUPS", "ITEMS", "Bound", "SubsetVAE", "divergence", "evaluate", "exact_draws"]

# From logits and a function (codes to reconstruction losses) to the mean loss of draws, [batch].
Reconstruction = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]

_IMAGES_AT_ONCE = 500


def divergence(logits: Tensor, k: int) -> Tensor:
    """KL(q(z | x) || uniform) in nats, exact, the sum over the groups: [batch]."""
    return GROUPS * math.log(math.comb(ITEMS, k)) - dg.subset.entropy(logits, k).sum(-1)


@dataclass(frozen=True)
class Bound:
    """The parts of the ELBO, means over a data set in nats per image."""

    reconstruction: float
    divergence: float

    @property
    def elbo(self) -> float:
        """-(reconstruction loss + KL)."""
        return -self.reconstruction - self.divergence


@torch.no_grad()
def evaluate(model: SubsetVAE, images: Tensor, k: int, draw: Reconstruction) -> Bound:
    """The ELBO of ``images`` [number, pixels], its reconstruction loss by ``draw``."""
    reconstruction = kl = 0.0
    for batch in images.split(_IMAGES_AT_ONCE):
        logits = model.encode(batch)
        loss = draw(logits, partial(model.reconstruction_loss, batch))
        reconstruction += loss.double().sum().item()
        kl += divergence(logits.double(), k).sum().item()
    return Bound(reconstruction / len(images), kl / len(images))


def exact_draws(k: int, num_samples: int, generator: torch.Generator) -> Reconstruction:
    """Hard draws of the k-subset law itself: the law that the KL divergence is of."""

    def draw(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        draws = [
            loss(dg.subset.sample(logits, k, 1, generator=generator)) for _ in range(num_samples)
        ]
        return torch.cat(draws).mean(0)

    return draw
