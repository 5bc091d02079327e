# SPDX-License-Identifier: Apache-2.0
"""Exact sampling by the tree, for rows of at most 64 items (csrc/cpu/simd/sample_tree.h).

Node h of a balanced tree over the items holds the law of how many of the items below it are
chosen. A draw walks down from the root and splits each node's count between its children.

A level of the tree is a block [R, 2 N] in registers whatever its depth: the polynomial of a node
with w leaves has w + 1 coefficients and gets 2 w slots. The children of a node then lie in its own
slots, the left one first, and the products and splits of all nodes of a level are one step.
"""

import triton
import triton.language as tl

from .device_math import is_negative
from .philox import TREE_SPLIT, philox_tag, philox_words, uniform_from_bits
from .tilt import (
    INVALID,
    NONE,
    ORDINARY,
    find_tilt,
    load_counts,
    row_kind,
    tails_at,
)

__all__ = ["tree_sample_kernel"]

TOLERANCE: tl.constexpr = tl.constexpr(0.3)  # the tilt only keeps the laws from underflow


@triton.jit
def leaves(tails):
    """(p, q) of each item in two neighbouring slots, from signed tails [R, 2 N] by slot."""
    taken = tl.arange(0, tails.shape[1])[None, :] % 2 == 1
    w = tl.abs(tails)
    return tl.where(is_negative(tails) == taken, 1.0 - w, w)


