# SPDX-License-Identifier: Apache-2.0
"""The k largest of rows in registers: what the kernels of perturbed top-k share.

Items are compared as integers that are ordered like the values, so that equal means equal and the
k-th largest is found digit by digit, counting: no row is sorted.
"""

import triton
import triton.language as tl

from .tilt import INVALID, row_kind

__all__ = [
    "choose",
    "kinds_of_items",
    "least_key",
    "perturbed_keys",
    "store_subset",
    "valid_rows",
]


@triton.jit
def least_key(KEY: tl.constexpr):
    """The smallest of the keys' integers."""
    return tl.full([], -(2**31) if KEY == tl.int32 else -(2**63), KEY)


@triton.jit
def ordered_keys(x):
    """Integers in the order of the values x, with one for both zeros."""
    x = tl.where(x == 0, 0.0, x)
    if x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)
    else:
        bits = x.to(tl.int64, bitcast=True)
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)


@triton.jit
def perturbed_keys(theta, x):
    """(keys, whether a finite item became something else): infinite logits keep their place."""
    finite = tl.abs(theta) < float("inf")
    unfit = finite & ((tl.abs(x) < float("inf")) == 0)
    return ordered_keys(tl.where(finite, x, theta)), unfit


@triton.jit
def kinds_of_items(theta, unfit):
    """How many items of each row of a tile [R, N] are finite, how many +inf, and how many spoil the
    row, being NaN or ``unfit``; int64 [R]. N is at most 2^15: one sum for three counts.
    """
    FIELD: tl.constexpr = 16
    packed = (tl.abs(theta) < float("inf")).to(tl.int64)
    packed += (theta == float("inf")).to(tl.int64) << FIELD
    packed += (unfit | (theta != theta)).to(tl.int64) << (2 * FIELD)
    packed = tl.sum(packed, axis=1)
    mask = (1 << FIELD) - 1
    return packed & mask, (packed >> FIELD) & mask, packed >> (2 * FIELD)


@triton.jit
def valid_rows(theta, unfit, k):
    """Which rows [R] of a tile have a subset of k [R] items."""
    live, forced, spoilt = kinds_of_items(theta, unfit)
    kind, _ = row_kind(live, forced, spoilt > 0, k)
    return kind != INVALID


@triton.jit
def kth_largest(keys, k):
    """The largest integer [R] that at least k [R] (int32) of the keys [R, N] reach.

    Two bits at a time, from the top: the counts of the keys that reach each of three candidates
    are fields of one integer, and one sum. The least key is all zeros of the order, so that the
    digits of a number are those of its exclusive or with that.
    """
    KEY: tl.constexpr = keys.dtype
    BITS: tl.constexpr = KEY.primitive_bitwidth
    NARROW: tl.constexpr = keys.shape[1] < 1024
    COUNTS: tl.constexpr = tl.int32 if NARROW else tl.int64
    FIELD: tl.constexpr = 10 if NARROW else 16
    mask = (1 << FIELD) - 1
    one = tl.full([keys.shape[0]], 1, KEY)
    found = one * 0 + least_key(KEY)
    shift = BITS - 2
    while shift >= 0:
        low = one << shift
        high = low + low
        counts = (keys >= (found ^ low)[:, None]).to(COUNTS)
        counts += (keys >= (found ^ high)[:, None]).to(COUNTS) << FIELD
        counts += (keys >= (found ^ high ^ low)[:, None]).to(COUNTS) << (2 * FIELD)
        counts = tl.sum(counts, axis=1)
        digit = ((counts & mask) >= k).to(KEY)
        digit += (((counts >> FIELD) & mask) >= k).to(KEY)
        digit += ((counts >> (2 * FIELD)) >= k).to(KEY)
        found = found ^ (digit << shift)
        shift -= 2
    return found


@triton.jit
def choose(keys, k):
    """The k [R] (int32, 0 to N) largest of each row of keys [R, N]: among equals, the first."""
    threshold = kth_largest(keys, k)[:, None]
    above = keys > threshold
    tied = keys == threshold
    left = k - tl.sum(above.to(tl.int32), axis=1)
    return above | (tied & (tl.cumsum(tied.to(tl.int32), axis=1) <= left[:, None]))


@triton.jit
def store_subset(out, at, chosen, invalid, mask):
    """Zeros and ones at ``at``, NaN where the row is invalid."""
    value = tl.where(invalid, float("nan"), chosen.to(tl.float32))
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)
