# SPDX-License-Identifier: Apache-2.0
"""Learning which k of very many columns a regression needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import discrete_grad as dg
from experiments import training
from experiments.session import JSON, Context
from experiments.sparse_regression.wide_problem import Problem

# How often during the training the support is looked at.
LOOKS = 25


class _RelaxedLoss(torch.autograd.Function):
    """min over c of |y - sum_j sqrt(z_j) c_j x_j|^2 + ridge |c|^2, over |y|^2, at a k-hot z.

    With z between 0 and 1 this is the Boolean relaxation, convex in z:
    ridge y' (ridge I + X diag(z) X')^-1 y. Its gradient -(x_j . residual)^2 / ridge says of every
    column, chosen or not, how far the residual is along it.

    Sources:
        Pilanci, Wainwright, El Ghaoui, "Sparse learning via Boolean relaxations", Math. Program.
        151, 2015; Bertsimas, Pauphilet, Van Parys, "Sparse regression: scalable algorithms and
        empirical performance", Statist. Sci. 35(4), 2020.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, columns: Tensor, target: Tensor, ridge: float) -> Tensor:
        chosen = columns[z.nonzero()[:, -1]]
        penalty = ridge * torch.eye(len(chosen), dtype=chosen.dtype, device=chosen.device)
        coefficients = torch.linalg.solve(chosen @ chosen.T + penalty, chosen @ target)
        residual = target - coefficients @ chosen
        ctx.save_for_backward(columns, residual)
        ctx.scale = ridge * (target @ target)
        loss: Tensor = target @ residual / (target @ target)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        columns, residual = ctx.saved_tensors
        return -grads[0] / ctx.scale * (columns @ residual).square(), None, None, None


def relaxed_loss(z: Tensor, problem: Problem, ridge: float) -> Tensor:
    """The loss of a k-hot z [n], differentiable in z: see ``_RelaxedLoss``."""
    apply: Callable[..., Tensor] = _RelaxedLoss.apply
    return apply(z, problem.columns, problem.target, ridge)


def learn(problem: Problem, k: int, settings: dict[str, JSON], context: Context) -> JSON:
    """The k largest logits after training from 0, one draw a step.

    Args:
        settings: estimator; optimizer ("sgd" or "adam"), rate, ridge, weight (what the loss is
            multiplied with: I-MLE's lambda), steps, training_seed.
    """
    problem = Problem(
        *(
            part.to(context.device)
            for part in (problem.columns, problem.target, problem.support, problem.coefficients)
        )
    )
    generator = torch.Generator(context.device).manual_seed(settings["training_seed"])
    logits = torch.nn.ParameterList([torch.zeros(len(problem.columns), device=context.device)])
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings["optimizer"]](
        logits.parameters(), settings["rate"]
    )
    estimator = dg.estimators.get(settings["estimator"])
    parts = {"logits": logits, "optimizer": optimizer, "generator": generator}
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0, "steps": [], "recall": []}
    found = context.restore()
    if found is not None:
        training.restore(found["parts"], **parts)
        progress = found["progress"]
    steps = settings["steps"]
    look = max(1, steps // LOOKS)
    true = set(problem.support.tolist())

    def loss(z: Tensor) -> Tensor:
        return float(settings["weight"]) * relaxed_loss(z[0], problem, settings["ridge"])[None]

    while progress["step"] < steps:
        context.save(lambda: {"progress": progress, "parts": training.capture(**parts)})
        if progress["step"] % look == 0:
            _look(progress, logits[0], k, true)
        start = time.process_time()
        optimizer.zero_grad()
        estimator(logits[0], k, loss, 1, generator=generator).backward()
        optimizer.step()
        progress["seconds"] += time.process_time() - start
        progress["step"] += 1
        context.advance()
    _look(progress, logits[0], k, true)
    return {
        "support": logits[0].topk(k).indices.sort().values.tolist(),
        "seconds": progress["seconds"],
        "steps": progress["steps"],
        "recall_over_steps": progress["recall"],
    }


def _look(progress: dict[str, Any], logits: Tensor, k: int, true: set[int]) -> None:
    chosen = set(logits.detach().topk(k).indices.tolist())
    progress["steps"].append(progress["step"])
    progress["recall"].append(round(len(chosen & true) / len(true), 4))
