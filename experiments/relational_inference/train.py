# SPDX-License-Identifier: Apache-2.0
"""One training of the model with one estimator, and its scores."""

from __future__ import annotations

import copy
import json
import math
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import discrete_grad as dg
from experiments import training
from experiments.relational_inference import data
from experiments.relational_inference.latent import TimedSolver, TreeSampler
from experiments.relational_inference.model import Decoder, Encoder
from experiments.relational_inference.objective import divergence, edge_scores, reconstruction
from experiments.session import JSON, Context

_GRAPHS_AT_ONCE = 125  # in an evaluation
_NOISE_OF_EVALUATIONS = 7  # a seed: all models are scored under the same perturbations


def load(source: dict[str, JSON]) -> data.Dataset:
    """The data that a task's settings name: a cache of ``data.generate``, or published files."""
    return _load(json.dumps(source))


@lru_cache(maxsize=2)  # the trainings of a process share it
def _load(source: str) -> data.Dataset:
    settings = json.loads(source)
    if settings["parameters"] is None:
        return data.load_published(Path(settings["path"]), settings["frames"])
    return data.load_cache(Path(settings["path"]), data.Parameters(**settings["parameters"]))


class Trainer:
    """Model, optimizer, randomness and scores of one training.

    Args:
        settings: of the task; ``experiment.task_settings`` lists them.
        device: where the model is.
    """

    def __init__(self, settings: dict[str, JSON], device: torch.device) -> None:
        self.settings = settings
        self.graphs = {k: graphs.to(device) for k, graphs in load(settings["data"]).items()}
        with torch.random.fork_rng():
            torch.manual_seed(settings["seed"])
            frames = self.graphs["train"].positions.shape[1]
            self.encoder = Encoder(frames, data.VERTICES, settings["encoder_width"])
            self.decoder = Decoder(data.VERTICES, settings["decoder_width"], settings["pull"])
        self.model = nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder}).to(device)
        self.noise = torch.Generator(device).manual_seed(settings["seed"])
        self.starts = torch.Generator().manual_seed(settings["seed"])
        self.sampler = TreeSampler(
            settings["estimator"],
            step=settings["lambda"],
            noise=settings["noise"],
            temperature=settings["temperature"],
            adaptation=settings["adaptation"],
            generator=self.noise,
        ).to(device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings["learning_rate"], fused=True
        )

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": self.model,
            "sampler": self.sampler,
            "optimizer": self.optimizer,
            "noise": self.noise,
            "starts": self.starts,
        }

    def step(self, number: int) -> bool:
        """One step, on batch ``number`` of the training set, taken in order, again and again.

        Returns:
            Whether the loss was finite; if not, nothing is changed.
        """
        settings, train = self.settings, self.graphs["train"]
        index = torch.arange(settings["batch"], device=train.positions.device)
        positions = train.positions[(index + number * settings["batch"]) % len(train)]
        logits = self.encoder(positions)
        self.theta = logits.view_as(logits)  # gets the estimator's gradient, without the KL's
        self.theta.retain_grad()
        target = self.sampler.target
        self.beta = None if target is None else target.beta.clone()
        self.trees = self.sampler(self.theta)
        self.trees.retain_grad()
        errors = reconstruction(
            self.decoder, positions, self.trees, settings["prediction"], self._starts()
        )
        loss = (errors + divergence(logits)).mean()
        if not loss.isfinite():
            return False
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return True

    def _starts(self) -> Tensor | None:
        number, frames = self.settings["starts"], self.graphs["train"].positions.shape[1]
        if number is None:
            return None
        available = len(range(0, frames - 1, self.settings["prediction"]))
        return torch.randperm(available, generator=self.starts)[:number]

    def diagnosis(self) -> dict[str, float | None]:
        """Of the last step: non-zero entries per example of the estimator's gradient, and lambda.

        lambda is what AIMLE multiplied the gradient of the loss with; None for the others.
        """
        gradient, upstream = self.theta.grad, self.trees.grad
        assert gradient is not None
        assert upstream is not None
        step = None
        if self.beta is not None:
            step = (self.beta * self.theta.norm() / upstream.norm()).item()
        return {"changed": (gradient != 0).sum(1).double().mean().item(), "lambda": step}

    def evaluate(self, split: str) -> dict[str, float]:
        """Scores on a split, every frame predicted from the one before it.

        Of one tree of Gumbel-perturbed logits per graph ("sample"), the latent variable of the
        model, and of the tree of the logits themselves ("map").
        """
        graphs = self.graphs[split]
        device = graphs.positions.device
        generator = torch.Generator(device).manual_seed(_NOISE_OF_EVALUATIONS)
        law = dg.GumbelNoiseDistribution(device=device)
        self.model.eval()
        collected: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for start in range(0, len(graphs), _GRAPHS_AT_ONCE):
                positions = graphs.positions[start : start + _GRAPHS_AT_ONCE]
                logits = self.encoder(positions)
                noise = law.sample(logits.shape, generator=generator)
                found = {"kl": divergence(logits)}
                for name, weights in (("sample", logits + noise), ("map", logits)):
                    trees = self.sampler.solver(weights)
                    errors = reconstruction(self.decoder, positions, trees, 1)
                    found |= {f"trees_{name}": trees, f"error_{name}": errors}
                for name, values in found.items():
                    collected.setdefault(name, []).append(values)
        self.model.train()
        whole = {name: torch.cat(values) for name, values in collected.items()}
        kl = whole["kl"].mean().item()
        scores = {"kl": kl}
        for name in ("sample", "map"):
            scores[f"elbo_{name}"] = -whole[f"error_{name}"].mean().item() - kl
            for key, value in edge_scores(whole[f"trees_{name}"], graphs.edges).items():
                scores[f"{key}_{name}"] = value
        return scores

    def infer(self, split: str, number: int) -> list[list[int]]:
        """The edges of the tree of the logits, of one graph of a split."""
        self.model.eval()
        with torch.no_grad():
            logits = self.encoder(self.graphs[split].positions[number : number + 1])
        self.model.train()
        return data.pairs(self.sampler.solver(logits)[0])


