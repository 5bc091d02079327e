# SPDX-License-Identifier: Apache-2.0
"""One training of the autoencoder: for each estimator the same network, loss, data and steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad.demo.data import Images, load_digits, load_mnist
from discrete_grad.demo.train import generator_for, new_model
from discrete_grad.demo.tune import validation_split
from discrete_grad.estimators import Estimator
from experiments.session import JSON, Context
from experiments.subset_vae import pictures
from experiments.subset_vae.grid import build
from experiments.subset_vae.model import SubsetVAE, divergence, evaluate, exact_draws
from experiments.subset_vae.published_entropy import PUBLISHED_FIRST_ITEM, published_divergence
from experiments.training import Part, capture, estimator_state, restore

# One split for all seeds: no image that a figure is reported for was seen in tuning.
_SPLIT_SEED = 0
_ORDER, _CODE, _CURVE, _FINAL, _OWN, _PICTURES = range(1, 7)
# Draws per test image: one for the curve, more for the final figures, where noise would matter.
_CURVE_SAMPLES, _FINAL_SAMPLES = 1, 32


def load(settings: dict[str, JSON]) -> Images:
    """The images that the settings name.

    Args:
        settings: "data", a folder of MNIST's IDX files or None for scikit-learn's digits; "images",
            None or the number of training images to keep (of test images, a quarter of that);
            "tuning": whether a fifth of the training images takes the place of the test images.
    """
    folder, most = settings["data"], settings["images"]
    images = load_digits(_SPLIT_SEED) if folder is None else load_mnist(Path(folder))
    if most is not None:
        images = replace(images, train=images.train[:most], test=images.test[: most // 4])
    return validation_split(images) if settings["tuning"] else images


def train(settings: dict[str, JSON], context: Context) -> dict[str, JSON]:
    """Maximise the ELBO with Adam at a constant learning rate; evaluate after every epoch.

    Args:
        settings: those of ``load``; "estimator", "num_samples", "options" (see ``grid.build``);
            "k", "learning_rate", "epochs", "batch_size", "seed"; "pictures", the number of test
            images of which to keep a reconstruction.

    Returns:
        "diverged": True and nothing else if the loss was no longer finite; else also the training
        loss and the test ELBO after each epoch, the final figures, and seconds per epoch.
    """
    device, seed, k = context.device, settings["seed"], settings["k"]
    images = load(settings)
    train_set, test_set = images.train.to(device), images.test.to(device)
    model = new_model(images, seed, device)
    optimizer = torch.optim.Adam(model.parameters(), settings["learning_rate"], fused=True)
    estimator = build(settings)
    order = generator_for(seed, _ORDER, torch.device("cpu"))
    draws = generator_for(seed, _CODE, device)
    parts: dict[str, Part] = {
        "model": model,
        "optimizer": optimizer,
        "estimator": estimator_state(estimator),
        "order": order,
        "draws": draws,
    }
    history: dict[str, list[float]] = {"train_loss": [], "test_elbo": [], "seconds": []}
    stored = context.restore()
    if stored is not None:
        history = stored["history"]
        restore(stored["parts"], **parts)

    step = partial(_step, model, optimizer, estimator, k, settings["num_samples"], draws)
    while len(history["test_elbo"]) < settings["epochs"]:
        loss, seconds = _epoch(train_set, settings["batch_size"], order, step)
        if not math.isfinite(loss):
            return {"diverged": True}
        # The same draws after every epoch: the curve shows the model, not their noise.
        curve = exact_draws(k, _CURVE_SAMPLES, generator_for(seed, _CURVE, device))
        history["train_loss"].append(loss)
        history["test_elbo"].append(evaluate(model, test_set, k, curve).elbo)
        history["seconds"].append(seconds)
        context.save(lambda: {"history": history, "parts": capture(**parts)})
        context.advance()
    return {
        "diverged": False,
        "train_loss": history["train_loss"],
        "test_elbo": history["test_elbo"],
        # The median: a busy moment of the machine does not count.
        "seconds_per_epoch": median(history["seconds"]),
        **_final_figures(model, estimator, test_set, settings),
    }


def _step(
    model: SubsetVAE,
    optimizer: torch.optim.Optimizer,
    estimator: Estimator,
    k: int,
    num_samples: int,
    draws: torch.Generator,
    batch: Tensor,
) -> Tensor:
    """One update; the loss, summed over the batch.

    The sum, not the mean: the gradient that reaches an image's code is then that of its own loss,
    and I-MLE's step along it means the same in a batch of any size. Adam does not see the factor.
    """
    logits = model.encode(batch)
    loss = partial(model.reconstruction_loss, batch)
    reconstruction = estimator(logits, k, loss, num_samples, generator=draws)
    total = (reconstruction + divergence(logits, k)).sum()
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.detach()


def _epoch(
    images: Tensor, batch_size: int, order: torch.Generator, step: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """The mean loss over all images, and the seconds that the updates took.

    On a CPU those are seconds of processor time: other work on the machine does not count.
    """
    clock = time.process_time if images.device.type == "cpu" else time.perf_counter
    start = clock()
    shuffled = torch.randperm(len(images), generator=order).to(images.device)
    total = torch.zeros((), device=images.device)
    for index in shuffled.split(batch_size):
        total += step(images[index])
    mean = total.item() / len(images)  # waits for the device: the time below is real
    return mean, clock() - start


@torch.no_grad()
def _final_figures(
    model: SubsetVAE, estimator: Estimator, images: Tensor, settings: dict[str, JSON]
) -> dict[str, JSON]:
    """What is reported of the trained model, on ``images``."""
    k, seed = settings["k"], settings["seed"]

    def generator(purpose: int) -> torch.Generator:
        return generator_for(seed, purpose, images.device)

    bound = evaluate(model, images, k, exact_draws(k, _FINAL_SAMPLES, generator(_FINAL)))
    own = generator(_OWN)
    trained_on = evaluate(
        model, images, k, lambda logits, loss: estimator(logits, k, loss, 2, generator=own)
    )
    logits = model.encode(images)
    shown = logits[: settings["pictures"]]
    code = dg.subset.sample(shown, k, generator=generator(_PICTURES))
    figures = {
        "elbo": bound.elbo,
        "reconstruction": bound.reconstruction,
        "divergence": bound.divergence,
        # By the estimator's own draws: how far its law of the code is from the one in the KL.
        "own_reconstruction": trained_on.reconstruction,
        "pictures": pictures.to_text(model.decode(code).sigmoid()),
    }
    if k == PUBLISHED_FIRST_ITEM:
        figures["published_divergence"] = published_divergence(logits, k).mean().item()
    return figures