@triton.jit
def multiply_level(values, most, WIDTH: tl.constexpr):
    """The products of the nodes of a level, WIDTH slots each, with their neighbours.

    Coefficients above ``most`` are not asked for, and wrong.
    """
    zero = tl.zeros([values.shape[0], values.shape[1]], tl.int32)
    slot = zero + tl.arange(0, values.shape[1])[None, :]
    j = slot % (2 * WIDTH)
    first = slot - j
    product = values * 0.0
    a = 0
    while a <= tl.minimum(most, WIDTH // 2):
        b = j - a
        possible = (b >= 0) & (b < WIDTH)
        left = tl.gather(values, first + a, 1)
        right = tl.gather(values, first + WIDTH + tl.where(possible, b, 0), 1)
        product += tl.where(possible, left * right, 0.0)
        a += 1
    return product


@triton.jit
def build_tree(tails, most, LEVELS: tl.constexpr):
    """The levels below the root, leaves first; ``most``: the largest count of any row."""
    values = leaves(tails)
    levels = (values,)
    for level in tl.static_range(LEVELS - 1):
        values = multiply_level(values, most, 2 << level)
        levels = levels + (values,)
    return levels


@triton.jit
def split_level(values, target, uniform, empty, WIDTH: tl.constexpr):
    """The counts of the nodes of a level, from those of their parents; both [R, 2 N] by slot.

    The left child gets the smallest a whose cumulative weight exceeds v times the whole.
    ``uniform``: [R, N] by heap number. ``empty`` [R]: 1 where the right half of the tree is empty
    and the numbers are those of the left half on its own.
    """
    R: tl.constexpr = values.shape[0]
    PARENTS: tl.constexpr = values.shape[1] // (2 * WIDTH)
    slot = target * 0 + tl.arange(0, values.shape[1])[None, :]
    a = slot % (2 * WIDTH)
    b = target - a
    possible = (a < WIDTH) & (b >= 0) & (b < WIDTH)
    right = tl.gather(values, slot - a + WIDTH + tl.where(possible, b, 0), 1)
    weight = tl.reshape(tl.where(possible, values * right, 0.0), [R, PARENTS, 2 * WIDTH])
    heap = tl.arange(0, PARENTS)[None, :] + ((empty * 0 + PARENTS) >> empty)[:, None]
    threshold = tl.gather(uniform, heap, 1) * tl.sum(weight, axis=2)
    cumulative = tl.cumsum(weight, axis=2)
    smallest = tl.sum((cumulative <= threshold[:, :, None]).to(tl.int32), axis=2)
    # Rounding may leave the whole sum at or below the threshold: take the last possible split.
    split = tl.where(weight > 0, tl.arange(0, 2 * WIDTH)[None, None, :], 0)
    given = tl.minimum(smallest, tl.max(split, axis=2))
    given = tl.broadcast_to(given[:, :, None], [R, PARENTS, 2 * WIDTH])
    given = tl.reshape(given, [R, values.shape[1]])
    return tl.where(a < WIDTH, given, target - given)


@triton.jit
def draw_from_tree(
    levels, target, seed, stream, level, empty, LEVELS: tl.constexpr, DTYPE: tl.constexpr
):
    """One subset of each row, [R, N] int32.

    All [R]: ``target`` items, by the stream ``stream``, after ``level`` halvings; ``empty`` as in
    `split_level`.
    """
    N: tl.constexpr = 1 << LEVELS
    WORDS: tl.constexpr = max(N, 4)
    words = philox_words(seed, stream, philox_tag(TREE_SPLIT, level, 0), 0, WORDS)
    uniform = uniform_from_bits(words, DTYPE)
    counts = tl.zeros([target.shape[0], 2 * N], tl.int32) + target[:, None]
    for i in tl.static_range(LEVELS):
        counts = split_level(levels[LEVELS - 1 - i], counts, uniform, empty, 2 << (LEVELS - 1 - i))
    return tl.max(tl.reshape(counts, [target.shape[0], N, 2]), axis=2)


@triton.jit
def solve_small_rows(theta, k):
    """(kind, count to be drawn, tilt) of the rows of a tile [R, N]."""
    infinity = float("inf")
    live = tl.sum(((theta > -infinity) & (theta < infinity)).to(tl.int32), axis=1)
    forced = tl.sum((theta == infinity).to(tl.int32), axis=1)
    has_nan = tl.sum((theta != theta).to(tl.int32), axis=1) > 0
    kind, target = row_kind(live, forced, has_nan, k)
    ordinary = kind == ORDINARY
    s = find_tilt(theta, live, forced, target, ordinary, TOLERANCE, False)
    return kind, tl.where(ordinary, target + forced, 0), s


@triton.jit
def certain_items(theta, kind):
    """The items of the one possible subset: the forced ones, or all but the excluded ones."""
    none = theta == float("inf")
    return tl.where(kind == NONE, none, theta > float("-inf")).to(tl.int32)


@triton.jit
def store_items(to, taken, invalid, mask):
    """Stores 0 or 1 where ``mask``; NaN, or 2 among bytes, where a row is invalid."""
    if to.dtype.element_ty == tl.uint8:
        tl.store(to, tl.where(invalid, 2, taken).to(tl.uint8), mask=mask)
    else:
        value = tl.where(invalid, float("nan"), taken.to(tl.float32))
        tl.store(to, value.to(to.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["k", "n", "count", "num_samples", "samples_each"])
def tree_sample_kernel(
    logits,
    row_k,
    seed,
    out,
    k,
    n,
    count,
    num_samples,
    samples_each,
    R: tl.constexpr,
    LEVELS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """``samples_each`` samples of R rows a program, k-hot, into out [num_samples, count, n].

    2^LEVELS is the smallest power of two that is not below n, or 2.
    """
    N: tl.constexpr = 1 << LEVELS
    pid = tl.program_id(0).to(tl.int64)
    groups = (count + R - 1) // R
    row = (pid % groups) * R + tl.arange(0, R)
    inside = (row < count)[:, None]
    item = tl.arange(0, N)[None, :]
    at = row[:, None] * n + item
    mask = inside & (item < n)
    theta = tl.load(logits + at, mask=mask, other=float("-inf")).to(DTYPE)
    kind, target, s = solve_small_rows(theta, load_counts(row_k, k, row, count))
    certain = certain_items(theta, kind[:, None])

    slot_item = tl.arange(0, 2 * N)[None, :] // 2
    repeated = tl.load(
        logits + row[:, None] * n + slot_item, mask=inside & (slot_item < n), other=float("-inf")
    ).to(DTYPE)
    levels = build_tree(tails_at(repeated, s), tl.max(target, axis=0), LEVELS)
    key = tl.load(seed)
    none = tl.zeros([R], tl.int32)
    sample = (pid // groups) * samples_each
    end = tl.minimum(sample + samples_each, num_samples)
    while sample < end:
        drawn = draw_from_tree(levels, target, key, sample * count + row, none, none, LEVELS, DTYPE)
        taken = tl.where((kind == ORDINARY)[:, None], drawn, certain)
        store_items(out + sample * count * n + at, taken, (kind == INVALID)[:, None], mask)
        sample += 1
