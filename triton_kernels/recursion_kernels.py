# SPDX-License-Identifier: Apache-2.0
"""Marginals by the tree: from logits to leaves, over the root, and from leaf adjoints to marginals.

The rows are tilted, so that the tree's numbers are probabilities far from underflow (or logarithms
of size a few hundred at most). A row with more chosen than unchosen items counts the unchosen ones:
its tree keeps lower degrees. Rows of any length: a tile [R, C] goes over its rows block by block.
"""

import triton
import triton.language as tl

from .device_math import log1p_unit, rounded_product
from .tilt import (
    ALL,
    INVALID,
    MAX_STEPS,
    NONE,
    ORDINARY,
    load_counts,
    row_kind,
    tilt_first_guess,
    tilt_is_good,
    tilt_step,
)
from .tree_kernels import level_start, log_sum_step

__all__ = [
    "close_kernel",
    "close_vjp_kernel",
    "join_kernel",
    "leaf_tangents_kernel",
    "leaves_kernel",
    "tilt_kernel",
]

# Far below 1: in a wide gap after one item too few or too many, sum q is off by exactly 1 while
# P(S = k) underflows.
TOLERANCE: tl.constexpr = tl.constexpr(0.3)
# Below that a row is certain to working precision, and its covariance 0.
NO_VARIANCE: tl.constexpr = tl.constexpr(1e-30)


@triton.jit
def _block(logits, row, n, count, begin, C: tl.constexpr, DTYPE: tl.constexpr):
    """Items begin .. begin + C - 1 of the rows; -inf beyond the last."""
    item = begin + tl.arange(0, C)
    inside = (row < count)[:, None] & (item < n)[None, :]
    theta = tl.load(logits + row[:, None] * n + item[None, :], mask=inside, other=float("-inf"))
    return theta.to(DTYPE), inside


@triton.jit
def _summary(logits, row, n, count, R: tl.constexpr, C: tl.constexpr, DTYPE: tl.constexpr):
    """(live, forced, has_nan, smallest, largest, mean, variance) of each row, all [R].

    Mean and variance are of the live items, roughly: they are only a first guess for the tilt.
    """
    live = tl.full([R], 0, tl.int32)
    forced = tl.full([R], 0, tl.int32)
    nan = tl.full([R], 0, tl.int32)
    smallest = tl.full([R], float("inf"), DTYPE)
    largest = tl.full([R], float("-inf"), DTYPE)
    begin = tl.cast(0, tl.int32)
    while begin < n:
        theta, _ = _block(logits, row, n, count, begin, C, DTYPE)
        finite = (theta > float("-inf")) & (theta < float("inf"))
        live += tl.sum(finite.to(tl.int32), axis=1)
        forced += tl.sum((theta == float("inf")).to(tl.int32), axis=1)
        nan += tl.sum((theta != theta).to(tl.int32), axis=1)
        smallest = tl.minimum(smallest, tl.min(tl.where(finite, theta, float("inf")), axis=1))
        largest = tl.maximum(largest, tl.max(tl.where(finite, theta, float("-inf")), axis=1))
        begin += C
    top = tl.where(live > 0, largest, 0.0)
    total = tl.full([R], 0.0, tl.float32)
    square = tl.full([R], 0.0, tl.float32)
    begin = tl.cast(0, tl.int32)
    while begin < n:
        theta, _ = _block(logits, row, n, count, begin, C, DTYPE)
        finite = (theta > float("-inf")) & (theta < float("inf"))
        away = tl.where(finite, theta - top[:, None], 0.0).to(tl.float32)
        total += tl.sum(away, axis=1)
        square += tl.sum(rounded_product(away, away), axis=1)
        begin += C
    items = tl.maximum(live, 1).to(tl.float32)
    shift = total / items
    variance = square / items - shift * shift
    variance = tl.where((variance >= 0) & (variance < 1e30), variance, 0.0)
    mean = top + shift.to(DTYPE)
    return live, forced, nan > 0, smallest, largest, mean, variance.to(DTYPE)


