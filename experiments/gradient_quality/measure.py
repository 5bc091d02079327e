# SPDX-License-Identifier: Apache-2.0
"""How far estimates are from the exact gradient."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def cosine(estimates: Tensor, exact: Tensor) -> Tensor:
    """Cosines of ``estimates`` [..., n] with ``exact`` [..., n], row by row; 0 for zeros."""
    lengths = estimates.norm(dim=-1) * exact.norm(dim=-1)
    # Rounding must not make a cosine exceed 1.
    ratio = ((estimates * exact).sum(-1) / lengths).clamp(max=1.0)
    return torch.where(lengths > 0, ratio, 0.0)


def quality(estimates: Tensor, exact: Tensor) -> dict[str, float]:
    """Bias, variance and error of ``estimates`` [R, n], as SIMPLE's paper measures them.

    bias = 1 - cos(mean estimate, exact), variance = the variance of cos(estimate, mean estimate),
    error = the mean of 1 - cos(estimate, exact). "bias_noise" is what the bias of an unbiased
    estimator would show on average with so many estimates: with C their covariance, the mean
    estimate is off by C / R, and 1 - cos by half of what of it is orthogonal to the gradient,
    tr(P C) / (2 R ||gradient||^2).
    """
    mean = estimates.mean(0)
    errors = 1 - cosine(estimates, exact)
    along = (estimates - mean) @ exact / exact.norm()
    orthogonal = estimates.var(0).sum() - along.var()
    noise = orthogonal / (2 * estimates.shape[0] * exact.square().sum())
    return {
        "bias": _one(1 - cosine(mean, exact)),
        "bias_noise": _one(noise),
        "variance": _one(cosine(estimates, mean).var()),
        "error": _one(errors.mean()),
        "error_std": _one(errors.std()),
    }


def chi_square(estimates: Tensor, exact: Tensor) -> tuple[float, int]:
    """Hotelling's statistic that the mean of ``estimates`` [R, n] is ``exact``, and its freedom.

    R (m - exact)' C^-1 (m - exact), chi-squared for many unbiased estimates. The directions that no
    estimate ever leaves (adding a constant to theta changes nothing) are left out.
    """
    deviation = (estimates.mean(0) - exact).numpy()
    values, vectors = np.linalg.eigh(np.cov(estimates.numpy(), rowvar=False))
    varies = values > 1e-9 * values[-1]
    along = deviation @ vectors[:, varies]
    statistic = estimates.shape[0] * (along**2 / values[varies]).sum()
    return float(statistic), int(varies.sum())


def _one(value: Tensor) -> float:
    """As it is written down: six significant digits; rounding errors around 0 as they are."""
    number = value.item()
    return 0.0 if number == 0 else round(number, 5 - math.floor(math.log10(abs(number))))
