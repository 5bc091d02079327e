# SPDX-License-Identifier: Apache-2.0
"""Tables of upper quantile functions: what turns a uniform number into noise of any law.

The table of a law holds cubic pieces of Q(v), P(noise > Q(v)) = v, on a grid that is logarithmic
in both tails, so that one look-up and three multiplications serve every item, and the piece is
read off the bits of the floating-point number:

    v < 1/2:  x = v,     pieces 0 .. 511:   16 an octave from x = 2^-33 to 1/2,
    v >= 1/2: x = 1 - v, pieces 512 .. 879: 16 an octave from x = 2^-24 to 1/2; piece 880: x = 1/2,

and with t in [0, 1) the position in the piece, Q = c0 + t (c1 + t (c2 + t c3)). Every piece is
monotone, and neighbours meet: Q is continuous and non-increasing in v.

Source of the limits on the slopes: Fritsch and Carlson, "Monotone piecewise cubic interpolation",
SIAM J. Numer. Anal. 17, 1980.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["LAWS", "PIECES", "quantile_table"]

Array = NDArray[np.float64]
# (x, lower) -> (Q, dQ/dx), at v = 1 - x if lower, else at v = x.
Law = Callable[[Array, bool], tuple[Array, Array]]

_UPPER_OCTAVES, _LOWER_OCTAVES, _PIECES_PER_OCTAVE = 33, 24, 16
PIECES = (_UPPER_OCTAVES - 1 + _LOWER_OCTAVES - 1) * _PIECES_PER_OCTAVE + 1


def _signed(lower: bool, value: Array, slope: Array) -> tuple[Array, Array]:
    """A symmetric law from its upper tail."""
    return (-value, -slope) if lower else (value, slope)


def _normal(x: Array, lower: bool) -> tuple[Array, Array]:
    from scipy import special  # when it is needed: SciPy would lengthen every import

    value = -special.ndtri(x)
    return _signed(lower, value, -math.sqrt(2 * math.pi) * np.exp(0.5 * value * value))


def _logistic(x: Array, lower: bool) -> tuple[Array, Array]:
    return _signed(lower, np.log1p(-x) - np.log(x), -1 / (x * (1 - x)))


def _laplace(x: Array, lower: bool) -> tuple[Array, Array]:
    return _signed(lower, -np.log(2 * x), -1 / x)


def _sum_of_gamma(kappa: str, terms: str) -> Law:
    """SoG(kappa, s) = (Y - log s) / kappa, with Y the sum of gammas."""
    from discrete_grad.gamma_sums import GammaSum  # which imports SciPy

    k, s = float(kappa), int(terms)
    total = GammaSum(k, s)

    def law(x: Array, lower: bool) -> tuple[Array, Array]:
        y, slope = total.quantile(x, lower)
        return (y - math.log(s)) / k, slope / k

    return law


# By name; the parameters of a law follow its name as words.
LAWS: dict[str, Callable[..., Law]] = {
    "normal": lambda: _normal,
    "logistic": lambda: _logistic,
    "laplace": lambda: _laplace,
    "sum_of_gamma": _sum_of_gamma,
}


def _tail(law: Law, octaves: int, lower: bool, middle: float) -> Array:
    """The pieces ``[16 (octaves - 1), 4]`` from x = 2^-octaves to 1/2, where Q is ``middle``."""
    step = np.arange((octaves - 1) * _PIECES_PER_OCTAVE + 1)
    octave, part = np.divmod(step, _PIECES_PER_OCTAVE)
    x = np.exp2(octave - octaves) * (1 + part / _PIECES_PER_OCTAVE)
    value, slope = law(x, lower)
    value[-1] = middle
    width, rise = np.diff(x), np.diff(value)
    # A cubic Hermite piece with both slopes from 0 to 3 times the secant is monotone.
    bounds = np.minimum(3 * rise, 0), np.maximum(3 * rise, 0)
    first, last = np.clip(slope[:-1] * width, *bounds), np.clip(slope[1:] * width, *bounds)
    return np.stack([value[:-1], first, 3 * rise - 2 * first - last, first + last - 2 * rise], -1)


@functools.cache
def _float64_table(name: str) -> Array:
    kind, *parameters = name.split()
    law = LAWS[kind](*parameters)
    middle = float(law(np.array([0.5]), False)[0][0])
    return np.concatenate(
        [
            _tail(law, _UPPER_OCTAVES, lower=False, middle=middle),
            _tail(law, _LOWER_OCTAVES, lower=True, middle=middle),
            [[middle, 0.0, 0.0, 0.0]],
        ]
    )


@functools.cache
def _table(name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    # What is kept must be a plain tensor, whichever mode the first caller is in.
    with torch.inference_mode(False), _disable_current_modes():
        table = torch.from_numpy(_float64_table(name))
        return table.to(device=device, dtype=dtype, copy=True)


def quantile_table(name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The table of a standard law, made once for each law, device and dtype.

    In float64 within 2e-7 (1 + |Q|) of the quantile function, then rounded to ``dtype``.

    Args:
        name: "normal", "logistic", "laplace", or "sum_of_gamma <kappa> <s>": a string, which
            ``torch.compile`` takes for a constant, as it does not numbers.
        device: where it is to be.
        dtype: float32 or float64.

    Returns:
        ``[881, 4]``, contiguous. Shared by all callers: not to be written to.
    """
    return _table(name, device, dtype)


# What torch.compiler.assume_constant_result does, which would import the whole compiler (a second
# and a half) for everyone.
quantile_table._dynamo_marked_constant = True  # type: ignore[attr-defined]
