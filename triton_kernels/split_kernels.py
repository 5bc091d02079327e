# SPDX-License-Identifier: Apache-2.0
"""The contour of rows too long for a tile: every sum over items is made in two stages.

First each part of a row sums its span into ``partial``; then one program per row puts the parts
together, always in the same order. No atomics, so the result does not vary from run to run. What a
row needs between launches is in ``info`` [rows, 16], in double.
"""

import triton
import triton.language as tl

from .contour_kernels import NO_VARIANCE, TOLERANCE, node_is_kept, node_total, node_weight, unpack
from .device_math import complex_product, is_negative, log1p_unit, multiply_minus_1, sin_cos_pi
from .tilt import (
    ALL,
    INVALID,
    MAX_STEPS,
    NONE,
    ORDINARY,
    row_kind,
    tilt_first_guess,
    tilt_is_good,
    tilt_step,
)

__all__ = [
    "split_dots_kernel",
    "split_finish_tilt_kernel",
    "split_gradient_kernel",
    "split_marginals_kernel",
    "split_means_kernel",
    "split_products_kernel",
    "split_start_kernel",
    "split_summary_kernel",
    "split_sums_kernel",
    "split_tilt_step_kernel",
    "split_vjp_weights_kernel",
    "split_weights_kernel",
]

TOGETHER: tl.constexpr = tl.constexpr(32)  # parts of a row that are read at once

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
    pid = tl.program_id(0).to(tl.int64)
    row = pid // P
    start = (pid % P) * span
    end = tl.minimum(start + span, n)
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
    """One step of the search from the sums at info's tilt; returns whether it is over."""
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
    pid = tl.program_id(0).to(tl.int64)
    row = pid // P
    if tl.load(info + row * INFO + DONE) == 0:
        s = tl.load(info + row * INFO + TILT).to(DTYPE)
        start = (pid % P) * span
        end = tl.minimum(start + span, n)
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
        tl.debug_barrier()
        searching = update_tilt(record, excess, variance, above, DTYPE) == 0
        step += 1


