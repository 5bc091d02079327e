# SPDX-License-Identifier: Apache-2.0
"""The contour of rows that fit a tile: one launch for the marginals, one for their VJP.

docs/mathematics.md has the formulas. The nodes are gone through by a run-time loop, which ends
where the rule of each row ends, and what belongs to a node is in a small tile [R, NODES]: unrolled
loops, or a third axis for the nodes, would spill.
"""

import triton
import triton.language as tl

from .device_math import complex_product, is_negative, log1p_unit, multiply_minus_1, sin_cos_pi
from .tilt import (
    ALL,
    INVALID,
    NONE,
    ORDINARY,
    find_tilt,
    load_counts,
    load_tile,
    row_kind,
    sums_at,
    tails_at,
)

__all__ = ["contour_forward_kernel", "contour_vjp_kernel"]

TOLERANCE: tl.constexpr = tl.constexpr(0.3)  # of the tilt, in units of max(1, sqrt V)
NO_VARIANCE: tl.constexpr = tl.constexpr(1e-30)  # below, the covariance is 0


@triton.jit
def node_total(variance, live, DTYPE: tl.constexpr):
    """M of each row: the odd number from V, at most the first odd number above the live items."""
    SLOPE: tl.constexpr = 6.0 if DTYPE == tl.float32 else 8.0
    OFFSET: tl.constexpr = 4.0 if DTYPE == tl.float32 else 9.0
    wanted = tl.ceil(SLOPE * tl.sqrt(variance) + OFFSET).to(tl.int32) | 1
    return tl.minimum(wanted, (live + 1) | 1)


@triton.jit
def node_is_kept(m, sine, total, variance, DTYPE: tl.constexpr):
    """Whether node m, with ``sine`` = sin(t / 2), is within the truncation of the rule."""
    EXPONENT: tl.constexpr = 18.0 if DTYPE == tl.float32 else 37.0
    MOST: tl.constexpr = 11 if DTYPE == tl.float32 else 22
    return (2 * m < total) & (m <= MOST) & (2.0 * variance * sine * sine <= EXPONENT)


@triton.jit
def node_weight(re, im, turns, m, total, DTYPE: tl.constexpr):
    """2 (1 + re + i im) e^{i turns t_m}: twice the node's term, for m and -m."""
    remainder = turns % total
    remainder = tl.where(remainder < 0, remainder + total, remainder)
    sine, cosine = sin_cos_pi(remainder * m % total, total, DTYPE)
    term_re, term_im = complex_product(1.0 + re, im, 1.0 - 2.0 * sine * sine, 2.0 * sine * cosine)
    return 2.0 * term_re, 2.0 * term_im


@triton.jit
def unpack(tails):
    """(q, q p, q - p) of signed tails."""
    above = is_negative(tails)
    w = tl.abs(tails)
    rest = 1.0 - w
    spread = rest - w
    return tl.where(above, rest, w), w * rest, tl.where(above, spread, w - rest)


@triton.jit
def pick(values, m):
    """Column m - 1 of a tile [R, NODES]: what belongs to node m, [R]."""
    node = tl.arange(0, values.shape[1])[None, :] + 1
    return tl.sum(tl.where(node == m, values, 0.0), axis=1)


@triton.jit
def put(values, m, value):
    """The tile [R, NODES] with ``value`` [R] for node m."""
    node = tl.arange(0, values.shape[1])[None, :] + 1
    return tl.where(node == m, value[:, None], values)


@triton.jit
def solve_tile(theta, k, R: tl.constexpr, NODES: tl.constexpr, DTYPE: tl.constexpr):
    """Tilts and node weights of a tile.

    Returns (kind, s, tails, V, items with q > 1/2 less k, M, P(S = k), Re W, Im W): by row, but for
    the tails [R, N] and the weights [R, NODES], which are 0 beyond the last node kept.
    """
    infinity = float("inf")
    live = tl.sum(((theta > -infinity) & (theta < infinity)).to(tl.int32), axis=1)
    forced = tl.sum((theta == infinity).to(tl.int32), axis=1)
    has_nan = tl.sum((theta != theta).to(tl.int32), axis=1) > 0
    kind, target = row_kind(live, forced, has_nan, k)
    ordinary = kind == ORDINARY
    s = find_tilt(theta, live, forced, target, ordinary, TOLERANCE, False)
    tails = tails_at(theta, s)
    excess, variance, above = sums_at(tails)
    turns = above - forced - target
    total = tl.where(ordinary, node_total(variance, live, DTYPE), 1)

    weights_re = tl.zeros([R, NODES], DTYPE)
    weights_im = tl.zeros([R, NODES], DTYPE)
    m = 1
    kept = ordinary
    while tl.max(kept.to(tl.int32), axis=0) > 0:
        sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
        kept = kept & node_is_kept(m, sine, total, variance, DTYPE)
        factor_re = tl.abs(tails) * (-2.0 * sine * sine)[:, None]
        factor_im = tails * (2.0 * sine * cosine)[:, None]
        re, im = tl.reduce((factor_re, factor_im), 1, multiply_minus_1)
        re, im = node_weight(re, im, turns, m, total, DTYPE)
        weights_re = put(weights_re, m, tl.where(kept, re, 0.0))
        weights_im = put(weights_im, m, tl.where(kept, im, 0.0))
        m += 1
    whole = 1.0 + tl.sum(weights_re, axis=1)
    weights_re = weights_re / whole[:, None]
    weights_im = weights_im / whole[:, None]
    return kind, s, tails, variance, turns, total, whole, weights_re, weights_im