def train(settings: dict[str, JSON], context: Context) -> JSON:
    """Train, keep the model with the best validation ELBO, and score it.

    Returns:
        "curve", a list of scores on the validation set with the estimator's diagnosis; "best", the
        step that was kept; "diverged", the step at which the loss was not finite and the training
        ended, or None; "valid" and "test", scores of the best model; "tree", what it infers for the
        first test graph; and CPU seconds of the steps that this process made.
    """
    trainer = Trainer(settings, context.device)
    state = context.restore()
    if state is None:
        state = {"step": 0, "curve": [], "best": _best(trainer, 0), "diverged": None}
    else:
        training.restore(state.pop("parts"), **trainer.parts)
    clock = _Clock(trainer.sampler.solver)
    for number in range(state["step"], settings["steps"]):
        if state["diverged"] is not None:
            break
        with clock:
            finite = trainer.step(number)
        state["step"] = number + 1
        if state["step"] % settings["evaluate_every"] == 0 or state["step"] == settings["steps"]:
            found = _best(trainer, state["step"])
            finite = finite and all(map(math.isfinite, found["scores"].values()))
            if finite:
                state["curve"].append(
                    {"step": state["step"]} | found["scores"] | trainer.diagnosis()
                )
                if found["scores"]["elbo_sample"] > state["best"]["scores"]["elbo_sample"]:
                    state["best"] = found
        if not finite:
            state["diverged"] = state["step"]
        context.save(lambda: state | {"parts": training.capture(**trainer.parts)})
        context.advance()
    best = state["best"]
    trainer.model.load_state_dict(best["model"])
    return {
        "curve": state["curve"],
        "best": best["step"],
        "diverged": state["diverged"],
        "valid": best["scores"],
        "test": trainer.evaluate("test"),
        "tree": trainer.infer("test", 0),
        **clock.seconds_per_step(),
    }


def _best(trainer: Trainer, step: int) -> dict[str, Any]:
    """The model as it is, with its scores on the validation set."""
    model = copy.deepcopy(trainer.model.state_dict())
    return {"step": step, "scores": trainer.evaluate("valid"), "model": model}


class _Clock:
    """CPU time of training steps, and of the solver within them."""

    def __init__(self, solver: TimedSolver) -> None:
        self._solver, self._steps, self._seconds, self._solver_seconds = solver, 0, 0.0, 0.0

    def __enter__(self) -> None:
        self._start, self._solver.seconds = time.process_time(), 0.0

    def __exit__(self, *_: object) -> None:
        self._seconds += time.process_time() - self._start
        self._solver_seconds += self._solver.seconds
        self._steps += 1

    def seconds_per_step(self) -> dict[str, float]:
        steps = max(self._steps, 1)
        return {
            "seconds_per_step": self._seconds / steps,
            "solver_seconds_per_step": self._solver_seconds / steps,
        }
