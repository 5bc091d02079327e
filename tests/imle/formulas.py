# SPDX-License-Identifier: Apache-2.0
"""I-MLE, AIMLE and the adaptive rule, step by step in NumPy, with the noise stored.

Arrays are [B, T, n]: B examples, T samples each. Written from the formulas, nothing shared with the
library but the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def top_k(x, k):
    """k-hot of the k largest in the last dimension, the lowest indices among equals."""
    hot = np.zeros_like(x)
    order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    np.put_along_axis(hot, order, 1.0, axis=-1)
    return hot


def imle(theta, eps, dy, k, *, alpha, step, tau, target_tau, symmetric=False):
    """The gradient before any scaling, [B, n]; lambda = ``step``, z = MAP(theta + tau eps)."""
    theta = theta[:, None]
    if symmetric:
        left = top_k(alpha * theta + step * dy + target_tau * eps, k)
    else:
        left = top_k(theta + tau * eps, k)
    right = top_k(alpha * theta - step * dy + target_tau * eps, k)
    return ((left - right) / (2 if symmetric else 1)).mean(1)


def aimle(theta, eps, dy, k, *, alpha, step, target_tau, symmetric=False):
    """z_L - z_R of every sample, [B, T, n]; ``step`` broadcasts to [B, 1, 1]."""
    theta = theta[:, None]
    left = top_k(alpha * theta + (step * dy if symmetric else 0) + target_tau * eps, k)
    right = top_k(alpha * theta - step * dy + target_tau * eps, k)
    return (left - right) / (2 if symmetric else 1)


def step_length(beta, theta, dy, per_example=False):
    """beta ||theta repeated for the samples|| / ||dy||; [B, 1, 1] if ``per_example``."""
    tiled = np.broadcast_to(theta[:, None], dy.shape).astype(np.float64)
    dims = (1, 2) if per_example else (0, 1, 2)
    norm = np.sqrt((dy.astype(np.float64) ** 2).sum(dims, keepdims=True))
    ratio = np.divide(
        np.sqrt((tiled**2).sum(dims, keepdims=True)), norm, out=np.zeros_like(norm), where=norm > 0
    )
    return beta * ratio


@dataclass
class AdaptiveRule:
    """A transcript of the rule in Python floats."""

    beta: float
    ema: float = 1.0
    update_step: float = 0.0001
    momentum: float = 0.0
    decay: float = 0.9
    target: float = 1.0
    previous: float = 0.0

    def adapt(self, difference):
        count = float(np.count_nonzero(difference))
        examples, samples = difference.shape[:2]
        self.ema = self.decay * self.ema + (1 - self.decay) * (count / (examples * samples))
        direction = self.update_step if self.ema < self.target else -self.update_step
        self.previous = self.momentum * self.previous + direction
        self.beta = max(self.beta + self.previous, 0.0)

    def gradient(self, theta, eps, dy, k, *, per_example=False, **settings):
        """One backward pass: the gradient [B, n], and the state one step further."""
        step = step_length(self.beta, theta, dy, per_example)
        difference = aimle(theta, eps, dy, k, step=step, **settings)
        self.adapt(difference)
        return (difference / np.where(step == 0, 1.0, step)).mean(1)