@triton.jit
def node_slots(state, row, count, WIDTH: tl.constexpr, NODES: tl.constexpr):
    """Pointers [R, NODES] to the real parts of the weights in the state, and their mask."""
    node = tl.arange(0, NODES)[None, :]
    inside = (row < count)[:, None] & (2 * node + 3 < WIDTH)
    return state + row[:, None] * WIDTH + 2 + 2 * node, inside


@triton.jit
def write_state(kind, s, total, re, im, row, count, state, WIDTH: tl.constexpr):
    """s, M and the weights; s is infinite where the subset is certain, all is NaN where invalid."""
    infinity = float("inf")
    invalid = kind == INVALID
    tilt = tl.where(kind == NONE, -infinity, tl.where(kind == ALL, infinity, s))
    tilt = tl.where(invalid, float("nan"), tilt)
    within = row < count
    tl.store(state + row * WIDTH, tilt, mask=within)
    nodes = tl.where(invalid, float("nan"), total.to(s.dtype))
    tl.store(state + row * WIDTH + 1, nodes, mask=within)
    slot, inside = node_slots(state, row, count, WIDTH, re.shape[1])
    tl.store(slot, tl.where(invalid[:, None], float("nan"), re), mask=inside)
    tl.store(slot + 1, tl.where(invalid[:, None], float("nan"), im), mask=inside)


