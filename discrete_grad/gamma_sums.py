# SPDX-License-Identifier: Apache-2.0
"""The quantile function of a sum of gamma variates, by inversion of its Laplace transform.

Y is the sum over i = 1 .. s of independent Gamma(1/kappa, rate i/kappa) variates, so
phi(u) = E exp(-u Y) = prod_i (1 + kappa u / i)^(-1/kappa), analytic but for u <= -1/kappa. With
kappa = 1, Y is the largest of s standard exponential variates.

Source: the law: Niepert, Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, section 4.2. The
inversion: Talbot 1979, with the fixed contour of Abate and Valko, "Multi-precision Laplace
transform inversion", Int. J. Numer. Meth. Engng 60, 2004.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["GammaSum"]

Array = NDArray[np.float64]

# Below this log y, y is taken for 0: u = node / y must not overflow.
_SMALLEST_LOG = -690.0
_STEPS = 30
_ACCEPTED = 1e-9  # relative error of a tail probability


class GammaSum:
    """The law of Y for one kappa >= 0.5 and s <= 1000 kappa, in NumPy's float64."""

    def __init__(self, kappa: float, s: int) -> None:
        self.kappa, self.s = kappa, s
        # The saddle point of exp(u y) phi(u) lies where the mean tilted by u is y. At it, u y +
        # log phi(u) bounds the log of the tail probability (Chernoff).
        offset = np.exp(np.linspace(-60.0, 690.0, 6000)) / kappa  # u + 1/kappa
        rates = [i - 1 + kappa * offset for i in range(1, s + 1)]
        saddle = offset - 1 / kappa
        mean = sum(1 / rate for rate in rates)
        log_phi = -sum(np.log(rate / (i + 1)) for i, rate in enumerate(rates)) / kappa
        self._saddle, self._log_mean = saddle, np.log(mean)
        self._bound = saddle * mean + log_phi

    def _tail(self, log_y: Array, lower: bool) -> tuple[Array, Array]:
        """log F(y), or log(1 - F(y)), and its derivative by log y.

        Both are integrals of exp(u y) times a function that is singular only where phi is (and at
        0, for F). The contour is shifted to the rightmost singularity, which keeps the relative
        accuracy where the tail decays as exp(-y / kappa). Where the law is concentrated, the saddle
        point lies right of Talbot's contour, which is then shifted to cross there.
        """
        # The lower tail of a concentrated law needs more nodes than 24; the power was found where
        # kappa = 1, an elementary law, for s up to 1000.
        count = max(24, math.ceil(16 * (self.s / self.kappa) ** 0.25)) if lower else 24
        r = 0.4 * count
        theta = np.arange(1, count) * np.pi / count
        cotangent = 1 / np.tan(theta)
        node = np.append(r, r * theta * (cotangent + 1j))
        slope = np.append(0.5, 1 + 1j * (theta * (1 + cotangent**2) - cotangent))
        weight = np.exp(node - r) * slope * (r / count)

        y = np.exp(log_y)
        saddle = np.interp(-log_y, -self._log_mean, self._saddle)
        shift = np.maximum(0.0 if lower else -1 / self.kappa, saddle - r / y)
        u = node / y[:, None] + shift[:, None]
        log_phi = np.zeros_like(u)
        for i in range(1, self.s + 1):
            log_phi -= special.log1p(self.kappa * u / i)
        log_phi /= self.kappa
        scale = log_phi.real[:, :1] if lower else np.zeros_like(y)[:, None]
        phi = np.exp(log_phi - scale)
        if lower:
            image = phi / u
        else:  # (1 - phi) / u, whose limit at u = 0 is the mean
            at_zero = u == 0
            mean = sum(1 / i for i in range(1, self.s + 1))
            image = np.where(at_zero, mean, -special.expm1(log_phi) / np.where(at_zero, 1.0, u))
        probability = (image @ weight).real / y
        density = (phi @ weight).real / y
        log_probability = np.log(probability) + shift * y + r + scale[:, 0]
        return log_probability, (y if lower else -y) * density / probability

    def quantile(self, x: Array, lower: bool) -> tuple[Array, Array]:
        """y with F(y) = x, or with 1 - F(y) = x, and dy/dx; both 0 where y underflows.

        Newton's method for the log of the tail probability, which is concave in log y: from the
        far side, where Chernoff's bound starts it, it comes to the root without passing it.

        Raises:
            RuntimeError: it did not converge.
        """
        target = np.log(x)
        side = self._saddle > 0 if lower else self._saddle < 0
        order = np.argsort(self._bound[side])
        start = np.interp(target, self._bound[side][order], self._log_mean[side][order])
        log_y = np.maximum(start, _SMALLEST_LOG)
        for _ in range(_STEPS):
            value, slope = self._tail(log_y, lower)
            following = log_y + (target - value) / slope
            if np.all((abs(target - value) < _ACCEPTED) | (following < _SMALLEST_LOG)):
                vanishing = following < _SMALLEST_LOG
                y = np.where(vanishing, 0.0, np.exp(following))
                return y, y / (slope * x)
            log_y = np.maximum(following, _SMALLEST_LOG)
        raise RuntimeError(
            f"the quantiles of the sum of gammas with k = {self.kappa}, nb_iterations = {self.s} "
            f"did not converge: relative error {abs(target - value).max():.3g}, "
            f"accepted {_ACCEPTED:.3g}"
        )
