# SPDX-License-Identifier: Apache-2.0
"""Long rows, shared out over several programs: the search of their tilts.

Every sum over items is made in two stages. First each part of a row sums its span into ``partial``;
then one program per row puts the parts together, always in the same order. No atomics, so the
result does not vary from run to run. What a row needs between launches is in ``info`` [rows, 16],
in double.
"""

import triton
import triton.language as tl

from .contour_kernels import TOLERANCE
from .device_math import is_negative
from .tilt import MAX_STEPS, ORDINARY, row_kind, tilt_first_guess, tilt_is_good, tilt_step

__all__ = [
    "INFO",
    "column",
    "load_block",
    "span_of",
    "split_finish_tilt_kernel",
    "split_start_kernel",
    "split_summary_kernel",
    "split_sums_kernel",
    "split_tilt_step_kernel",
    "tails_of",
]

# Columns of info.
INFO: tl.constexpr = tl.constexpr(16)
KIND: tl.constexpr = tl.constexpr(0)
LIVE: tl.constexpr = tl.constexpr(1)
TARGET: tl.constexpr = tl.constexpr(2)  # live items to choose
COUNT: tl.constexpr = tl.constexpr(3)  # k: those and the forced ones
LOWER: tl.constexpr = tl.constexpr(4)
UPPER: tl.constexpr = tl.constexpr(5)
LOGIT: tl.constexpr = tl.constexpr(6)
TILT: tl.constexpr = tl.constexpr(7)  # rounded to the dtype of the items
DONE: tl.constexpr = tl.constexpr(8)
VARIANCE: tl.constexpr = tl.constexpr(9)
TURNS: tl.constexpr = tl.constexpr(10)  # items with q > 1/2, less k


@triton.jit
def span_of(span, n, P: tl.constexpr):
    """(program, row, first item, end) of the part of a row that this program has."""
    pid = tl.program_id(0).to(tl.int64)
    start = (pid % P) * span
    return pid, pid // P, start, tl.minimum(start + span, n)


