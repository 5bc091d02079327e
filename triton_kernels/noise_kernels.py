# SPDX-License-Identifier: Apache-2.0
"""Perturbation noise, from the seed alone: what discrete_grad/reference/noise.py defines.

A word of Philox gives a uniform number v, and v the variate that noise exceeds with probability v:
in closed form for Gumbel noise, else by a table of cubic pieces of the quantile function.
"""

import triton
import triton.language as tl

from .device_math import minus_log1p_minus
from .philox import PERTURBATION, philox_words, uniform_from_bits

__all__ = ["noise_kernel", "noise_tile", "upper_quantile"]

# The table's grid: 16 pieces an octave, from v = 2^-33 up to 1/2 and then from 1 - v = 2^-24 up to
# 1/2. An octave is a value of the exponent: the piece is in the leading bits of the number, its
# place in the piece in the others.
PIECES: tl.constexpr = tl.constexpr(16)
UPPER_OCTAVES: tl.constexpr = tl.constexpr(33)
LOWER_OCTAVES: tl.constexpr = tl.constexpr(24)
COEFFICIENTS: tl.constexpr = tl.constexpr(4)


@triton.jit
def _by_table(v, quantiles):
    """The upper quantile function at v, from the table ``quantiles`` [881, COEFFICIENTS]."""
    if v.dtype == tl.float32:
        INTEGER: tl.constexpr = tl.int32
        SHIFT: tl.constexpr = 19
        BIAS: tl.constexpr = 127
    else:
        INTEGER: tl.constexpr = tl.int64
        SHIFT: tl.constexpr = 48
        BIAS: tl.constexpr = 1023
    upper = v < 0.5
    bits = tl.where(upper, v, 1.0 - v).to(INTEGER, bitcast=True)
    first = tl.where(
        upper,
        PIECES * (UPPER_OCTAVES - BIAS),
        PIECES * (UPPER_OCTAVES - 1 + LOWER_OCTAVES - BIAS),
    )
    piece = (bits >> SHIFT).to(tl.int32) + first
    t = (bits & ((1 << SHIFT) - 1)).to(v.dtype) * (1.0 / (1 << SHIFT))
    at = quantiles + COEFFICIENTS * piece
    value = tl.load(at + 3)
    value = tl.load(at + 2) + t * value
    value = tl.load(at + 1) + t * value
    return tl.load(at) + t * value


@triton.jit
def upper_quantile(v, quantiles):
    """What the noise exceeds with probability v; Gumbel noise without ``quantiles``."""
    if quantiles is None:
        return 0.0 - tl.log(minus_log1p_minus(v))
    else:
        return _by_table(v, quantiles)


@triton.jit
def noise_tile(quantiles, seed, row, first, N: tl.constexpr, DTYPE: tl.constexpr):
    """Noise [R, N] of the items ``first`` .. ``first`` + N - 1 of the stream's rows ``row`` [R].

    ``first`` and N are multiples of 4. ``quantiles`` is None for Gumbel noise.
    """
    tag = (row * 0).to(tl.int32) + PERTURBATION
    return upper_quantile(
        uniform_from_bits(philox_words(seed, row, tag, first, N), DTYPE), quantiles
    )


@triton.jit(do_not_specialize=["n", "rows", "blocks"])
def noise_kernel(
    quantiles, seed, out, n, rows, blocks, R: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr
):
    """A tile of out [rows, n]; ``blocks`` tiles of N items make a row."""
    pid = tl.program_id(0).to(tl.int64)
    row = (pid // blocks) * R + tl.arange(0, R)
    first = (pid % blocks) * N
    noise = noise_tile(quantiles, tl.load(seed), row, first, N, DTYPE)
    item = first + tl.arange(0, N)[None, :]
    tl.store(out + row[:, None] * n + item, noise, mask=(row < rows)[:, None] & (item < n))
