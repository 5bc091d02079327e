# SPDX-License-Identifier: Apache-2.0
"""The Poisson-binomial law by a tree of polynomial products, with FFTs, O(n log^2 n) per row.

Tarlow, Swersky, Zemel, Adams, Frey, "Fast Exact Inference for Recursive Cardinality Models", UAI
2012 (arXiv:1210.4899): the law of a sum is the convolution of those of its two halves.
In float64 and in linear space, where an FFT has its rounding error relative to the largest
coefficient: hence the tilt of tilt.py, without which most k come out as noise. Short polynomials
are multiplied directly, all are cut at degree k, and of the last product only coefficient k is
made.
"""

from __future__ import annotations

import tilt
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

_DIRECT = 16  # up to this degree, sums over shifts are faster than transforms


def _product(left: Tensor, right: Tensor, k: int) -> Tensor:
    """Coefficients 0 .. min(2 d, k) of products of polynomials of degree d, along the last axis."""
    degree = left.shape[-1] - 1
    size = min(2 * degree, k) + 1
    if degree <= _DIRECT:
        shifted = (F.pad(right, (a, degree - a)) * left[..., a : a + 1] for a in range(degree + 1))
        return sum(shifted, left.new_zeros(()))[..., :size]
    length = next_fast_len(2 * degree + 1, real=True)
    spectrum = torch.fft.rfft(left, length) * torch.fft.rfft(right, length)
    return torch.fft.irfft(spectrum, length)[..., :size]


def _coefficient(left: Tensor, right: Tensor, k: int) -> Tensor:
    """Coefficient k of the products."""
    degree = left.shape[-1] - 1
    first, last = max(0, k - degree), min(degree, k)
    mirrored = right[..., k - last : k - first + 1].flip(-1)
    return (left[..., first : last + 1] * mirrored).sum(-1)


def log_partition(logits: Tensor, k: int) -> Tensor:
    """log Z_k, [rows], of logits [rows, n], in float64."""
    rows, n = logits.shape
    theta = logits.double()
    s = tilt.shift(theta, k)
    q = torch.stack([torch.sigmoid(s - theta), torch.sigmoid(theta - s)], -1)
    width = max(2, 1 << (n - 1).bit_length())
    never = q.new_tensor([1.0, 0.0]).expand(rows, width - n, 2)
    level = torch.cat([q, never], 1)
    while level.shape[1] > 2:
        level = _product(level[:, ::2], level[:, 1::2], k)
    return tilt.log_partition(theta, k, s, _coefficient(level[:, 0], level[:, 1], k).log())