@triton.jit(do_not_specialize=["k", "n", "count"])
def contour_forward_kernel(
    logits,
    row_k,
    marginals,
    log_partition,
    state,
    k,
    n,
    count,
    R: tl.constexpr,
    N: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Marginals (left out where None), log-partition (likewise) and state of R rows a program."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    theta = load_tile(logits, row, n, count, N, DTYPE)
    kind, s, tails, variance, turns, total, whole, weights_re, weights_im = solve_tile(
        theta, load_counts(row_k, k, row, count), R, NODES, DTYPE
    )
    write_state(kind, s, total, weights_re, weights_im, row, count, state, WIDTH)

    # Read again, from a cache, rather than kept in registers through the search and the nodes.
    tl.debug_barrier()
    theta = load_tile(logits, row, n, count, N, DTYPE)
    if log_partition is not None:
        finite = (theta > float("-inf")) & (theta < float("inf"))
        counted = finite & (is_negative(tails) | (kind != ORDINARY)[:, None])
        # In double: logits of both signs may cancel in it.
        chosen = tl.sum(tl.where(counted, theta, 0.0).to(tl.float64), axis=1)
        w = tl.abs(tails)
        rest = tl.sum(log1p_unit(w / (1.0 - w)), axis=1)
        inside = chosen + turns.to(tl.float64) * s.to(tl.float64)
        inside += (rest + tl.log(whole / total.to(DTYPE))).to(tl.float64)
        result = tl.where(kind == ORDINARY, inside, tl.where(kind == ALL, chosen, 0.0))
        result = tl.where(kind == INVALID, float("nan"), result)
        tl.store(log_partition + row, result.to(DTYPE), mask=row < count)

    if marginals is not None:
        q, variances, delta = unpack(tails)
        r = tails * 0.0
        m = 1
        kept = kind == ORDINARY
        while tl.max(kept.to(tl.int32), axis=0) > 0:
            sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
            kept = kept & node_is_kept(m, sine, total, variance, DTYPE)
            tau = cosine / tl.where(kept, sine, 1.0)
            re = pick(weights_re, m)
            im_tau = pick(weights_im, m) * tau
            r += (re[:, None] * delta - im_tau[:, None]) / (delta * delta + (tau * tau)[:, None])
            m += 1
        mu = tl.minimum(tl.maximum(q + 2.0 * variances * r, 0.0), 1.0)
        if tl.max((kind != ORDINARY).to(tl.int32), axis=0) > 0:
            mu = tl.where((kind == NONE)[:, None], (theta == float("inf")).to(DTYPE), mu)
            mu = tl.where((kind == ALL)[:, None], (theta > float("-inf")).to(DTYPE), mu)
            mu = tl.where((kind == INVALID)[:, None], float("nan"), mu)
        item = tl.arange(0, N)[None, :]
        tl.store(
            marginals + row[:, None] * n + item,
            mu,
            mask=(row < count)[:, None] & (item < n),
        )


@triton.jit
def certain_gradient(theta, s, scale):
    """scale d log Z / d theta where the subset is certain (or, s = NaN, the row invalid)."""
    live = (theta > float("-inf")) & (theta < float("inf"))
    chosen = live & (s == float("inf"))[:, None]
    gradient = tl.where(chosen, scale[:, None], 0.0)
    return tl.where((s != s)[:, None], float("nan"), gradient)


@triton.jit(do_not_specialize=["k", "n", "count"])
def contour_vjp_kernel(
    logits,
    row_k,
    state,
    grad_marginals,
    grad_log_partition,
    grad_logits,
    k,
    n,
    count,
    R: tl.constexpr,
    N: tl.constexpr,
    NODES: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Cov g + c mu of R rows a program, with g or c absent where None.

    Without a state, which is not saved by a sampler, the rows are solved here.
    """
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    within = row < count
    theta = load_tile(logits, row, n, count, N, DTYPE)
    if state is None:
        kind, tilt, tails, variance, turns, total, whole, weights_re, weights_im = solve_tile(
            theta, load_counts(row_k, k, row, count), R, NODES, DTYPE
        )
        ordinary = kind == ORDINARY
        s = tl.where(kind == ALL, float("inf"), tl.where(kind == NONE, float("-inf"), tilt))
        s = tl.where(kind == INVALID, float("nan"), s)
    else:
        s = tl.load(state + row * WIDTH, mask=within, other=float("-inf"))
        ordinary = tl.abs(s) < float("inf")
        total = tl.load(state + row * WIDTH + 1, mask=within & ordinary, other=1.0).to(tl.int32)
        slot, inside = node_slots(state, row, count, WIDTH, NODES)
        inside = inside & ordinary[:, None]
        weights_re = tl.load(slot, mask=inside, other=0.0)
        weights_im = tl.load(slot + 1, mask=inside, other=0.0)
        tails = tails_at(theta, tl.where(ordinary, s, 0.0))
        excess, variance, above = sums_at(tails)
    q, variances, delta = unpack(tails)
    random = within & ordinary & (variance > NO_VARIANCE)

    item = tl.arange(0, N)[None, :]
    inside = within[:, None] & (item < n)
    correction = tl.zeros([R], DTYPE)
    dots_re = tl.zeros([R, NODES], DTYPE)
    dots_im = tl.zeros([R, NODES], DTYPE)
    if grad_marginals is not None:
        g = tl.load(grad_marginals + row[:, None] * n + item, mask=inside, other=0.0).to(DTYPE)
        # A constant added to g changes nothing. An item that is certain has no part in it.
        g = tl.where(variances > 0, g, 0.0)
        mean = tl.sum(variances * g, axis=1) / tl.where(random, variance, 1.0)
        g = g - mean[:, None]
        m = 1
        kept = random
        while tl.max(kept.to(tl.int32), axis=0) > 0:
            sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
            kept = kept & node_is_kept(m, sine, total, variance, DTYPE)
            tau = cosine / tl.where(kept, sine, 1.0)
            share = 2.0 * variances * g / (delta * delta + (tau * tau)[:, None])
            re, im = complex_product(
                pick(weights_re, m),
                pick(weights_im, m),
                tl.sum(share * delta, axis=1),
                tl.sum(share, axis=1) * tau,
            )
            dots_re = put(dots_re, m, tl.where(kept, re, 0.0))
            dots_im = put(dots_im, m, tl.where(kept, im, 0.0))
            m += 1
        correction = tl.sum(dots_re, axis=1)

    r = tails * 0.0
    product = tails * 0.0
    m = 1
    kept = random
    while tl.max(kept.to(tl.int32), axis=0) > 0:
        sine, cosine = sin_cos_pi(tl.minimum(m, total - 1), total, DTYPE)
        kept = kept & node_is_kept(m, sine, total, variance, DTYPE)
        tau = (cosine / tl.where(kept, sine, 1.0))[:, None]
        re = pick(weights_re, m)[:, None]
        im = pick(weights_im, m)[:, None]
        share = 2.0 * variances / (delta * delta + tau * tau)
        d_re = share * delta
        d_im = share * tau
        r += re * d_re - im * d_im
        if grad_marginals is not None:
            square_re, square_im = complex_product(d_re, d_im, d_re, d_im)
            product += pick(dots_re, m)[:, None] * d_re - pick(dots_im, m)[:, None] * d_im
            product -= g * (re * square_re - im * square_im)
        m += 1

    mu = q + r
    result = tails * 0.0
    scale = tl.zeros([R], DTYPE)
    if grad_log_partition is not None:
        scale = tl.load(grad_log_partition + row, mask=within, other=0.0).to(DTYPE)
        result = tl.where(theta < float("inf"), mu * scale[:, None], 0.0)
    if grad_marginals is not None:
        product += mu * (1.0 - q - r) * g - r * (correction[:, None] - r * g)
        result += tl.where(random[:, None] & (variances > 0), product, 0.0)
    if tl.max(((ordinary == 0) & within).to(tl.int32), axis=0) > 0:
        result = tl.where(ordinary[:, None], result, certain_gradient(theta, s, scale))
    tl.store(grad_logits + row[:, None] * n + item, result, mask=inside)
