# SPDX-License-Identifier: Apache-2.0
"""The third cumulant of a k-subset contracted with two vectors, in double, one program per row.

It serves second derivatives. As in csrc/cpu/simd/third_cumulant.h: the law of total cumulance over
the nodes of the contour (docs/mathematics.md, "The third cumulant").
"""

import triton
import triton.language as tl

from .contour_kernels import NO_VARIANCE
from .device_math import complex_product, is_negative
from .split_kernels import load_node, restore
from .split_tilt_kernels import load_block, tails_of

__all__ = ["third_cumulant_kernel"]

SUMS: tl.constexpr = tl.constexpr(6)  # numbers kept per node


@triton.jit
def probabilities(tails):
    """(q, p) of signed tails, each with its relative accuracy."""
    above = is_negative(tails)
    w = tl.abs(tails)
    return tl.where(above, 1.0 - w, w), tl.where(above, w, 1.0 - w)


@triton.jit
def load_items(logits, a, b, row, n, offset, tilt, BLOCK: tl.constexpr):
    """(q, p, a, b, mask, positions) of a block of items; a and b are 0 where one is certain."""
    theta, inside, where = load_block(logits, row, n, offset, n, BLOCK, tl.float64)
    q, p = probabilities(tails_of(theta, tilt))
    first = tl.load(a + where, mask=inside, other=0.0).to(tl.float64)
    second = tl.load(b + where, mask=inside, other=0.0).to(tl.float64)
    random = q * p > 0
    return q, p, tl.where(random, first, 0.0), tl.where(random, second, 0.0), inside, where


@triton.jit
def node_derivatives(q, p, tau):
    """d, e' = e (1 - e) and e'' = e' (1 - 2 e) with e = q + d, as real and imaginary parts."""
    delta = q - p
    factor = 2.0 * q * p / (delta * delta + tau * tau)
    d_re = factor * delta
    d_im = factor * tau
    first_re, first_im = complex_product(q + d_re, d_im, p - d_re, -d_im)
    second_re, second_im = complex_product(first_re, first_im, p - q - 2.0 * d_re, -2.0 * d_im)
    return d_re, d_im, first_re, first_im, second_re, second_im


@triton.jit
def weight_of_origin(saved, last):
    """The weight of t = 0: what the others leave of 1."""
    rest = tl.full([], 1.0, tl.float64)
    m = 1
    while m <= last:
        rest -= tl.load(saved + 2 * m)
        m += 1
    return rest


