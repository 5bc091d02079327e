# SPDX-License-Identifier: Apache-2.0
"""Training: the same model, data order and number of updates for every estimator."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from discrete_grad.demo.data import Images
from discrete_grad.demo.estimators import Estimator
from discrete_grad.demo.model import CHOSEN, Evaluation, SubsetVAE, code_divergence, evaluate

# Draws per test image: one for the curve, more for the final figure, where noise would matter.
CURVE_SAMPLES, FINAL_SAMPLES = 1, 32


class TrainingError(Exception):
    """Training went wrong; the message says where."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images."""

    train_loss: float  # mean over the epoch of reconstruction + KL, nats per image
    test: Evaluation
    seconds: float  # of training alone, without the evaluation


@dataclass(frozen=True)
class Run:
    """A trained model and how it came about."""

    images: Images
    estimator: Estimator
    seed: int
    epochs: list[Epoch]
    final: Evaluation
    model: SubsetVAE

    @property
    def seconds_per_epoch(self) -> float:
        """The median, so that a busy moment of the machine does not count."""
        return median(epoch.seconds for epoch in self.epochs)


def generator_for(seed: int, purpose: int, device: torch.device) -> torch.Generator:
    """A generator of its own for each purpose, so that estimators share data order and draws."""
    return torch.Generator(device).manual_seed(1000 * seed + purpose)


_ORDER, _CODE, _TEST = 1, 2, 3


def new_model(images: Images, seed: int, device: torch.device) -> SubsetVAE:
    """The untrained model, the same for a seed on every device; torch's own seed is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SubsetVAE(images.pixels, images.trials).to(device)


def train(
    images: Images,
    estimator: Estimator,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
) -> Run:
    """Maximise the ELBO with Adam at a constant learning rate; evaluate after every epoch.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    train_set, test_set = images.train.to(device), images.test.to(device)
    model = new_model(images, seed, device)
    optimizer = torch.optim.Adam(model.parameters(), estimator.learning_rate, fused=True)
    order = generator_for(seed, _ORDER, torch.device("cpu"))
    draws = generator_for(seed, _CODE, device)
    records = []
    for number in range(1, epochs + 1):
        start = time.perf_counter()
        total = torch.zeros((), device=device)
        for batch in _batches(train_set, batch_size, order):
            loss = negative_elbo(model, estimator, batch, draws)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        mean_loss = total.item() / len(train_set)  # waits for the device: the time below is real
        seconds = time.perf_counter() - start
        if not math.isfinite(mean_loss):
            raise TrainingError(
                f"{estimator.label}, seed {seed}: the loss is {mean_loss} in epoch {number} "
                f"(learning rate {estimator.learning_rate:g})"
            )
        # The same draws after every epoch: the curve shows the model, not their noise.
        test = evaluate(model, test_set, CURVE_SAMPLES, generator_for(seed, _TEST, device))
        records.append(Epoch(mean_loss, test, seconds))
        on_epoch(records[-1])
    final = evaluate(model, test_set, FINAL_SAMPLES, generator_for(seed, _TEST, device))
    return Run(images, estimator, seed, records, final, model)


def negative_elbo(
    model: SubsetVAE, estimator: Estimator, images: Tensor, generator: torch.Generator
) -> Tensor:
    """The training loss: estimated reconstruction loss + exact KL, mean over the batch."""
    logits = model.encode(images)
    fn = partial(model.reconstruction_loss, images)
    reconstruction = estimator.expectation(logits, CHOSEN, fn, generator)
    return (reconstruction + code_divergence(logits)).mean()


def _batches(images: Tensor, size: int, order: torch.Generator) -> Iterator[Tensor]:
    shuffled = torch.randperm(len(images), generator=order).to(images.device)
    for index in shuffled.split(size):
        yield images[index]