@triton.jit(do_not_specialize=["n", "span"])
def split_products_kernel(
    logits,
    info,
    partial,
    n,
    span,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    NODES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Products of the factors at the nodes, by part, and the two sums of log Z.

    A part's record: real parts less 1 [NODES], imaginary parts [NODES], sum of the chosen logits,
    sum of log(1 + e).
    """
    pid = tl.program_id(0).to(tl.int64)
    row = pid // P
    record = info + row * INFO
    kind = tl.load(record + KIND).to(tl.int32)
    ordinary = kind == ORDINARY
    s = tl.load(record + TILT).to(DTYPE)
    variance = tl.load(record + VARIANCE).to(DTYPE)
    total = tl.where(ordinary, node_total(variance, tl.load(record + LIVE).to(tl.int32), DTYPE), 1)
    node = tl.arange(0, NODES)
    product_re = tl.zeros([NODES], DTYPE)
    product_im = tl.zeros([NODES], DTYPE)
    chosen = tl.zeros([BLOCK], tl.float64)
    rest = tl.zeros([BLOCK], DTYPE)
    start = (pid % P) * span
    end = tl.minimum(start + span, n)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        tails = tails_of(theta, s)
        finite = (theta > float("-inf")) & (theta < float("inf"))
        counted = finite & (is_negative(tails) | (kind != ORDINARY))
        chosen += tl.where(counted, theta, 0.0).to(tl.float64)
        w = tl.abs(tails)
        rest += log1p_unit(w / (1.0 - w))
        m = 1
        sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
        while node_is_kept(m, sine, total, variance, DTYPE):
            factor_re = w * (-2.0 * sine * sine)
            factor_im = tails * (2.0 * sine * cosine)
            re, im = tl.reduce((factor_re, factor_im), 0, multiply_minus_1)
            new_re, new_im = multiply_minus_1(product_re, product_im, re, im)
            product_re = tl.where(node == m - 1, new_re, product_re)
            product_im = tl.where(node == m - 1, new_im, product_im)
            m += 1
            sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
        offset += BLOCK
    out = partial + pid * (2 * NODES + 2)
    tl.store(out + node, product_re.to(tl.float64))
    tl.store(out + NODES + node, product_im.to(tl.float64))
    tl.store(out + 2 * NODES, tl.sum(chosen, axis=0))
    tl.store(out + 2 * NODES + 1, tl.sum(rest.to(tl.float64), axis=0))


@triton.jit
def split_weights_kernel(
    info,
    partial,
    log_partition,
    state,
    P: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Node weights, state and log-partition of each row, from the products of its parts."""
    row = tl.program_id(0).to(tl.int64)
    record = info + row * INFO
    kind = tl.load(record + KIND).to(tl.int32)
    ordinary = kind == ORDINARY
    s = tl.load(record + TILT)
    turns = tl.load(record + TURNS).to(tl.int32)
    # As split_products_kernel rounded it, so that both keep the same nodes.
    variance = tl.load(record + VARIANCE).to(DTYPE)
    total = tl.where(ordinary, node_total(variance, tl.load(record + LIVE).to(tl.int32), DTYPE), 1)
    node = tl.arange(0, NODES)
    re = tl.zeros([NODES], tl.float64)
    im = tl.zeros([NODES], tl.float64)
    parts = tl.arange(0, TOGETHER)[:, None]
    first = 0
    while first < P:
        at = partial + (row * P + first + parts) * (2 * NODES + 2) + node[None, :]
        known = first + parts < P
        more_re, more_im = tl.reduce(
            (
                tl.load(at, mask=known, other=0.0),
                tl.load(at + NODES, mask=known, other=0.0),
            ),
            0,
            multiply_minus_1,
        )
        re, im = multiply_minus_1(re, im, more_re, more_im)
        first += TOGETHER
    m = node + 1
    sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
    kept = ordinary & node_is_kept(m, sine, total, variance, DTYPE)
    weight_re, weight_im = node_weight(re, im, turns, m, total, tl.float64)
    weight_re = tl.where(kept, weight_re, 0.0)
    weight_im = tl.where(kept, weight_im, 0.0)
    sum_re = 1.0 + tl.sum(weight_re, axis=0)

    infinity = float("inf")
    valid = kind != INVALID
    tilt = tl.where(kind == NONE, -infinity, tl.where(kind == ALL, infinity, s))
    out = state + row * WIDTH
    tl.store(out, tl.where(valid, tilt, float("nan")))
    tl.store(out + 1, tl.where(valid, total.to(tl.float64), float("nan")))
    inside = 2 + 2 * node + 1 < WIDTH
    tl.store(out + 2 + 2 * node, tl.where(valid, weight_re / sum_re, float("nan")), mask=inside)
    tl.store(out + 3 + 2 * node, tl.where(valid, weight_im / sum_re, float("nan")), mask=inside)
    if log_partition is not None:
        chosen = tl.sum(column(partial, row, P, 2 * NODES, 2 * NODES + 2, P), axis=0)
        rest = tl.sum(column(partial, row, P, 2 * NODES + 1, 2 * NODES + 2, P), axis=0)
        result = chosen + turns.to(tl.float64) * s + rest + tl.log(sum_re / total.to(tl.float64))
        result = tl.where(ordinary, result, tl.where(kind == ALL, chosen, 0.0))
        tl.store(log_partition + row, tl.where(valid, result, float("nan")).to(DTYPE))


@triton.jit
def load_node(state, m, total, DTYPE: tl.constexpr):
    """(Re W, Im W, tau) of node m from a row's state."""
    sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
    return tl.load(state + 2 * m), tl.load(state + 2 * m + 1), cosine / sine


@triton.jit
def last_node(state, ordinary, WIDTH: tl.constexpr, NODES: tl.constexpr):
    """The last node of a row whose weight is not 0."""
    node = tl.arange(0, NODES)
    inside = ordinary & (3 + 2 * node < WIDTH)
    re = tl.load(state + 2 + 2 * node, mask=inside, other=0.0)
    im = tl.load(state + 3 + 2 * node, mask=inside, other=0.0)
    return tl.max(tl.where((re != 0) | (im != 0), node + 1, 0), axis=0)


@triton.jit(do_not_specialize=["n", "span"])
def split_marginals_kernel(
    logits,
    state,
    marginals,
    n,
    span,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Marginals from the node weights, item by item."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // P
    saved = state + row * WIDTH
    s = tl.load(saved)
    ordinary = tl.abs(s) < float("inf")
    total = tl.where(ordinary, tl.load(saved + 1), 1.0).to(tl.int32)
    last = last_node(saved, ordinary, WIDTH, NODES)
    start = (pid % P) * span
    end = tl.minimum(start + span, n)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        tails = tails_of(theta, tl.where(ordinary, s, 0.0))
        q, variances, delta = unpack(tails)
        r = tails * 0.0
        m = 1
        while m <= last:
            re, im, tau = load_node(saved, m, total, DTYPE)
            r += (re * delta - im * tau) / (delta * delta + tau * tau)
            m += 1
        mu = tl.minimum(tl.maximum(q + 2.0 * variances * r, 0.0), 1.0)
        if ordinary == 0:
            included = (theta == float("inf")) | ((theta > float("-inf")) & (s > 0))
            mu = tl.where(s == s, included.to(DTYPE), float("nan"))
        tl.store(marginals + where, mu, mask=inside)
        offset += BLOCK


@triton.jit(do_not_specialize=["n", "span"])
def split_means_kernel(
    logits,
    state,
    grad,
    partial,
    n,
    span,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """sum q p g and V at the tilt, by part."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // P
    s = tl.load(state + row * WIDTH)
    s = tl.where(tl.abs(s) < float("inf"), s, 0.0)
    total = tl.zeros([BLOCK], DTYPE)
    variance = tl.zeros([BLOCK], DTYPE)
    start = (pid % P) * span
    end = tl.minimum(start + span, n)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        w = tl.abs(tails_of(theta, s))
        g = tl.load(grad + where, mask=inside, other=0.0).to(DTYPE)
        total += tl.where(w > 0, w * (1.0 - w) * g, 0.0)
        variance += w * (1.0 - w)
        offset += BLOCK
    tl.store(partial + pid * 2, tl.sum(total.to(tl.float64), axis=0))
    tl.store(partial + pid * 2 + 1, tl.sum(variance.to(tl.float64), axis=0))


@triton.jit
def mean_of_parts(means, row, P: tl.constexpr):
    """(the centre of g, V) of a row."""
    variance = tl.sum(column(means, row, P, 1, 2, P), axis=0)
    total = tl.sum(column(means, row, P, 0, 2, P), axis=0)
    return tl.where(variance > NO_VARIANCE, total / variance, 0.0), variance


@triton.jit(do_not_specialize=["n", "span"])
def split_dots_kernel(
    logits,
    state,
    grad,
    means,
    partial,
    n,
    span,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """D_m = sum (g - centre) d_m, by part: real parts [NODES], imaginary parts [NODES]."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // P
    saved = state + row * WIDTH
    s = tl.load(saved)
    ordinary = tl.abs(s) < float("inf")
    total = tl.where(ordinary, tl.load(saved + 1), 1.0).to(tl.int32)
    last = last_node(saved, ordinary, WIDTH, NODES)
    centre, variance = mean_of_parts(means, row, P)
    node = tl.arange(0, NODES)
    dot_re = tl.zeros([NODES], DTYPE)
    dot_im = tl.zeros([NODES], DTYPE)
    start = (pid % P) * span
    end = tl.minimum(start + span, n)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        q, variances, delta = unpack(tails_of(theta, tl.where(ordinary, s, 0.0)))
        g = tl.load(grad + where, mask=inside, other=0.0).to(DTYPE) - centre.to(DTYPE)
        scaled = tl.where(variances > 0, 2.0 * variances * g, 0.0)
        m = 1
        while m <= last:
            re, im, tau = load_node(saved, m, total, DTYPE)
            share = scaled / (delta * delta + tau * tau)
            dot_re += tl.where(node == m - 1, tl.sum(share * delta, axis=0), 0.0)
            dot_im += tl.where(node == m - 1, tl.sum(share, axis=0) * tau, 0.0)
            m += 1
        offset += BLOCK
    out = partial + pid * 2 * NODES
    tl.store(out + node, dot_re.to(tl.float64))
    tl.store(out + NODES + node, dot_im.to(tl.float64))


@triton.jit
def split_vjp_weights_kernel(
    state,
    means,
    partial,
    weights,
    P: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """A row's record for the last pass: W D [2 NODES], R, the centre, and V."""
    row = tl.program_id(0).to(tl.int64)
    saved = state + row * WIDTH
    node = tl.arange(0, NODES)
    ordinary = tl.abs(tl.load(saved)) < float("inf")
    inside = ordinary & (3 + 2 * node < WIDTH)
    dot_re = tl.zeros([NODES], tl.float64)
    dot_im = tl.zeros([NODES], tl.float64)
    parts = tl.arange(0, TOGETHER)[:, None]
    first = 0
    while first < P:
        at = partial + (row * P + first + parts) * 2 * NODES + node[None, :]
        known = first + parts < P
        dot_re += tl.sum(tl.load(at, mask=known, other=0.0), axis=0)
        dot_im += tl.sum(tl.load(at + NODES, mask=known, other=0.0), axis=0)
        first += TOGETHER
    re = tl.load(saved + 2 + 2 * node, mask=inside, other=0.0).to(tl.float64)
    im = tl.load(saved + 3 + 2 * node, mask=inside, other=0.0).to(tl.float64)
    dot_re, dot_im = complex_product(re, im, dot_re, dot_im)
    centre, variance = mean_of_parts(means, row, P)
    out = weights + row * (2 * NODES + 3)
    tl.store(out + node, dot_re.to(DTYPE))
    tl.store(out + NODES + node, dot_im.to(DTYPE))
    tl.store(out + 2 * NODES, tl.sum(dot_re, axis=0).to(DTYPE))
    tl.store(out + 2 * NODES + 1, centre.to(DTYPE))
    tl.store(out + 2 * NODES + 2, variance.to(DTYPE))


@triton.jit(do_not_specialize=["n", "span"])
def split_gradient_kernel(
    logits,
    state,
    grad_marginals,
    grad_log_partition,
    weights,
    grad_logits,
    n,
    span,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Cov g + c mu, item by item."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // P
    saved = state + row * WIDTH
    s = tl.load(saved)
    ordinary = tl.abs(s) < float("inf")
    total = tl.where(ordinary, tl.load(saved + 1), 1.0).to(tl.int32)
    last = last_node(saved, ordinary, WIDTH, NODES)
    scale = tl.where(ordinary, s, 0.0) * 0.0
    if grad_log_partition is not None:
        scale = tl.load(grad_log_partition + row).to(DTYPE)
    if grad_marginals is not None:
        record = weights + row * (2 * NODES + 3)
        correction = tl.load(record + 2 * NODES)
        centre = tl.load(record + 2 * NODES + 1)
        random = ordinary & (tl.load(record + 2 * NODES + 2) > NO_VARIANCE)
    start = (pid % P) * span
    end = tl.minimum(start + span, n)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        q, variances, delta = unpack(tails_of(theta, tl.where(ordinary, s, 0.0)))
        twice = 2.0 * variances
        r = q * 0.0
        product = q * 0.0
        if grad_marginals is not None:
            g = tl.load(grad_marginals + where, mask=inside, other=0.0).to(DTYPE) - centre
            g = tl.where(variances > 0, g, 0.0)
        m = 1
        while m <= last:
            re, im, tau = load_node(saved, m, total, DTYPE)
            inverse = 1.0 / (delta * delta + tau * tau)
            d_re = twice * delta * inverse
            d_im = twice * tau * inverse
            r += re * d_re - im * d_im
            if grad_marginals is not None:
                dot_re = tl.load(record + m - 1)
                dot_im = tl.load(record + NODES + m - 1)
                product += dot_re * d_re - dot_im * d_im
                square_re, square_im = complex_product(d_re, d_im, d_re, d_im)
                product -= g * (re * square_re - im * square_im)
            m += 1
        mu = q + r
        result = tl.where(theta < float("inf"), mu * scale, 0.0)
        if grad_marginals is not None:
            product += mu * (1.0 - q - r) * g - r * (correction - r * g)
            result += tl.where(random & (variances > 0), product, 0.0)
        if ordinary == 0:
            chosen = (theta > float("-inf")) & (theta < float("inf")) & (s > 0)
            result = tl.where(s == s, tl.where(chosen, scale, 0.0), float("nan"))
        tl.store(grad_logits + where, result, mask=inside)
        offset += BLOCK
