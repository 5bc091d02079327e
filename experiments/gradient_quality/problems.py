# SPDX-License-Identifier: Apache-2.0
"""The losses, and the exact gradients of their expectations.

z is the k-hot vector of a subset, with mean mu and covariance Sigma under the law of theta. For
c_l(h) = E[h(z) (z_l - mu_l)] = d E[h] / d theta_l, and since z_i^2 = z_i on subsets:

- f(z) = ||z - b||^2 = k + ||b||^2 - 2 <b, z> is linear in z, so its gradient is -2 Sigma b.
- f(z) = ||X z - y||^2, x_j the rows of X: E <x_j, z>^2 = <x_j, mu>^2 + x_j' Sigma x_j, so

      E f = sum_j (<x_j, mu> - y_j)^2 + x_j' Sigma x_j,
      grad E f = 2 Sigma X' (X mu - y) + sum_j T(x_j, x_j),

  T(u, v)_l = sum_im kappa_lim u_i v_m with the third cumulants of the law, kappa = d Sigma / d
  theta. Sigma u is the vector-Jacobian product of ``dg.subset.marginals``; T(u, u) is the gradient
  of u' Sigma u, by differentiating that product once more. Each costs O(n), so an exact gradient at
  n = 100,000 takes a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

import discrete_grad as dg


class Loss(Protocol):
    """A loss of k-hot vectors [..., n], quadratic in them, with a known expectation."""

    def __call__(self, z: Tensor) -> Tensor:
        """The losses, [...]."""

    def gradient(self, theta: Tensor, k: int) -> Tensor:
        """The gradient of the expected loss in theta [n], exact, [n]."""

    def to(self, where: torch.dtype | torch.device) -> Loss:
        """The same loss in another dtype, or on another device."""


@dataclass(frozen=True)
class Distance:
    """f(z) = ||z - b||^2.

    Args:
        offset: b, [n], or [..., n] for as many rows of theta.
    """

    offset: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return (z - self.offset).square().sum(-1)

    def gradient(self, theta: Tensor, k: int) -> Tensor:
        return covariance_products(theta, k, -2 * self.offset)

    def to(self, where: torch.dtype | torch.device) -> Distance:
        return Distance(self.offset.to(where))


@dataclass(frozen=True)
class LeastSquares:
    """f(z) = ||X z - y||^2.

    Args:
        design: X, [m, n].
        response: y, [m].
    """

    design: Tensor
    response: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return (z @ self.design.T - self.response).square().sum(-1)

    def gradient(self, theta: Tensor, k: int) -> Tensor:
        theta = theta.detach().requires_grad_()
        means = self.design @ dg.subset.marginals(theta, k)
        variances = (self.design * covariance_products(theta, k, self.design)).sum()
        expected = (means - self.response).square().sum() + variances
        (gradient,) = torch.autograd.grad(expected, theta)
        return gradient

    def to(self, where: torch.dtype | torch.device) -> LeastSquares:
        return LeastSquares(self.design.to(where), self.response.to(where))


def covariance_products(theta: Tensor, k: int, vectors: Tensor) -> Tensor:
    """Sigma v of every v in ``vectors`` [..., n] at ``theta`` [n] or [..., n]; differentiable."""
    rows = theta.expand(vectors.shape)
    if not rows.requires_grad:
        rows = rows.detach().requires_grad_()
    marginals = dg.subset.marginals(rows, k)
    (products,) = torch.autograd.grad(marginals, rows, vectors, create_graph=theta.requires_grad)
    return products


def published(seed: int, n: int) -> tuple[Tensor, Distance]:
    """theta [n] and the loss with which both papers' code compares gradients, float64.

    Both draw theta, then b, from one ``RandomState``: theta is standard normal, b the absolute
    value of such numbers.
    """
    rng = np.random.RandomState(seed)
    theta = rng.randn(n)
    return torch.from_numpy(theta), Distance(torch.from_numpy(np.abs(rng.randn(n))))


def large(loss: str, seed: int, n: int, k: int) -> tuple[Tensor, Loss]:
    """theta [n] and a loss for large n, in float32.

    "distance" is the published problem. "least squares" has a planted subset: 16 rows of X with
    entries N(0, 1/k), y = X z* for a random k-hot z*.
    """
    if loss == "distance":
        theta, distance = published(seed, n)
        return theta.float(), distance.to(torch.float32)
    if loss != "least squares":
        raise ValueError(f"loss must be 'distance' or 'least squares', got {loss!r}")
    rng = np.random.default_rng(seed)
    theta = torch.from_numpy(rng.standard_normal(n, dtype=np.float32))
    design = torch.from_numpy(rng.standard_normal((16, n), dtype=np.float32)) / k**0.5
    planted = torch.from_numpy(rng.choice(n, k, replace=False))
    return theta, LeastSquares(design, design[:, planted].sum(-1))
