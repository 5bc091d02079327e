# SPDX-License-Identifier: Apache-2.0
"""Which items of a long row are chosen: its threshold, by several programs a row.

A selection is one perturbed choice: of a draw (sample, row), and of one of its sides where two
selections are compared. Pass after pass counts the next 8 bits of the keys that agree with the
threshold so far, and then of the indices of the items tied at the threshold, counted from the end
of the row since the first of them are taken. No two items are alike in both, so in the end exactly
k items reach (threshold, index). The noise is made anew in every pass; a selection whose last digit
was taken whole is settled, and later passes leave it at once.
"""

import triton
import triton.language as tl

from .noise_kernels import noise_tile
from .selection_kernels import kinds_of_items, least_key, perturbed_keys
from .tilt import INVALID, row_kind
from .topk_difference_kernels import left_side, right_side

__all__ = ["chunk_of_draw", "count_digits_kernel", "draw_of_selection", "settle_kernel"]

DIGIT_BITS: tl.constexpr = tl.constexpr(8)
BINS: tl.constexpr = tl.constexpr(256)
# Finite items, +inf items, items that spoil the row; and one that keeps rows of counts aligned.
FACTS: tl.constexpr = tl.constexpr(4)
STATE: tl.constexpr = tl.constexpr(3)  # threshold, index from the end, items still to be found