@triton.jit
def load_block(logits, row, n, offset, end, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """Items offset .. offset + BLOCK of a row, -inf from ``end`` on; (logits, mask, positions)."""
    item = offset + tl.arange(0, BLOCK)
    inside = item < end
    theta = tl.load(logits + row * n + item, mask=inside, other=float("-inf"))
    return theta.to(DTYPE), inside, row * n + item


@triton.jit
def tails_of(theta, s):
    """Signed tails of a block at a scalar tilt; see tilt.tails_at."""
    x = theta + s
    e = tl.exp(tl.where(x > 0, -x, x))
    return (e / (1.0 + e)) * tl.where(x > 0, -1.0, 1.0).to(theta.dtype)


@triton.jit
def column(table, row, parts, at, WIDTH: tl.constexpr, P: tl.constexpr):
    """Entry ``at`` of every part's record: [P]."""
    return tl.load(table + (row * P + tl.arange(0, P)) * WIDTH + at)


@triton.jit(do_not_specialize=["n", "span"])
def split_summary_kernel(
    logits, partial, n, span, P: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr
):
    """What is known of a row before any tilt, by part: counts, extremes, mean and spread."""
    pid, row, start, end = span_of(span, n, P)
    infinity = float("inf")
    origin = tl.load(logits + row * n).to(DTYPE)
    origin = tl.where(tl.abs(origin) < infinity, origin, 0.0)  # the mean is only a first guess
    live = tl.zeros([BLOCK], tl.int32)
    forced = tl.zeros([BLOCK], tl.int32)
    unknown = tl.zeros([BLOCK], tl.int32)
    least = tl.full([BLOCK], infinity, DTYPE)
    most = tl.full([BLOCK], -infinity, DTYPE)
    total = tl.zeros([BLOCK], DTYPE)
    square = tl.zeros([BLOCK], DTYPE)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        finite = (theta > -infinity) & (theta < infinity)
        live += finite.to(tl.int32)
        forced += (theta == infinity).to(tl.int32)
        unknown += (theta != theta).to(tl.int32)
        least = tl.minimum(least, tl.where(finite, theta, infinity))
        most = tl.maximum(most, tl.where(finite, theta, -infinity))
        away = tl.where(finite, theta - origin, 0.0)
        total += away
        square += away * away
        offset += BLOCK
    out = partial + pid * 8
    tl.store(out, tl.sum(live, axis=0).to(tl.float64))
    tl.store(out + 1, tl.sum(forced, axis=0).to(tl.float64))
    tl.store(out + 2, tl.sum(unknown, axis=0).to(tl.float64))
    tl.store(out + 3, tl.min(least, axis=0).to(tl.float64))
    tl.store(out + 4, tl.max(most, axis=0).to(tl.float64))
    tl.store(out + 5, tl.sum(total, axis=0).to(tl.float64))
    tl.store(out + 6, tl.sum(square, axis=0).to(tl.float64))
    tl.store(out + 7, origin.to(tl.float64))


@triton.jit(do_not_specialize=["k"])
def split_start_kernel(row_k, partial, info, k, P: tl.constexpr, DTYPE: tl.constexpr):
    """The kind of each row, and the first guess of its tilt."""
    row = tl.program_id(0).to(tl.int64)
    live = tl.sum(column(partial, row, P, 0, 8, P), axis=0)
    forced = tl.sum(column(partial, row, P, 1, 8, P), axis=0)
    unknown = tl.sum(column(partial, row, P, 2, 8, P), axis=0)
    smallest = tl.min(column(partial, row, P, 3, 8, P), axis=0)
    largest = tl.max(column(partial, row, P, 4, 8, P), axis=0)
    items = tl.maximum(live, 1.0)
    mean = tl.sum(column(partial, row, P, 5, 8, P), axis=0) / items
    spread = tl.sum(column(partial, row, P, 6, 8, P), axis=0) / items - mean * mean
    if row_k is None:
        count = row * 0 + k
    else:
        count = tl.load(row_k + row)
    kind, target = row_kind(live.to(tl.int64), forced.to(tl.int64), unknown > 0, count)
    ordinary = kind == ORDINARY
    value, lower, upper, logit = tilt_first_guess(
        tl.where(ordinary, live, 2.0),
        tl.where(ordinary, target, 1),
        tl.where(ordinary, smallest, 0.0),
        tl.where(ordinary, largest, 0.0),
        mean + tl.load(partial + row * P * 8 + 7),
        tl.maximum(spread, 0.0),
    )
    record = info + row * INFO
    tl.store(record + KIND, kind.to(tl.float64))
    tl.store(record + LIVE, live)
    tl.store(record + TARGET, target.to(tl.float64))
    tl.store(record + COUNT, target.to(tl.float64) + forced)
    tl.store(record + LOWER, lower)
    tl.store(record + UPPER, upper)
    tl.store(record + LOGIT, logit)
    tl.store(record + TILT, tl.where(ordinary, value, 0.0).to(DTYPE).to(tl.float64))
    tl.store(record + DONE, tl.where(ordinary, 0.0, 1.0))
    tl.store(record + VARIANCE, 0.0)
    tl.store(record + TURNS, 0.0)


@triton.jit
def sum_span(logits, row, n, s, start, end, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """(excess, V, items with q > 1/2) of a span at the tilt s, as in tilt.sums_at, in double."""
    excess = tl.zeros([BLOCK], DTYPE)
    variance = tl.zeros([BLOCK], DTYPE)
    above = tl.zeros([BLOCK], tl.int32)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        tails = tails_of(theta, s)
        w = tl.abs(tails)
        excess += tails
        variance += w * (1.0 - w)
        above += is_negative(tails).to(tl.int32)
        offset += BLOCK
    return (
        tl.sum(excess.to(tl.float64), axis=0),
        tl.sum(variance.to(tl.float64), axis=0),
        tl.sum(above, axis=0).to(tl.float64),
    )


@triton.jit
def update_tilt(record, excess, variance, above, DTYPE: tl.constexpr):
    """One step of the search from the sums at info's tilt; returns whether it is over.

    One thread writes what all have read.
    """
    count = tl.load(record + COUNT)
    target = tl.load(record + TARGET)
    value = tl.load(record + TILT)
    turns = above - count
    missing = excess + turns
    step, lower, upper = tilt_step(
        value,
        tl.load(record + LOWER),
        tl.load(record + UPPER),
        missing,
        variance,
        target,
        tl.load(record + LIVE),
        tl.load(record + LOGIT),
    )
    rounded = step.to(DTYPE).to(tl.float64)
    over = tilt_is_good(missing, variance, TOLERANCE) | (rounded == value)
    tl.debug_barrier()
    tl.store(record + LOWER, lower)
    tl.store(record + UPPER, upper)
    tl.store(record + TILT, tl.where(over, value, rounded))
    tl.store(record + VARIANCE, variance)
    tl.store(record + TURNS, turns)
    tl.store(record + DONE, tl.where(over, 1.0, 0.0))
    return over


@triton.jit(do_not_specialize=["n", "span"])
def split_sums_kernel(
    logits, info, partial, n, span, P: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr
):
    """Sums at the present tilt, by part; nothing where the search of the row is over."""
    pid, row, start, end = span_of(span, n, P)
    if tl.load(info + row * INFO + DONE) == 0:
        s = tl.load(info + row * INFO + TILT).to(DTYPE)
        excess, variance, above = sum_span(logits, row, n, s, start, end, BLOCK, DTYPE)
        tl.store(partial + pid * 8, excess)
        tl.store(partial + pid * 8 + 1, variance)
        tl.store(partial + pid * 8 + 2, above)


@triton.jit
def split_tilt_step_kernel(info, partial, P: tl.constexpr, DTYPE: tl.constexpr):
    """One step of the search of each row that goes on."""
    row = tl.program_id(0).to(tl.int64)
    record = info + row * INFO
    if tl.load(record + DONE) == 0:
        update_tilt(
            record,
            tl.sum(column(partial, row, P, 0, 8, P), axis=0),
            tl.sum(column(partial, row, P, 1, 8, P), axis=0),
            tl.sum(column(partial, row, P, 2, 8, P), axis=0),
            DTYPE,
        )


@triton.jit(do_not_specialize=["n"])
def split_finish_tilt_kernel(logits, info, n, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """The rest of the search, one program per row: for the rare rows that the passes left."""
    row = tl.program_id(0).to(tl.int64)
    record = info + row * INFO
    searching = tl.load(record + DONE) == 0
    step = 0
    while searching & (step < MAX_STEPS):
        tl.debug_barrier()  # what the last step wrote is there
        s = tl.load(record + TILT).to(DTYPE)
        excess, variance, above = sum_span(logits, row, n, s, 0, n, BLOCK, DTYPE)
        searching = update_tilt(record, excess, variance, above, DTYPE) == 0
        step += 1
