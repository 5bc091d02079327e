# SPDX-License-Identifier: Apache-2.0
"""A tile of rows in registers: what is known of each row, its tilt, and the tails at the tilt.

A tile is a block [R, N] of logits, padded with -inf. As in csrc/core/tilt.h, the tilt s of a row
brings sum_i sigmoid(theta_i + s) near k; every formula of the contour is exact for any s.
"""

import triton
import triton.language as tl

from .device_math import is_negative, rounded_product, with_sign

__all__ = [
    "find_tilt",
    "load_counts",
    "load_tile",
    "row_kind",
    "sums_at",
    "tails_at",
    "tilt_first_guess",
    "tilt_is_good",
    "tilt_step",
]

# Kinds of rows, as in csrc/core/tilt.h.
ORDINARY: tl.constexpr = tl.constexpr(0)
NONE: tl.constexpr = tl.constexpr(1)  # exactly the forced items
ALL: tl.constexpr = tl.constexpr(2)  # all but the excluded items
INVALID: tl.constexpr = tl.constexpr(3)  # NaN, or k outside [forced, forced + live]

MAX_STEPS: tl.constexpr = tl.constexpr(1100)  # bisection of a double's range ends before that


@triton.jit
def load_tile(logits, row, n, count, N: tl.constexpr, DTYPE: tl.constexpr):
    """Logits [R, N] of the rows ``row`` [R] (int64), -inf beyond n and beyond the last row."""
    item = tl.arange(0, N)
    inside = (row < count)[:, None] & (item < n)[None, :]
    theta = tl.load(logits + row[:, None] * n + item[None, :], mask=inside, other=float("-inf"))
    return theta.to(DTYPE)


@triton.jit
def load_counts(row_k, k, row, count):
    """k of the rows ``row`` [R], int64, never trusted to be in range."""
    if row_k is None:
        return (row * 0) + k
    else:
        return tl.load(row_k + row, mask=row < count, other=0)


@triton.jit
def row_kind(live, forced, has_nan, k):
    """Kind of each row [R], and how many live items it chooses (int32; valid rows only)."""
    chosen = k - forced
    invalid = has_nan | (chosen < 0) | (chosen > live)
    kind = tl.where(chosen == 0, NONE, tl.where(chosen == live, ALL, ORDINARY))
    return tl.where(invalid, INVALID, kind), tl.where(invalid, 0, chosen).to(tl.int32)


@triton.jit
def tails_at(theta, s):
    """Signed tails [R, N] at the tilts s [R]: min(q, p), with the sign bit set where q > 1/2."""
    x = theta + s[:, None]
    e = tl.exp(tl.where(x > 0, -x, x))
    return with_sign(e / (1.0 + e), x > 0)


@triton.jit
def sums_at(tails):
    """(sum of q up to whole items, V, number of items with q > 1/2) of each row of signed tails.

    sum q = above + excess. All lanes of a row have the same sums, to the bit.
    """
    above = is_negative(tails)
    w = tl.abs(tails)
    excess = tl.sum(tails, axis=1)
    variance = tl.sum(rounded_product(w, 1.0 - w), axis=1)
    return excess, variance, tl.sum(above.to(tl.int32), axis=1)


@triton.jit
def tilt_first_guess(live, target, smallest, largest, mean, variance):
    """(value, lower, upper, target logit) of the search, all [R].

    The bracket holds because every sigmoid is on one side of target / live at its ends. The guess
    treats the logits as normal: E sigmoid(m + sqrt(v) Z) ~= sigmoid(m / sqrt(1 + pi v / 8)).
    """
    chosen = target.to(mean.dtype)
    logit = tl.log(chosen / (live.to(mean.dtype) - chosen))
    lower = logit - largest
    upper = logit - smallest
    value = logit * tl.sqrt(1.0 + variance * 0.39269908169872414) - mean
    return tl.minimum(tl.maximum(value, lower), upper), lower, upper, logit


@triton.jit
def tilt_is_good(excess, variance, tolerance):
    """|sum q - k| <= tolerance max(1, sqrt V)."""
    return tl.abs(excess) <= tolerance * tl.maximum(1.0, tl.sqrt(variance))


@triton.jit
def tilt_step(value, lower, upper, excess, variance, target, live, logit):
    """(value, lower, upper) after a Newton step on logit(sum q / live), kept inside the bracket.

    It is linear in s for equal logits. Where the sum is flat or the step leaves the bracket, the
    bracket is halved.
    """
    upper = tl.where(excess > 0, value, upper)
    lower = tl.where(excess > 0, lower, value)
    chosen = target.to(value.dtype) + excess
    rest = live.to(value.dtype) - chosen
    sound = (variance > 0) & (chosen > 0) & (rest > 0)
    slope = variance * live.to(value.dtype) / tl.where(sound, chosen * rest, 1.0)
    step = (tl.log(tl.where(sound, chosen / rest, 1.0)) - logit) / tl.where(sound, slope, 1.0)
    newton = value - step
    inside = sound & (newton > lower) & (newton < upper)
    return tl.where(inside, newton, lower + 0.5 * (upper - lower)), lower, upper


@triton.jit
def find_tilt(theta, live, forced, target, ordinary, tolerance, POLISH: tl.constexpr):
    """The tilts [R] of a tile's ``ordinary`` rows; 0 for the others.

    ``POLISH``: one more Newton step after the tolerance is met, which squares what is left of the
    error, unless that is within the square already.
    """
    finite = (theta > float("-inf")) & (theta < float("inf"))
    largest = tl.max(tl.where(finite, theta, float("-inf")), axis=1)
    smallest = tl.min(tl.where(finite, theta, float("inf")), axis=1)
    largest = tl.where(ordinary, largest, 0.0)
    smallest = tl.where(ordinary, smallest, 0.0)
    items = tl.maximum(live, 1).to(theta.dtype)
    away = tl.where(finite, theta - largest[:, None], 0.0)
    shift = tl.sum(away, axis=1) / items
    away = tl.where(finite, away - shift[:, None], 0.0)
    spread = tl.sum(rounded_product(away, away), axis=1) / items
    target = tl.where(ordinary, target, 1)
    live = tl.where(ordinary, live, 2)
    value, lower, upper, logit = tilt_first_guess(
        live, target, smallest, largest, largest + shift, spread
    )
    value = tl.where(ordinary, value, 0.0)
    s = value
    searching = ordinary
    polishing = ordinary & False
    step = 0
    while (tl.max(searching.to(tl.int32), axis=0) > 0) & (step < MAX_STEPS):
        s = tl.where(searching, value, s)
        excess, variance, above = sums_at(tails_at(theta, s))
        excess += (above - forced - target).to(theta.dtype)
        good = tilt_is_good(excess, variance, tolerance)
        if POLISH:
            polished = tilt_is_good(excess, variance, tolerance * tolerance)
            done = good & (polishing | polished)
            polishing = polishing | good
        else:
            done = good
        searching = searching & (done == 0)
        value, lower, upper = tilt_step(value, lower, upper, excess, variance, target, live, logit)
        searching = searching & (value != s)
        step += 1
    return s