@triton.jit
def _tilt(
    logits,
    row,
    n,
    count,
    live,
    forced,
    target,
    ordinary,
    smallest,
    largest,
    mean,
    variance,
    R: tl.constexpr,
    C: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The tilts [R] of the ordinary rows, 0 for others: tilt.find_tilt for rows of any length.

    The tree is exact for any tilt, so the sums are float32 ones for rows of float64 too.
    """
    smallest = tl.where(ordinary, smallest, 0.0)
    largest = tl.where(ordinary, largest, 0.0)
    target = tl.where(ordinary, target, 1)
    live = tl.where(ordinary, live, 2)
    value, lower, upper, logit = tilt_first_guess(live, target, smallest, largest, mean, variance)
    value = tl.where(ordinary, value, 0.0)
    s = value
    searching = ordinary
    step = 0
    while (tl.max(searching.to(tl.int32), axis=0) > 0) & (step < MAX_STEPS):
        s = tl.where(searching, value, s)
        excess = tl.full([R], 0.0, tl.float32)
        spread = tl.full([R], 0.0, tl.float32)
        above = tl.full([R], 0, tl.int32)
        begin = tl.cast(0, tl.int32)
        while begin < n:
            theta, _ = _block(logits, row, n, count, begin, C, DTYPE)
            q, p, _, is_above = _item((theta + s[:, None]).to(tl.float32))
            # sum q = (number of items with q > 1/2) + excess
            excess += tl.sum(tl.where(is_above, 0.0 - p, q), axis=1)
            spread += tl.sum(rounded_product(q, p), axis=1)
            above += tl.sum(is_above.to(tl.int32), axis=1)
            begin += C
        off = excess.to(DTYPE) + (above - forced - target).to(DTYPE)
        spread = spread.to(DTYPE)
        searching = searching & (tilt_is_good(off, spread, TOLERANCE) == 0)
        value, lower, upper = tilt_step(value, lower, upper, off, spread, target, live, logit)
        searching = searching & (value != s)
        step += 1
    return s


@triton.jit
def _item(x):
    """(q, p, e^-|x|, q > 1/2) of items with tilted logits x. Neither q nor p is 1 - the other."""
    above = x > 0
    e = tl.exp(tl.where(above, 0.0 - x, x))
    near = 1.0 / (1.0 + e)
    far = e * near
    return tl.where(above, near, far), tl.where(above, far, near), e, above


@triton.jit(do_not_specialize=["k", "n", "count"])
def tilt_kernel(
    logits,
    row_k,
    tilt_of,
    kind_of,
    target_of,
    k,
    n,
    count,
    R: tl.constexpr,
    C: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Of each row: the tilt, the kind, and how many items its tree counts."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    live, forced, has_nan, smallest, largest, mean, variance = _summary(
        logits, row, n, count, R, C, DTYPE
    )
    rows_k = load_counts(row_k, k, row, count)
    kind, chosen = row_kind(live, forced, has_nan, rows_k)
    ordinary = kind == ORDINARY
    s = _tilt(
        logits,
        row,
        n,
        count,
        live,
        forced,
        chosen,
        ordinary,
        smallest,
        largest,
        mean,
        variance,
        R,
        C,
        DTYPE,
    )
    target = tl.where(ordinary, tl.minimum(rows_k, n - rows_k), 0).to(tl.int32)
    real = row < count
    tl.store(tilt_of + row, s, mask=real)
    tl.store(kind_of + row, kind, mask=real)
    tl.store(target_of + row, target, mask=real)


@triton.jit(do_not_specialize=["k", "n", "count", "size"])
def leaves_kernel(
    logits,
    row_k,
    tilt_of,
    kind_of,
    values,
    outside_of,
    k,
    n,
    count,
    size,
    LOG: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Leaves of the trees, and log Z of each row without log P(S = k)."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    real = row < count
    rows_k = load_counts(row_k, k, row, count)
    s = tl.load(tilt_of + row, mask=real, other=0.0)
    flipped = (2 * rows_k > n)[:, None]
    theta_above = tl.full([R], 0.0, tl.float64)
    theta_all = tl.full([R], 0.0, tl.float64)
    log_rest = tl.full([R], 0.0, tl.float64)
    above = tl.full([R], 0, tl.int32)
    begin = tl.cast(0, tl.int32)
    while begin < n:
        theta, inside = _block(logits, row, n, count, begin, C, DTYPE)
        x = theta + s[:, None]
        q, p, e, is_above = _item(x)
        finite = (theta > float("-inf")) & (theta < float("inf"))
        score = tl.where(finite, theta, 0.0).to(tl.float64)
        rest = log1p_unit(e)
        theta_all += tl.sum(score, axis=1)
        theta_above += tl.sum(tl.where(is_above, score, 0.0), axis=1)
        log_rest += tl.sum(rest, axis=1).to(tl.float64)
        above += tl.sum(is_above.to(tl.int32), axis=1)
        if LOG:
            present = tl.where(is_above, 0.0, x) - rest
            absent = tl.where(is_above, 0.0 - x, 0.0) - rest
        else:
            present = q
            absent = p
        leaf = row[:, None] * size + 2 * (begin + tl.arange(0, C))[None, :]
        tl.store(values + leaf, tl.where(flipped, present, absent), mask=inside)
        tl.store(values + leaf + 1, tl.where(flipped, absent, present), mask=inside)
        begin += C
    shift = (tl.cast(above, tl.int64) - rows_k).to(tl.float64) * s.to(tl.float64)
    kind = tl.load(kind_of + row, mask=real, other=NONE)
    outside = tl.where(kind == ORDINARY, theta_above + shift + log_rest, 0.0)
    tl.store(outside_of + row, tl.where(kind == ALL, theta_all, outside), mask=real)


@triton.jit(do_not_specialize=["k", "n", "count", "size"])
def leaf_tangents_kernel(
    logits,
    row_k,
    tilt_of,
    grad,
    tangents,
    k,
    n,
    count,
    size,
    R: tl.constexpr,
    C: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Derivatives of the linear leaves in the direction of ``grad`` (absent: 0).

    The covariance annihilates what is the same for all items: sum q p g / V is subtracted first.
    """
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    s = tl.load(tilt_of + row, mask=row < count, other=0.0)
    sign = tl.where(2 * load_counts(row_k, k, row, count) > n, -1.0, 1.0).to(DTYPE)
    centre = tl.full([R], 0.0, DTYPE)
    if grad is not None:
        total = tl.full([R], 0.0, tl.float64)
        variance = tl.full([R], 0.0, tl.float64)
        begin = tl.cast(0, tl.int32)
        while begin < n:
            theta, inside = _block(logits, row, n, count, begin, C, DTYPE)
            q, p, _, _ = _item(theta + s[:, None])
            at = row[:, None] * n + (begin + tl.arange(0, C))[None, :]
            direction = tl.load(grad + at, mask=inside, other=0.0).to(DTYPE)
            total += tl.sum(q * p * direction, axis=1).to(tl.float64)
            variance += tl.sum(q * p, axis=1).to(tl.float64)
            begin += C
        varies = variance > NO_VARIANCE
        centre = (total / tl.where(varies, variance, 1.0)).to(DTYPE)
        sign = tl.where(varies, sign, 0.0)
    begin = tl.cast(0, tl.int32)
    while begin < n:
        theta, inside = _block(logits, row, n, count, begin, C, DTYPE)
        item = begin + tl.arange(0, C)
        change = tl.full([R, C], 0.0, DTYPE)
        if grad is not None:
            q, p, _, _ = _item(theta + s[:, None])
            at = row[:, None] * n + item[None, :]
            direction = tl.load(grad + at, mask=inside, other=0.0).to(DTYPE)
            change = sign[:, None] * q * p * (direction - centre[:, None])
        leaf = row[:, None] * size + 2 * item[None, :]
        tl.store(tangents + leaf, 0.0 - change, mask=inside)
        tl.store(tangents + leaf + 1, change, mask=inside)
        begin += C


@triton.jit(do_not_specialize=["n", "most", "top", "size", "count"])
def join_kernel(
    values,
    tangents,
    adjoints,
    adjoint_tangents,
    target_of,
    probability_of,
    n,
    most,
    top,
    size,
    count,
    LOG: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The root's coefficient at each row's target, and the adjoints of the root's two children.

    Only that coefficient is wanted, so the root is neither formed nor stored. Log algebra: the
    adjoints are of log P(S = target), so posterior probabilities; linear: of P(S = target).
    """
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    real = row < count
    offset, nodes, stride = level_start(top - 1, n, most)
    alone = nodes < 2
    target = tl.load(target_of + row, mask=real, other=0)
    left = row * size + offset
    largest = tl.full([R], float("-inf"), DTYPE)
    total = tl.full([R], 0.0, DTYPE)
    begin = tl.cast(0, tl.int32)
    while begin < stride:
        _, of_left, of_right, _ = _split(
            values, left, target, real, alone, begin, stride, LOG, True, C
        )
        if LOG:
            largest, rescale, terms = log_sum_step(largest, of_left + of_right, 1)
            total = total * rescale + tl.sum(terms, axis=1)
        else:
            total += tl.sum(of_left * of_right, axis=1)
        begin += C
    if LOG:
        total = tl.log(tl.where(largest == float("-inf"), 1.0, total)) + largest
        possible = total > float("-inf")
    tl.store(probability_of + row, total, mask=real)

    begin = tl.cast(0, tl.int32)
    while begin < stride:
        for side in tl.static_range(2):
            a, itself, other, there = _split(
                values, left, target, real, alone, begin, stride, LOG, side == 0, C
            )
            to = left[:, None] + side * stride + a
            written = real[:, None] & (a < stride) & ((side == 0) | (alone == 0))
            if LOG:
                exponent = itself + other - tl.where(possible, total, 0.0)[:, None]
                tl.store(adjoints + to, tl.exp(exponent), mask=written)
            else:
                tl.store(adjoints + to, other, mask=written)
            if adjoint_tangents is not None:
                d_at = left[:, None] + (1 - side) * stride + target[:, None] - a
                paired = there & (alone == 0)
                d_other = tl.load(tangents + d_at, mask=paired, other=0.0)
                tl.store(adjoint_tangents + to, d_other, mask=written)
        begin += C


@triton.jit
def _split(
    values,
    left,
    target,
    real,
    alone,
    begin,
    stride,
    LOG: tl.constexpr,
    FROM_LEFT: tl.constexpr,
    C: tl.constexpr,
):
    """(a [1, C], one child's coefficient a, the other's coefficient target - a, which exist)."""
    ZERO: tl.constexpr = float("-inf") if LOG else 0.0
    ONE: tl.constexpr = 0.0 if LOG else 1.0
    a = (begin + tl.arange(0, C))[None, :]
    b = target[:, None] - a
    there = real[:, None] & (a < stride) & (b >= 0) & (b < stride)
    right = left[:, None] + stride
    if FROM_LEFT:
        itself = tl.load(values + left[:, None] + a, mask=there, other=ZERO)
        other = tl.load(values + right + b, mask=there & (alone == 0), other=ZERO)
        other = tl.where(alone & (b == 0), ONE, other)
    else:
        itself = tl.load(values + right + a, mask=there & (alone == 0), other=ZERO)
        other = tl.load(values + left[:, None] + b, mask=there, other=ZERO)
    return a, itself, other, there


@triton.jit
def _settled(theta, kind):
    """Marginals of the rows whose subset is certain, and NaN in invalid rows."""
    taken = ((kind == NONE) & (theta == float("inf"))) | ((kind == ALL) & (theta > float("-inf")))
    known = (kind == NONE) | (kind == ALL)
    return tl.where(known, tl.where(taken, 1.0, 0.0), float("nan"))


@triton.jit(do_not_specialize=["k", "n", "count", "size"])
def close_kernel(
    logits,
    row_k,
    values,
    adjoints,
    kind_of,
    outside_of,
    probability_of,
    marginals,
    log_partition,
    k,
    n,
    count,
    size,
    LOG: tl.constexpr,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Marginals and log-partition from the leaves' adjoints, for B (row, item) pairs."""
    index = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    row = index // n
    item = index - row * n
    inside = row < count
    theta = tl.load(logits + index, mask=inside, other=0.0).to(DTYPE)
    kind = tl.load(kind_of + row, mask=inside, other=0)
    flipped = 2 * load_counts(row_k, k, row, count) > n
    leaf = row * size + 2 * item
    uncounted = tl.load(adjoints + leaf, mask=inside, other=1.0)
    counted = tl.load(adjoints + leaf + 1, mask=inside, other=1.0)
    if LOG == 0:
        uncounted *= tl.load(values + leaf, mask=inside, other=1.0)
        counted *= tl.load(values + leaf + 1, mask=inside, other=1.0)
    chosen = tl.where(flipped, uncounted, counted)
    ordinary = kind == ORDINARY
    total = tl.where(ordinary, uncounted + counted, 1.0)
    mu = tl.where(ordinary, chosen / total, _settled(theta, kind))
    tl.store(marginals + index, mu.to(marginals.dtype.element_ty), mask=inside)

    first = inside & (item == 0)
    probability = tl.load(probability_of + row, mask=first, other=1.0)
    outside = tl.load(outside_of + row, mask=first, other=0.0)
    if LOG == 0:
        probability = tl.log(tl.where(ordinary, probability, 1.0))
    log_z = tl.where(ordinary, outside + probability.to(tl.float64), outside)
    log_z = tl.where(kind == INVALID, float("nan"), log_z)
    log_z = log_z.to(DTYPE).to(log_partition.dtype.element_ty)
    tl.store(log_partition + row, log_z, mask=first)


@triton.jit(do_not_specialize=["k", "n", "count", "size"])
def close_vjp_kernel(
    logits,
    row_k,
    values,
    tangents,
    adjoints,
    adjoint_tangents,
    kind_of,
    scale_of,
    grad_logits,
    k,
    n,
    count,
    size,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The marginals' derivative plus ``scale_of`` (absent: 0) times the marginals; linear algebra.

    The covariance is symmetric, so the derivative along grad is the vector-Jacobian product.
    """
    index = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    row = index // n
    item = index - row * n
    inside = row < count
    theta = tl.load(logits + index, mask=inside, other=0.0).to(DTYPE)
    kind = tl.load(kind_of + row, mask=inside, other=0)
    flipped = 2 * load_counts(row_k, k, row, count) > n
    leaf = row * size + 2 * item
    p = tl.load(values + leaf, mask=inside, other=1.0)
    q = tl.load(values + leaf + 1, mask=inside, other=1.0)
    d_p = tl.load(tangents + leaf, mask=inside, other=0.0)
    d_q = tl.load(tangents + leaf + 1, mask=inside, other=0.0)
    without = tl.load(adjoints + leaf, mask=inside, other=1.0)
    others = tl.load(adjoints + leaf + 1, mask=inside, other=1.0)
    d_without = tl.load(adjoint_tangents + leaf, mask=inside, other=0.0)
    d_others = tl.load(adjoint_tangents + leaf + 1, mask=inside, other=0.0)
    ordinary = kind == ORDINARY
    uncounted = p * without
    counted = q * others
    d_uncounted = p * d_without + d_p * without
    d_counted = q * d_others + d_q * others
    total = tl.where(ordinary, uncounted + counted, 1.0)
    mu = tl.where(flipped, uncounted, counted) / total
    d_chosen = tl.where(flipped, d_uncounted, d_counted)
    d_mu = (d_chosen - mu * (d_uncounted + d_counted)) / total
    mu = tl.where(ordinary, mu, _settled(theta, kind))
    grad = tl.where(ordinary, d_mu, mu * 0.0)
    if scale_of is not None:
        scale = tl.load(scale_of + row, mask=inside, other=0.0).to(DTYPE)
        grad += scale * mu
    # Forced items are constants; the row's NaN stays.
    grad = tl.where((theta == float("inf")) & (mu == mu), 0.0, grad)
    tl.store(grad_logits + index, grad.to(grad_logits.dtype.element_ty), mask=inside)
