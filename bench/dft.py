# SPDX-License-Identifier: Apache-2.0
"""The (n + 1)-node discrete Fourier transform of the Poisson-binomial law, O(n^2) per row.

Fernandez, Williams, "Closed-Form Expression for the Poisson-Binomial Probability Density Function",
IEEE Transactions on Aerospace and Electronic Systems 46 (2010); SFESS (Wijk, Vinuesa,
Azizpour, ICLR 2025) takes its log-probabilities this way, in complex64:

    P(S = k) = 1/(n+1) sum over m = 0 .. n of exp(-i k t_m) prod_j (1 + p_j (exp(i t_m) - 1)),

t_m = 2 pi m / (n + 1), p_j = sigmoid(theta_j). The sum cancels down to P(S = k): where that is
below the rounding error of the working precision, as for k many standard deviations from sum p,
nothing but rounding is left. ``tilted`` first moves the mean to k (tilt.py), which is not in
the source.
"""

from __future__ import annotations

import math

import tilt
import torch
from torch import Tensor


def _log_count(logits: Tensor, k: int) -> Tensor:
    """log P(S = k), [rows], in the complex dtype of the logits' own precision."""
    n = logits.shape[-1]
    m = torch.arange(n + 1, device=logits.device)

    def unit(multiples: Tensor) -> Tensor:
        """exp(2 pi i j / (n + 1)); the angle in float64, from 0 <= j <= n."""
        angle = multiples.double() * (2 * math.pi / (n + 1))
        return torch.polar(torch.ones_like(angle), angle).to(logits.dtype.to_complex())

    nodes, back = unit(m), unit(m * k % (n + 1)).conj()
    factors = 1 + torch.sigmoid(logits).unsqueeze(-2) * (nodes - 1).unsqueeze(-1)
    terms = factors.log().sum(-1).exp() * back
    return (terms.sum(-1).real / (n + 1)).log()


def log_partition(logits: Tensor, k: int) -> Tensor:
    """log Z_k, [rows], of logits [rows, n], as published: at sigmoid(theta)."""
    return tilt.log_partition(logits, k, torch.zeros_like(logits[:, :1]), _log_count(logits, k))


def tilted(logits: Tensor, k: int) -> Tensor:
    """The same with the mean at k."""
    s = tilt.shift(logits, k)
    return tilt.log_partition(logits, k, s, _log_count(logits - s, k))
