# SPDX-License-Identifier: Apache-2.0
"""A variational autoencoder whose code is 20 subsets, each of 10 items out of 20.

The layout is that of the discrete VAE in Ahmed et al., "SIMPLE: A Gradient Estimator for k-Subset
Sampling", ICLR 2023, with the input layer sized to the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

import discrete_grad as dg

GROUPS, ITEMS, CHOSEN = 20, 20, 10


class SubsetVAE(nn.Module):
    """q(z | x): a k-subset law per group; p(z): the uniform one; p(x | z): Bernoulli pixels.

    Encoder pixels-512-256-(GROUPS x ITEMS), decoder back, ReLU between. Each pixel counts as
    ``trials`` observations of one probability.
    """

    def __init__(self, pixels: int, trials: int) -> None:
        super().__init__()
        self.trials = trials
        self.encoder = _perceptron(pixels, 512, 256, GROUPS * ITEMS)
        self.decoder = _perceptron(GROUPS * ITEMS, 256, 512, pixels)

    def encode(self, images: Tensor) -> Tensor:
        """Logits of the k-subset laws, [batch, GROUPS, ITEMS], for images [batch, pixels]."""
        logits: Tensor = self.encoder(images).unflatten(-1, (GROUPS, ITEMS))
        return logits

    def decode(self, code: Tensor) -> Tensor:
        """Logits of the pixels, [..., pixels], for a code [..., GROUPS, ITEMS] of k-hot rows."""
        pixels: Tensor = self.decoder(code.flatten(-2))
        return pixels

    def reconstruction_loss(self, images: Tensor, code: Tensor) -> Tensor:
        """-log p(x | z) in nats, the sum over pixels: [samples, batch].

        trials * cross-entropy of a grey pixel x in [0, 1] and its predicted probability. It has a
        floor above 0, whatever the code: ``reconstruction_floor``.

        Args:
            images: x, [batch, pixels].
            code: z, k-hot rows, [samples, batch, GROUPS, ITEMS].
        """
        pixels = self.decode(code)
        cross_entropy = functional.binary_cross_entropy_with_logits(
            pixels, images.expand_as(pixels), reduction="none"
        )
        return self.trials * cross_entropy.sum(-1)


def _perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def code_entropy(logits: Tensor) -> Tensor:
    """Entropy of q(z | x) in nats, exact: the sum over groups, [batch]."""
    return dg.subset.entropy(logits, CHOSEN).sum(-1)


def code_divergence(logits: Tensor) -> Tensor:
    """KL(q(z | x) || uniform) = GROUPS log C(ITEMS, CHOSEN) - entropy, in nats, exact: [batch]."""
    return GROUPS * math.log(math.comb(ITEMS, CHOSEN)) - code_entropy(logits)


@dataclass(frozen=True)
class Evaluation:
    """Means over a data set, in nats per image."""

    elbo: float
    reconstruction: float
    divergence: float
    entropy: float


@torch.no_grad()
def evaluate(
    model: SubsetVAE, images: Tensor, num_samples: int, generator: torch.Generator
) -> Evaluation:
    """The ELBO by exact draws of the code, ``num_samples`` per image, and the exact KL divergence.

    It is the same for every estimator, whatever the model was trained with.
    """
    reconstruction = entropy = 0.0
    for batch in images.split(1000):
        logits = model.encode(batch)
        for _ in range(num_samples):
            code = dg.subset.sample(logits, CHOSEN, 1, generator=generator)
            reconstruction += model.reconstruction_loss(batch, code).sum().item() / num_samples
        entropy += code_entropy(logits).sum().item()
    reconstruction, entropy = reconstruction / len(images), entropy / len(images)
    divergence = GROUPS * math.log(math.comb(ITEMS, CHOSEN)) - entropy
    return Evaluation(-reconstruction - divergence, reconstruction, divergence, entropy)


def reconstruction_floor(images: Tensor, trials: int) -> float:
    """The least reconstruction loss that any model can have: the entropy of the grey pixels."""
    entropy = functional.binary_cross_entropy(images, images, reduction="sum")
    return trials * entropy.item() / len(images)