@triton.jit
def draw_of_selection(pair, first, width, count):
    """The draw of a pair (sample, row): ``width`` of the ``count`` rows from ``first`` on."""
    return (pair // width) * count + first + pair % width


@triton.jit
def chunk_of_draw(
    logits,
    grad,
    quantiles,
    seed,
    draw,
    scale,
    at,
    n,
    count,
    grad_sample,
    grad_row,
    grad_item,
    left_alpha,
    left_temperature,
    right_alpha,
    right_temperature,
    SYMMETRIC: tl.constexpr,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """(logits, left side, right side) [1, B] of a draw from item ``at`` on; -inf beyond the row.

    Without ``grad`` both sides are logits + left_temperature noise. ``scale`` is the step of the
    draw's row.
    """
    row = draw % count
    item = at + tl.arange(0, B)[None, :]
    theta = tl.load(logits + row * n + item, mask=item < n, other=float("-inf")).to(DTYPE)
    noise = noise_tile(quantiles, tl.load(seed), draw + tl.zeros([1], tl.int64), at, B, DTYPE)
    if grad is None:
        left = theta + tl.cast(left_temperature, DTYPE) * noise
        return theta, left, left
    else:
        of_draw = grad + (draw // count) * grad_sample + row * grad_row
        g = tl.load(of_draw + item * grad_item, mask=item < n, other=0.0)
        move = scale * g.to(DTYPE)
        left = left_side(theta, noise, move, left_alpha, left_temperature, SYMMETRIC)
        return theta, left, right_side(theta, noise, move, right_alpha, right_temperature)


@triton.jit
def _place_of_digit(index, passes, KEY: tl.constexpr):
    """(whether a pass counts keys, or else indices; the shift of its digit)."""
    BITS: tl.constexpr = KEY.primitive_bitwidth
    of_keys = index < BITS // DIGIT_BITS
    from_top = BITS - DIGIT_BITS * (index + 1)
    return of_keys, tl.where(of_keys, from_top, DIGIT_BITS * (passes - 1 - index))


@triton.jit
def _narrow(state, counts, index, passes, KEY: tl.constexpr):
    """The state after pass ``index``, from the state before it and what it counted.

    No item still to be found: the selection is settled.
    """
    threshold = tl.load(state).to(KEY)
    reverse = tl.load(state + 1)
    need = tl.load(state + 2)
    of_keys, shift = _place_of_digit(index, passes, KEY)
    bins = tl.arange(0, BINS)
    counted = tl.load(counts + bins)
    reached = tl.cumsum(counted, axis=0, reverse=True)
    digit = tl.maximum(tl.sum((reached >= need).to(tl.int32), axis=0) - 1, 0)
    digit = tl.where(need > 0, digit, 0)
    above = tl.sum(tl.where(bins > digit, counted, 0), axis=0)
    here = tl.sum(tl.where(bins == digit, counted, 0), axis=0)
    threshold = threshold ^ tl.where(of_keys, digit.to(KEY) << shift, 0)
    reverse = reverse ^ tl.where(of_keys, 0, digit.to(tl.int64) << shift)
    left = need - above
    return threshold, reverse, tl.where((need > 0) & (left != here), left, 0)


@triton.jit(
    do_not_specialize=[
        *("index", "passes", "k", "n", "first", "width", "count", "parts", "span"),
        *("grad_sample", "grad_row", "grad_item", "step_row"),
    ]
)
def count_digits_kernel(
    logits,
    grad,
    row_k,
    quantiles,
    step,
    seed,
    states,
    counts,
    index,
    passes,
    k,
    n,
    first,
    width,
    count,
    parts,
    span,
    grad_sample,
    grad_row,
    grad_item,
    step_row,
    left_alpha: tl.float64,
    left_temperature: tl.float64,
    right_alpha: tl.float64,
    right_temperature: tl.float64,
    SYMMETRIC: tl.constexpr,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Pass ``index`` over one part of a selection.

    states [selections, passes, STATE] before each pass; counts [selections, passes BINS + FACTS],
    zeros at first. ``parts`` programs of ``span`` items make a selection.
    """
    KEY: tl.constexpr = tl.int32 if DTYPE == tl.float32 else tl.int64
    UNSIGNED: tl.constexpr = tl.uint32 if DTYPE == tl.float32 else tl.uint64
    SIDES: tl.constexpr = 1 if grad is None else 2
    pid = tl.program_id(0).to(tl.int64)
    part = pid % parts
    selection = pid // parts
    draw = draw_of_selection(selection // SIDES, first, width, count)
    row = draw % count
    of_selection = counts + selection * (passes * BINS + FACTS)
    state = states + (selection * passes + index) * STATE
    if index == 0:
        if row_k is None:
            size = row * 0 + k
        else:
            size = tl.load(row_k + row)
        need = tl.maximum(size, 0)
        # Nothing reaches the largest key, which is that of a NaN.
        threshold = least_key(KEY) ^ tl.where(need > 0, 0, -1).to(KEY)
        reverse = row * 0
    else:
        before = of_selection + (index - 1) * BINS
        threshold, reverse, need = _narrow(state - STATE, before, index - 1, passes, KEY)
    if part == 0:
        tl.store(state, threshold.to(tl.int64))
        tl.store(state + 1, reverse)
        tl.store(state + 2, need)

    if grad is None:
        scale = 0.0
    else:
        scale = tl.load(step + row * step_row)
    of_keys, shift = _place_of_digit(index, passes, KEY)
    histogram = tl.zeros([BINS], tl.int32)
    live = tl.zeros([1], tl.int64)
    forced = tl.zeros([1], tl.int64)
    spoilt = tl.zeros([1], tl.int64)
    at = part * span
    end = tl.minimum(at + span, n)
    end = tl.where((index == 0) | (need > 0), end, at)
    while at < end:
        theta, left, right = chunk_of_draw(
            logits,
            grad,
            quantiles,
            seed,
            draw,
            scale,
            at,
            n,
            count,
            grad_sample,
            grad_row,
            grad_item,
            left_alpha,
            left_temperature,
            right_alpha,
            right_temperature,
            SYMMETRIC,
            B,
            DTYPE,
        )
        x = tl.where(selection % SIDES == 0, left, right)
        keys, unfit = perturbed_keys(theta, x)
        if index == 0:
            more_live, more_forced, more_spoilt = kinds_of_items(theta, unfit)
            live += more_live
            forced += more_forced
            spoilt += more_spoilt
        from_end = n - 1 - (at + tl.arange(0, B)[None, :])
        # The threshold's digits that are not known are zeros of the order.
        away = tl.where(of_keys, (keys ^ threshold).to(UNSIGNED), (from_end ^ reverse).to(UNSIGNED))
        away = away >> shift.to(UNSIGNED)
        agrees = (from_end >= 0) & (away < BINS) & (of_keys | (keys == threshold))
        digit = tl.where(agrees, away, 0).to(tl.int32)
        histogram += tl.histogram(tl.reshape(digit, [B]), BINS, mask=tl.reshape(agrees, [B]))
        at += B
    bins = tl.arange(0, BINS)
    into = of_selection + index * BINS + bins
    tl.atomic_add(into, histogram, mask=histogram > 0, sem="relaxed")
    if index == 0:
        facts = of_selection + passes * BINS + tl.arange(0, 1)
        tl.atomic_add(facts, live.to(tl.int32), sem="relaxed")
        tl.atomic_add(facts + 1, forced.to(tl.int32), sem="relaxed")
        tl.atomic_add(facts + 2, spoilt.to(tl.int32), sem="relaxed")


@triton.jit(do_not_specialize=["passes", "k", "first", "width", "count"])
def settle_kernel(
    row_k,
    states,
    counts,
    settled,
    passes,
    k,
    first,
    width,
    count,
    SIDES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """One selection a program, after the last pass: (threshold, index from the end, whether the
    selection is valid) into settled [selections, STATE].
    """
    KEY: tl.constexpr = tl.int32 if DTYPE == tl.float32 else tl.int64
    selection = tl.program_id(0).to(tl.int64)
    row = draw_of_selection(selection // SIDES, first, width, count) % count
    of_selection = counts + selection * (passes * BINS + FACTS)
    last = passes - 1
    state = states + (selection * passes + last) * STATE
    threshold, reverse, _ = _narrow(state, of_selection + last * BINS, last, passes, KEY)
    if row_k is None:
        size = row * 0 + k
    else:
        size = tl.load(row_k + row)
    facts = of_selection + passes * BINS
    live = tl.load(facts).to(tl.int64)
    forced = tl.load(facts + 1).to(tl.int64)
    kind, _ = row_kind(live, forced, tl.load(facts + 2) > 0, size)
    to = settled + selection * STATE
    tl.store(to, threshold.to(tl.int64))
    tl.store(to + 1, reverse)
    tl.store(to + 2, (kind != INVALID).to(tl.int64))
