# SPDX-License-Identifier: Apache-2.0
"""Learning which k of a few columns a regression needs, many problems side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import discrete_grad as dg
from experiments import training
from experiments.session import JSON, Context
from experiments.sparse_regression.candidates import SUPPORT
from experiments.sparse_regression.statistics import RIDGE

K = len(SUPPORT)
PUBLISHED = "imle_exact_marginals"
# Of the training: how often the logits are looked at, and over how many last steps the mean loss is
# taken that a setting is judged by.
LOOKS, LAST = 50, 100


def held_loss(gram: Tensor, products: Tensor, z: Tensor) -> Tensor:
    """|y - sum_j z_j c_j x_j|^2 of the ridge coefficients c of the columns that z chooses.

    The coefficients count as constants, as in the published code: the gradient in z_j is
    -2 c_j x_j . residual, and by the normal equations -2 RIDGE c_j^2.

    Args:
        gram: [..., n, n] of columns of length 1.
        products: with the target, of length 1, [..., n].
        z: k-hot, [..., n].
    """
    with torch.no_grad():
        penalty = RIDGE * torch.eye(z.size(-1), dtype=z.dtype, device=z.device)
        chosen = z[..., :, None] * gram * z[..., None, :]
        coefficients = torch.linalg.solve(chosen + penalty, z * products)
    weights = z * coefficients
    fitted = (gram @ weights[..., None])[..., 0]
    loss: Tensor = 1 + (weights * (fitted - 2 * products)).sum(-1)
    return loss


def gradient(
    name: str,
    logits: Tensor,
    fn: Callable[[Tensor], Tensor],
    draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mean of ``fn`` over draws of k columns [...], and the estimate of its gradient [..., n].

    ``PUBLISHED`` is the published code's: exact draws, and I-MLE's difference of exact marginals in
    place of perturb-and-MAP, mu(theta) - mu(theta - g). The others are ``dg.estimators``.
    """
    if name != PUBLISHED:
        leaf = logits.detach().requires_grad_()
        loss = dg.estimators.get(name)(leaf, K, fn, draws, generator=generator)
        return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]
    z = dg.subset.sample(logits, K, draws, generator=generator).requires_grad_()
    losses = fn(z)
    (g,) = torch.autograd.grad(losses.sum(), z)
    difference = dg.subset.marginals(logits, K) - dg.subset.marginals(logits - g, K)
    return losses.detach().mean(0), difference.mean(0)


def train(settings: dict[str, JSON], context: Context) -> JSON:
    """Logits of the 14 columns from 1, by plain gradient steps: [cells, problems] side by side.

    Args:
        settings: estimator, draws per step, steps, seed; cells, each with the learning rate and
            what the loss is multiplied with (I-MLE's lambda: the same thing); problems, the
            statistics of each.

    Returns:
        for each cell and problem the support found, the mean loss of the last steps, the
        probability of the true support, and of the first problem the marginals, over the steps.
    """
    device = context.device
    gram, products = (
        torch.tensor([one[name] for one in settings["problems"]], dtype=torch.float64)
        for name in ("gram", "products")
    )
    gram, products = gram.to(device), products.to(device)
    rates, weights = torch.tensor(settings["cells"], dtype=torch.float64, device=device).T
    generator = torch.Generator(device).manual_seed(settings["seed"])
    shape = len(rates), len(gram), gram.size(-1)
    true = torch.zeros(shape[-1], dtype=torch.float64, device=device)
    true[list(SUPPORT)] = 1
    state: dict[str, Any] = {
        "step": 0,
        "logits": torch.ones(shape, dtype=torch.float64, device=device),
        "last_loss": torch.zeros(shape[:-1], dtype=torch.float64, device=device),
        "steps": [],
        "probability": [],
        "marginals": [],
    }
    found = context.restore()
    if found is not None:
        training.restore({"generator": found.pop("generator")}, generator=generator)
        state = found
    steps, last = settings["steps"], min(LAST, settings["steps"])
    look = max(1, steps // LOOKS)
    while state["step"] < steps:
        context.save(lambda: {**state, **training.capture(generator=generator)})
        if state["step"] % look == 0:
            _look(state, true)
        losses, g = gradient(
            settings["estimator"],
            state["logits"],
            lambda z: weights[:, None] * held_loss(gram, products, z),
            settings["draws"],
            generator,
        )
        state["logits"] = state["logits"] - rates[:, None, None] * g
        if state["step"] >= steps - last:
            state["last_loss"] = state["last_loss"] + losses / weights[:, None] / last
        state["step"] += 1
        context.advance()
    _look(state, true)
    chosen = state["logits"].topk(K).indices.sort(-1).values
    return {
        "supports": chosen.tolist(),
        "losses": _rounded(state["last_loss"]),
        "steps": state["steps"],
        "probability": _rounded(torch.stack(state["probability"], -1)),
        "marginals": _rounded(torch.stack(state["marginals"], 1)),
    }


def _look(state: dict[str, Any], true: Tensor) -> None:
    """Note the probability of the true support, [cells, problems], and marginals, [cells, n]."""
    logits = state["logits"]
    state["steps"].append(state["step"])
    state["probability"].append(dg.subset.log_prob(logits, K, true.expand_as(logits)).exp())
    state["marginals"].append(dg.subset.marginals(logits[:, 0], K))


def _rounded(values: Tensor) -> Sequence[Any]:
    rounded: list[Any] = values.round(decimals=6).tolist()
    return rounded
