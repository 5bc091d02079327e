# SPDX-License-Identifier: Apache-2.0
"""One training: an estimator, its options, k and a seed to test error and subset precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad.estimators.registry import Estimator
from experiments import training
from experiments.learning_to_explain import metrics, source
from experiments.learning_to_explain.corpus import Annotated, Corpus, Reviews
from experiments.learning_to_explain.model import Explainer, choosable
from experiments.learning_to_explain.steps import StepRecord
from experiments.session import JSON, Context

BATCH = 40
_ADAM_EPS = 1e-7  # Keras', as published


def estimator(name: str, options: dict[str, JSON]) -> Estimator:
    """The estimator by its name in ``dg.estimators``, with what a grid varies.

    Args:
        options: "lambda" is I-MLE's; "initial_beta" and "beta_update_step" are AIMLE's;
            "num_samples" is not for here; others are the estimator's own.
    """
    found = dg.estimators.get(name)
    given: dict[str, Any] = {key: options[key] for key in options if key != "num_samples"}
    if "lambda" in given:
        given["target"] = dg.TargetDistribution(beta=given.pop("lambda"))
    adaptive = {key: given.pop(key) for key in ("initial_beta", "beta_update_step") if key in given}
    if adaptive:
        given["target"] = dg.AdaptiveTargetDistribution(**adaptive)
    return Estimator(found.name, found.summary, found.function, {**found.options, **given})


class _Fit:
    """A training and its state."""

    def __init__(self, settings: dict[str, JSON], corpus: Corpus, device: torch.device) -> None:
        self.k: int = settings["k"]
        self.samples: int = settings["options"].get("num_samples", 1)
        self.seed: int = settings["seed"]
        self.train = corpus.train.to(device)
        # As in AIMLE's runs: which reviews validate and which test differs from seed to seed.
        order = torch.randperm(len(corpus.heldout), generator=_generator(self.seed, "split"))
        half = len(order) // 2
        self.validation, self.test = (
            corpus.heldout[part].to(device) for part in (order[:half], order[half:])
        )
        self.model = Explainer(corpus.embeddings, _generator(self.seed, "weights")).to(device)
        self.estimator = estimator(settings["estimator"], settings["options"])
        self.learned = training.estimator_state(self.estimator).to(device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings["learning_rate"], eps=_ADAM_EPS
        )
        self.draws = _generator(self.seed, "draws", device)
        self.dropout = _generator(self.seed, "dropout", device)
        self.best = training.capture(model=self.model)
        self.record = StepRecord(settings["epochs"], self.batches)
        self.errors: list[float] = []
        self.seconds = 0.0

    @property
    def batches(self) -> int:
        return -(-len(self.train) // BATCH)

    def batch(self, epoch: int, index: int) -> Reviews:
        order = torch.randperm(len(self.train), generator=_generator(self.seed, f"order {epoch}"))
        return self.train[order[index * BATCH : (index + 1) * BATCH].to(self.train.tokens.device)]

    def step(self, reviews: Reviews) -> None:
        logits = choosable(self.model.logits(reviews.tokens, self.dropout), reviews.tokens, self.k)
        watch = self.record.of(logits, self.estimator)

        def losses(draws: Tensor) -> Tensor:
            watch(draws)
            return (self.model.predict(reviews.tokens, draws, self.k) - reviews.ratings).square()

        loss = self.estimator(logits, self.k, losses, self.samples, generator=self.draws).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def validate(self) -> None:
        found = metrics.error(self.model, self.validation, self.k)
        if found < min(self.errors, default=float("inf")):
            self.best = training.capture(model=self.model)
        self.errors.append(found)

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "learned": self.learned,
            "draws": self.draws,
            "dropout": self.dropout,
        }

    def state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "parts": training.capture(**self._parts),
            "best": self.best,
            "errors": list(self.errors),
            "record": self.record.state(),
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Back to where ``state`` was taken; how many steps were done by then."""
        training.restore(state["parts"], **self._parts)
        self.best, self.errors = state["best"], list(state["errors"])
        self.record.restore(state["record"])
        self.seconds = state["seconds"]
        done: int = state["step"]
        return done


def steps(train_reviews: int, epochs: int) -> int:
    """Of one training."""
    return epochs * -(-train_reviews // BATCH)


def fit(settings: dict[str, JSON], context: Context) -> JSON:
    """Train, take the weights of the best validation error back, and measure.

    Args:
        settings: "corpus" (see ``source``), "estimator", "options" (see ``estimator``; also
            "num_samples", draws per review, else 1), "k", "learning_rate", "epochs", "seed",
            "example" (whether to list the words chosen in the first annotated review).
    """
    corpus = source.load(settings["corpus"])
    run = _Fit(settings, corpus, context.device)
    saved = context.restore()
    done = 0 if saved is None else run.restore(saved)
    context.advance(done)
    total = settings["epochs"] * run.batches
    for step in range(done, total):
        epoch, index = divmod(step, run.batches)
        start = time.perf_counter()
        run.step(run.batch(epoch, index))
        run.seconds += time.perf_counter() - start
        if index == run.batches - 1:
            run.validate()
        context.advance()
        context.save(_state(run, step + 1))
    training.restore(run.best, model=run.model)
    return _measured(run, corpus.annotated.to(context.device), settings["example"])


def _state(run: _Fit, step: int) -> Callable[[], dict[str, Any]]:
    return lambda: run.state(step)


def _measured(run: _Fit, annotated: Annotated, example: bool) -> JSON:
    chosen = metrics.choose(run.model, annotated.tokens, run.k)
    result = {
        "validation_errors": [round(error, 5) for error in run.errors],
        "test_error": round(metrics.error(run.model, run.test, run.k), 5),
        "precision": round(metrics.precision(chosen, annotated, run.k).percent, 4),
        "steps": run.record.summary(),
        "seconds_per_step": round(run.seconds / (len(run.errors) * run.batches), 5),
    }
    if example:
        result["example"] = chosen[0].nonzero().squeeze(1).tolist()
    return result


def _generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Independent of those for other seeds and purposes."""
    words = [seed, *purpose.encode()]
    mixed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(mixed >> 1)
