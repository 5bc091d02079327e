# SPDX-License-Identifier: Apache-2.0
"""Elementary functions in registers that the kernels share.

Everything works on float32 and float64 blocks alike; what a dtype needs is chosen when the kernel
is compiled. Nothing here calls libdevice, so that the kernels compile for every target of Triton.
"""

import triton
import triton.language as tl

__all__ = [
    "complex_product",
    "is_negative",
    "log1p_unit",
    "minus_log1p_minus",
    "multiply_minus_1",
    "rounded_product",
    "sin_cos_pi",
    "with_sign",
]


@triton.jit
def _twice_atanh(z):
    """2 atanh(z) for 0 <= z <= 1/3 in float32, by its series."""
    square = z * z
    series = square * 0.0 + 1.0 / 15.0
    for j in tl.static_range(7):
        series = series * square + 1.0 / (13 - 2 * j)
    return 2.0 * z * series


@triton.jit
def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1, with relative accuracy.

    float32: 2 atanh(e / (2 + e)) by its series, since the hardware's logarithm near 1 is accurate
    in absolute terms only. float64: log(u) e / (u - 1) with u = 1 + e as rounded.
    """
    if e.dtype == tl.float32:
        return _twice_atanh(e / (2.0 + e))
    else:
        u = 1.0 + e
        exact = u == 1.0
        return tl.where(exact, e, tl.log(u) * e / tl.where(exact, 1.0, u - 1.0))


@triton.jit
def minus_log1p_minus(v):
    """-log(1 - v) for v in [2^-33, 1 - 2^-24], with relative accuracy.

    float32: 1 - v is exact for v >= 1/2, and below that the series serves as in `log1p_unit`.
    float64: uniform numbers are multiples of 2^-33, so that 1 - v is exact.
    """
    if v.dtype == tl.float32:
        series = _twice_atanh(tl.where(v < 0.5, v / (2.0 - v), 0.0))
        return tl.where(v < 0.5, series, 0.0 - tl.log(1.0 - v))
    else:
        return 0.0 - tl.log(1.0 - v)


@triton.jit
def _sine(x):
    """sin(x) for 0 <= x <= pi / 2, by its series."""
    TERMS: tl.constexpr = 6 if x.dtype == tl.float32 else 10
    square = x * x
    series = square * 0.0 + 1.0
    for j in tl.static_range(TERMS):
        series = 1.0 - square * (1.0 / ((2 * (TERMS - j)) * (2 * (TERMS - j) + 1))) * series
    return x * series


@triton.jit
def sin_cos_pi(numerator, denominator, DTYPE: tl.constexpr):
    """sin and cos of pi numerator / denominator, for integers 0 <= numerator < denominator.

    The angle is folded in integers, so both keep their relative accuracy.
    """
    folded = tl.minimum(numerator, denominator - numerator)
    unit = 3.141592653589793 / denominator.to(DTYPE)
    sine = _sine(folded.to(DTYPE) * unit)
    cosine = _sine((denominator - 2 * folded).to(DTYPE) * (0.5 * unit))
    return sine, tl.where(2 * numerator > denominator, -cosine, cosine)


@triton.jit
def complex_product(a_re, a_im, b_re, b_im):
    """(a_re + i a_im)(b_re + i b_im); a combine function for ``tl.reduce`` too."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def multiply_minus_1(a_re, a_im, b_re, b_im):
    """(1 + a)(1 + b) - 1 of complex numbers; a combine function for ``tl.reduce`` too.

    A product of many factors near 1 keeps its accuracy when the 1 is left out.
    """
    re = (a_re + b_re) + (a_re * b_re - a_im * b_im)
    im = (a_im + b_im) + (a_re * b_im + a_im * b_re)
    return re, im


@triton.jit
def rounded_product(a, b):
    """a b, rounded before anything is added to it.

    For products that are summed over the lanes of a warp: fused with the first sum, each lane would
    add the exact product of its own to the rounded one of another, and lanes would hold different
    sums of the same row.
    """
    return tl.fma(a, b, 0.0)


@triton.jit
def is_negative(x):
    """The sign bit, of -0.0 too."""
    if x.dtype == tl.float32:
        return x.to(tl.int32, bitcast=True) < 0
    else:
        return x.to(tl.int64, bitcast=True) < 0


@triton.jit
def with_sign(magnitude, negative):
    """``magnitude`` (not negative) with the sign bit set where ``negative``, also on 0.

    A product, since Triton's unary minus is 0 - x, which has no -0.0.
    """
    return magnitude * tl.where(negative, -1.0, 1.0).to(magnitude.dtype)
