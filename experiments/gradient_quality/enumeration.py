# SPDX-License-Identifier: Apache-2.0
"""What estimators give on average, by summing over all subsets: no sampling.

Each formula is the estimator's definition, written with the enumerated law alone; the library's own
implementation takes part only in the sampled estimates that stand beside.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.gradient_quality.problems import Loss


@dataclass(frozen=True)
class Law:
    """All k-subsets of a small set: probabilities, losses and their gradients.

    Args:
        states: the k-hot vectors, [N, n].
        probabilities: [N].
        losses: f at each, [N].
        slopes: df/dz at each, [N, n].
        logits: theta, [n].
    """

    states: Tensor
    probabilities: Tensor
    losses: Tensor
    slopes: Tensor
    logits: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int, loss: Loss) -> Law:
        chosen = torch.tensor(list(itertools.combinations(range(len(logits)), k)))
        states = logits.new_zeros(len(chosen), len(logits)).scatter(-1, chosen, 1.0)
        points = states.clone().requires_grad_()
        losses = loss(points)
        (slopes,) = torch.autograd.grad(losses.sum(), points)
        probabilities = (states @ logits).softmax(-1)
        return cls(states, probabilities, losses.detach(), slopes, logits)

    def mean(self, values: Tensor) -> Tensor:
        """E of values [N, ...] given at each subset."""
        mean: Tensor = torch.tensordot(self.probabilities, values, 1)
        return mean

    @property
    def deviations(self) -> Tensor:
        """z - mu, [N, n]."""
        return self.states - self.mean(self.states)

    @property
    def covariance(self) -> Tensor:
        """Sigma, [n, n]."""
        return self.deviations.T @ (self.probabilities[:, None] * self.deviations)

    def marginals(self, logits: Tensor) -> Tensor:
        """mu at other parameters [..., n]."""
        return (logits @ self.states.T).softmax(-1) @ self.states


def _score_function(law: Law, step: float) -> Tensor:
    return law.mean(law.losses[:, None] * law.deviations)


def _straight_through(law: Law, step: float) -> Tensor:
    return law.mean(law.slopes)


def _simple(law: Law, step: float) -> Tensor:
    return law.covariance @ law.mean(law.slopes)


def _simple_forward_only(law: Law, step: float) -> Tensor:
    targets = law.logits - step * law.slopes
    return law.mean(law.states - law.marginals(targets))


def _second_order(law: Law, step: float) -> Tensor:
    along = (law.deviations * law.slopes).sum(-1, keepdim=True)
    return (_simple(law, step) + law.mean(law.deviations * along)) / 2


def _leave_one_out(law: Law, step: float) -> Tensor:
    """Of two draws, which contribute the same."""
    difference = law.losses[:, None] - law.losses
    return law.mean(law.mean(difference.T)[:, None] * law.deviations)


def _unbiased(law: Law, step: float) -> Tensor:
    """Of two draws, each with the slope at the other; both contribute the same."""
    across = law.deviations @ law.slopes.T  # <z_i - mu, g_j>
    residual = law.losses[:, None] - across  # l_i with g of the other, j
    weight = residual - residual.T
    both = law.mean(weight.T)  # over the other draw
    return law.mean(both[:, None] * law.deviations) + _simple(law, step)


EXPECTATIONS: dict[str, Callable[[Law, float], Tensor]] = {
    "score_function": _score_function,
    "score_function_loo": _leave_one_out,
    "straight_through": _straight_through,
    "simple": _simple,
    "simple_f": _simple_forward_only,
    "simple_second_order": _second_order,
    "simple_unbiased": _unbiased,
}


def expectation(name: str, law: Law, step: float) -> Tensor:
    """The mean of the estimator of this name, [n]; ``step`` is SIMPLE-F's.

    "score_function_loo" and "simple_unbiased" are those of two draws.
    """
    return EXPECTATIONS[name](law, step)
