# SPDX-License-Identifier: Apache-2.0
"""Long rows, shared out over several programs: node products, weights, marginals.

Sums are made in two stages, as in split_tilt_kernels.py.
"""

import triton
import triton.language as tl

from .contour_kernels import node_is_kept, node_total, node_weight, unpack
from .device_math import is_negative, log1p_unit, multiply_minus_1, sin_cos_pi
from .split_tilt_kernels import (
    INFO,
    KIND,
    LIVE,
    TILT,
    TURNS,
    VARIANCE,
    column,
    load_block,
    span_of,
    tails_of,
)
from .tilt import ALL, INVALID, NONE, ORDINARY

__all__ = [
    "TOGETHER",
    "load_node",
    "restore",
    "split_marginals_kernel",
    "split_products_kernel",
    "split_weights_kernel",
]

TOGETHER: tl.constexpr = tl.constexpr(32)  # parts of a row that are read at once


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
    pid, row, start, end = span_of(span, n, P)
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


@triton.jit
def restore(saved, WIDTH: tl.constexpr, NODES: tl.constexpr):
    """(s, s or 0, whether there is anything to integrate, M, the last node) from a row's state."""
    s = tl.load(saved)
    ordinary = tl.abs(s) < float("inf")
    total = tl.where(ordinary, tl.load(saved + 1), 1.0).to(tl.int32)
    last = last_node(saved, ordinary, WIDTH, NODES)
    return s, tl.where(ordinary, s, 0.0), ordinary, total, last


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
    pid, row, start, end = span_of(span, n, P)
    saved = state + row * WIDTH
    s, tilt, ordinary, total, last = restore(saved, WIDTH, NODES)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        tails = tails_of(theta, tilt)
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