@triton.jit(do_not_specialize=["n"])
def third_cumulant_kernel(
    logits,
    state,
    a,
    b,
    sums,
    out,
    n,
    BLOCK: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """K(a, b)_i = sum_jl kappa_ijl a_j b_l for one row; ``sums`` [rows, NODES, 6] is scratch."""
    row = tl.program_id(0).to(tl.int64)
    saved = state + row * WIDTH
    record = sums + row * NODES * SUMS
    s, tilt, ordinary, total, last = restore(saved, WIDTH, NODES)

    variance = tl.zeros([BLOCK], tl.float64)
    centre_a = tl.zeros([BLOCK], tl.float64)
    centre_b = tl.zeros([BLOCK], tl.float64)
    product = tl.zeros([BLOCK], tl.float64)
    offset = 0
    while offset < n:
        q, p, u, v, inside, where = load_items(logits, a, b, row, n, offset, tilt, BLOCK)
        variance += q * p
        centre_a += q * p * u
        centre_b += q * p * v
        offset += BLOCK
    # A constant added to a or b changes nothing, since the count is certain: centre both.
    spread = tl.sum(variance, axis=0)
    random = ordinary & (spread > NO_VARIANCE)
    mean_a = tl.where(random, tl.sum(centre_a, axis=0) / spread, 0.0)
    mean_b = tl.where(random, tl.sum(centre_b, axis=0) / spread, 0.0)

    # At t = 0, where d = 0, e' is q p.
    offset = 0
    while offset < n:
        q, p, u, v, inside, where = load_items(logits, a, b, row, n, offset, tilt, BLOCK)
        product += q * p * (u - mean_a) * (v - mean_b)
        offset += BLOCK
    origin_ab = tl.sum(product, axis=0)
    origin = weight_of_origin(saved, last)
    total_a = origin * 0.0
    total_b = origin * 0.0
    total_ab = origin * origin_ab
    m = 1
    while m <= last:
        re, im, tau = load_node(saved, m, total, tl.float64)
        a_re = tl.zeros([BLOCK], tl.float64)
        a_im = tl.zeros([BLOCK], tl.float64)
        b_re = tl.zeros([BLOCK], tl.float64)
        b_im = tl.zeros([BLOCK], tl.float64)
        ab_re = tl.zeros([BLOCK], tl.float64)
        ab_im = tl.zeros([BLOCK], tl.float64)
        offset = 0
        while offset < n:
            q, p, u, v, inside, where = load_items(logits, a, b, row, n, offset, tilt, BLOCK)
            u -= mean_a
            v -= mean_b
            d_re, d_im, first_re, first_im, second_re, second_im = node_derivatives(q, p, tau)
            a_re += u * d_re
            a_im += u * d_im
            b_re += v * d_re
            b_im += v * d_im
            ab_re += u * v * first_re
            ab_im += u * v * first_im
            offset += BLOCK
        sum_a_re = tl.sum(a_re, axis=0)
        sum_a_im = tl.sum(a_im, axis=0)
        sum_b_re = tl.sum(b_re, axis=0)
        sum_b_im = tl.sum(b_im, axis=0)
        sum_ab_re = tl.sum(ab_re, axis=0)
        sum_ab_im = tl.sum(ab_im, axis=0)
        total_a += re * sum_a_re - im * sum_a_im
        total_b += re * sum_b_re - im * sum_b_im
        total_ab += re * sum_ab_re - im * sum_ab_im
        at = record + m * SUMS
        tl.store(at, sum_a_re)
        tl.store(at + 1, sum_a_im)
        tl.store(at + 2, sum_b_re)
        tl.store(at + 3, sum_b_im)
        tl.store(at + 4, sum_ab_re)
        tl.store(at + 5, sum_ab_im)
        m += 1
    tl.debug_barrier()

    offset = 0
    while offset < n:
        q, p, u, v, inside, where = load_items(logits, a, b, row, n, offset, tilt, BLOCK)
        u -= mean_a
        v -= mean_b
        r = q * 0.0
        # The node t = 0: its sums are those above, less the means over all nodes.
        joint = origin * (origin_ab - total_ab + total_a * total_b)
        linear = q * p * (-total_b * u - total_a * v)
        result = origin * (q * p * (p - q) * u * v + linear)
        m = 1
        while m <= last:
            re, im, tau = load_node(saved, m, total, tl.float64)
            d_re, d_im, first_re, first_im, second_re, second_im = node_derivatives(q, p, tau)
            at = record + m * SUMS
            a_re = tl.load(at) - total_a
            a_im = tl.load(at + 1)
            b_re = tl.load(at + 2) - total_b
            b_im = tl.load(at + 3)
            joint_re, joint_im = complex_product(a_re, a_im, b_re, b_im)
            joint_re += tl.load(at + 4) - total_ab
            joint_im += tl.load(at + 5)
            joint_re, joint_im = complex_product(re, im, joint_re, joint_im)
            joint += joint_re
            r += re * d_re - im * d_im
            term_re, term_im = complex_product(
                first_re, first_im, b_re * u + a_re * v, b_im * u + a_im * v
            )
            term_re += second_re * u * v
            term_im += second_im * u * v
            result += re * term_re - im * term_im
            result += joint_re * d_re - joint_im * d_im
            m += 1
        result -= r * joint
        result = tl.where(random & (q * p > 0), result, 0.0)
        result = tl.where(s == s, result, float("nan"))
        tl.store(out + where, result, mask=inside)
        offset += BLOCK
