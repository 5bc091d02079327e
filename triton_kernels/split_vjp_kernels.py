# SPDX-License-Identifier: Apache-2.0
"""Long rows, shared out over several programs: the vector-Jacobian product.

Sums are made in two stages, as in split_tilt_kernels.py.
"""

import triton
import triton.language as tl

from .contour_kernels import NO_VARIANCE, unpack
from .device_math import complex_product
from .split_kernels import TOGETHER, load_node, restore
from .split_tilt_kernels import column, load_block, span_of, tails_of

__all__ = [
    "split_dots_kernel",
    "split_gradient_kernel",
    "split_means_kernel",
    "split_vjp_weights_kernel",
]


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
    pid, row, start, end = span_of(span, n, P)
    s = tl.load(state + row * WIDTH)
    s = tl.where(tl.abs(s) < float("inf"), s, 0.0)
    total = tl.zeros([BLOCK], DTYPE)
    variance = tl.zeros([BLOCK], DTYPE)
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
    pid, row, start, end = span_of(span, n, P)
    saved = state + row * WIDTH
    s, tilt, ordinary, total, last = restore(saved, WIDTH, NODES)
    centre, variance = mean_of_parts(means, row, P)
    node = tl.arange(0, NODES)
    dot_re = tl.zeros([NODES], DTYPE)
    dot_im = tl.zeros([NODES], DTYPE)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        q, variances, delta = unpack(tails_of(theta, tilt))
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
    pid, row, start, end = span_of(span, n, P)
    saved = state + row * WIDTH
    s, tilt, ordinary, total, last = restore(saved, WIDTH, NODES)
    scale = tilt * 0.0
    if grad_log_partition is not None:
        scale = tl.load(grad_log_partition + row).to(DTYPE)
    if grad_marginals is not None:
        record = weights + row * (2 * NODES + 3)
        correction = tl.load(record + 2 * NODES)
        centre = tl.load(record + 2 * NODES + 1)
        random = ordinary & (tl.load(record + 2 * NODES + 2) > NO_VARIANCE)
    offset = start
    while offset < end:
        theta, inside, where = load_block(logits, row, n, offset, end, BLOCK, DTYPE)
        q, variances, delta = unpack(tails_of(theta, tilt))
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
