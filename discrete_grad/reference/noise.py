# SPDX-License-Identifier: Apache-2.0
"""Perturbation noise: one variate per item by inversion of a counter-based uniform number.

The uniform number v is a survival probability. It has its fine steps next to 0, so the largest
variates, which decide who wins, are the finest: the maxima of two items tie with probability
2^-32, not 2^-24.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .philox import uniform_row

__all__ = ["noise_of_rows", "perturbation_noise", "quantile"]

_PURPOSE = 3
# The table's grid: 16 pieces an octave from v = 2^-33 up to 1/2, then from 1 - v = 2^-24 up to 1/2.
_PIECE_BITS = 4
_UPPER_OCTAVES = 33
_LOWER_OCTAVES = 24
_UPPER_PIECES = (_UPPER_OCTAVES - 1) << _PIECE_BITS

# Integer type of the same width, bits of the fraction, exponent of 1.
_LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def quantile(v: Tensor, quantiles: Tensor | None) -> Tensor:
    """The upper quantile function at v: eps with P(noise > eps) = v.

    Args:
        v: float32 or float64 in [2^-33, 1 - 2^-24].
        quantiles: ``[881, 4]`` in the dtype of v, cubic pieces of the quantile function on a grid
            that is logarithmic in both tails (discrete_grad/quantiles.py); None for the standard
            Gumbel law, which has a closed form.

    Returns:
        The shape and dtype of v; non-increasing in v.
    """
    if quantiles is None:
        return -(-(-v).log1p()).log()
    integer, fraction, bias = _LAYOUT[v.dtype]
    shift = fraction - _PIECE_BITS
    upper = v < 0.5
    x = torch.where(upper, v, 1 - v)
    bits = x.view(integer)
    first = torch.where(upper, _UPPER_OCTAVES - bias, _LOWER_OCTAVES - bias) << _PIECE_BITS
    piece = (bits >> shift) + first + torch.where(upper, 0, _UPPER_PIECES)
    t = (bits & ((1 << shift) - 1)).to(v.dtype) * 2.0**-shift
    c0, c1, c2, c3 = quantiles[piece.to(torch.int64)].unbind(-1)
    return c0 + t * (c1 + t * (c2 + t * c3))


def noise_of_rows(
    row: Tensor, n: int, quantiles: Tensor | None, seed: Tensor, dtype: torch.dtype
) -> Tensor:
    """The noise of the rows of the stream whose indices are ``row``.

    Args:
        row: int64 ``[R]``, indices of (sample, row) pairs: ``sample * rows + row``.
        n: items in a row.
        quantiles: table as in ``quantile``, or None.
        seed: int64 with one element.
        dtype: float32 or float64.

    Returns:
        ``[R, n]``; item i takes word ``i mod 4`` of the Philox block with counter
        ``(i div 4, row low, row high, 3)``.
    """
    return quantile(uniform_row(seed, row, _PURPOSE, 0, n, dtype), quantiles)


def perturbation_noise(
    rows: int, n: int, quantiles: Tensor | None, seed: Tensor, dtype: torch.dtype
) -> Tensor:
    """The noise of the first ``rows`` rows of the stream that ``seed`` opens.

    Args:
        rows: how many; those of sample s of a batch of B rows are ``s B`` to ``s B + B - 1``.
        n: items in a row.
        quantiles: ``[881, 4]`` in ``dtype``, on the device of ``seed``; None for Gumbel noise.
        seed: int64 with one element; equal seeds give equal noise.
        dtype: float32 or float64.

    Returns:
        ``[rows, n]`` of ``dtype`` on the device of ``seed``, of the standard law.
    """
    row = torch.arange(rows, device=seed.device)
    return noise_of_rows(row, n, quantiles, seed, dtype)
