# SPDX-License-Identifier: Apache-2.0
"""method="linear" for short rows: a whole tile of rows goes through the tree in registers.

With tilted items every coefficient is a probability, so the products need neither exp nor log. A
polynomial is a tuple with one block [rows, nodes] for each coefficient; the nodes of a level are
halved with ``tl.split`` on the way up and put together again with ``tl.join`` on the way down, so
where a thread holds whole rows nothing ever leaves it. All loops are unrolled: N, MOST and n are
compiled in, for few items and low degrees only (see blocks.py).

Everything is a sum of products of probabilities. No step subtracts, so the marginals of short rows
keep their relative accuracy under any tilt that is not far off.
"""

import triton
import triton.language as tl

from .device_math import rounded_product
from .tilt import ALL, INVALID, NONE, ORDINARY, find_tilt, load_counts, load_tile, row_kind

__all__ = ["linear_kernel", "linear_vjp_kernel"]

TOLERANCE: tl.constexpr = tl.constexpr(0.3)
NO_VARIANCE: tl.constexpr = tl.constexpr(1e-30)
# Up to that many items the tilt is half way between the k-th and the next logit: P(S = k) is at
# least 2^-16 there.
SORTED: tl.constexpr = tl.constexpr(16)


@triton.jit
def _halves(polynomial):
    """Left and right children of the parents of a level's nodes."""
    left = ()
    right = ()
    for i in tl.static_range(len(polynomial)):
        block = polynomial[i]
        pairs = tl.reshape(block, (block.shape[0], block.shape[1] // 2, 2))
        even, odd = tl.split(pairs)
        left = left + (even,)
        right = right + (odd,)
    return left, right


@triton.jit
def _whole(left, right):
    """The inverse of ``_halves``."""
    nodes = ()
    for i in tl.static_range(len(left)):
        block = left[i]
        pairs = tl.join(block, right[i])
        nodes = nodes + (tl.reshape(pairs, (block.shape[0], 2 * block.shape[1])),)
    return nodes


@triton.jit
def _product(left, right, LOWEST: tl.constexpr, MOST: tl.constexpr):
    """Coefficients LOWEST to MOST of the product, or to its degree if that is less."""
    DEGREE: tl.constexpr = len(left) + len(right) - 2
    product = ()
    for j in tl.static_range(LOWEST, min(DEGREE, MOST) + 1):
        total = tl.zeros_like(left[0])
        for a in tl.static_range(len(left)):
            if j - a >= 0 and j - a < len(right):
                total += left[a] * right[j - a]
        product = product + (total,)
    return product


@triton.jit
def _plus(x, y):
    total = ()
    for i in tl.static_range(len(x)):
        total = total + (x[i] + y[i],)
    return total


@triton.jit
def _pull_back(adjoint, sibling, LOWEST: tl.constexpr):
    """Adjoints of a child; ``adjoint`` holds the parent's from coefficient LOWEST on."""
    child = ()
    for a in tl.static_range(len(sibling)):
        total = tl.zeros_like(sibling[0])
        for b in tl.static_range(len(sibling)):
            if a + b - LOWEST >= 0 and a + b - LOWEST < len(adjoint):
                total += adjoint[a + b - LOWEST] * sibling[b]
        child = child + (total,)
    return child


@triton.jit
def _root_adjoint(target, like, LOWEST: tl.constexpr, MOST: tl.constexpr):
    """1 at each row's target; with LOWEST = MOST all rows have the same."""
    adjoint = ()
    for j in tl.static_range(LOWEST, MOST + 1):
        if LOWEST == MOST:
            chosen = tl.zeros_like(like) + 1.0
        else:
            chosen = (target[:, None] == j).to(like.dtype)
        adjoint = adjoint + (chosen,)
    return adjoint


@triton.jit
def _merge(left, right, MOST: tl.constexpr):
    """The largest MOST numbers of two sorted tuples, as in ``_product`` but with min for products
    and max for sums: the j-th largest of both is max over a + b = j of min(left[a], right[b]).
    """
    merged = ()
    for j in tl.static_range(1, min(len(left) + len(right), MOST) + 1):
        best = tl.full(left[0].shape, float("-inf"), left[0].dtype)
        for a in tl.static_range(len(left) + 1):
            if j - a >= 0 and j - a <= len(right):
                if a == 0:
                    best = tl.maximum(best, right[j - 1])
                elif a == j:
                    best = tl.maximum(best, left[j - 1])
                else:
                    best = tl.maximum(best, tl.minimum(left[a - 1], right[j - a - 1]))
        merged = merged + (best,)
    return merged


@triton.jit
def _middle_tilt(
    theta,
    target,
    ordinary,
    flipped,
    R: tl.constexpr,
    LEVELS: tl.constexpr,
    LOWEST: tl.constexpr,
    MOST: tl.constexpr,
):
    """Minus the mean of the k-th and (k + 1)-th largest logits, 0 for rows that are not ordinary.

    Flipped rows look for the smallest ones. Both are finite in ordinary rows, since forced and
    excluded items sort to the ends.
    """
    best = (tl.where(flipped & (theta > float("-inf")), 0.0 - theta, theta),)
    best = (tl.where(flipped & (theta == float("-inf")), float("inf"), best[0]),)
    for _ in tl.static_range(LEVELS):
        left, right = _halves(best)
        best = _merge(left, right, MOST + 1)
    middle = tl.zeros_like(best[0])
    for j in tl.static_range(max(LOWEST, 1), MOST + 1):
        here = 0.5 * best[j - 1] + 0.5 * best[j]
        middle = here if LOWEST == MOST else tl.where(target[:, None] == j, here, middle)
    middle = tl.reshape(middle, (R,))
    middle = tl.where(tl.max(flipped.to(tl.int32), axis=1) > 0, middle, 0.0 - middle)
    return tl.where(ordinary, middle, 0.0)


@triton.jit
def _rows_of_tile(
    logits,
    row_k,
    count,
    n: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    LEVELS: tl.constexpr,
    LOWEST: tl.constexpr,
    MOST: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """(row, logits, tilt, kind, k, target, flipped) of the rows; flipped is [R, N]."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    theta = load_tile(logits, row, n, count, N, DTYPE)
    rows_k = load_counts(row_k, K, row, count)
    live = tl.sum((tl.abs(theta) < float("inf")).to(tl.int32), axis=1)
    forced = tl.sum((theta == float("inf")).to(tl.int32), axis=1)
    has_nan = tl.sum((theta != theta).to(tl.int32), axis=1) > 0
    kind, chosen = row_kind(live, forced, has_nan, rows_k)
    ordinary = kind == ORDINARY
    target = tl.where(ordinary, tl.minimum(rows_k, n - rows_k), 0).to(tl.int32)
    # Padding is never counted, in either way of counting.
    flipped = (2 * rows_k > n)[:, None] & (tl.arange(0, N) < n)[None, :]
    if N <= SORTED:
        s = _middle_tilt(theta, target, ordinary, flipped, R, LEVELS, LOWEST, MOST)
    else:
        s = find_tilt(theta, live, forced, chosen, ordinary, TOLERANCE, False)
    return row, theta, s, kind, rows_k, target, flipped


@triton.jit
def _probabilities(x):
    """(q, p, e^-|x|, q > 1/2) of items with tilted logits x."""
    above = x > 0
    e = tl.exp(0.0 - tl.abs(x))
    near = 1.0 / (1.0 + e)
    far = e * near
    return tl.where(above, near, far), tl.where(above, far, near), e, above


@triton.jit
def _exact_sum(a, a_low, b, b_low):
    """The sum of two numbers in two parts each; the low part holds what the high one rounds off."""
    high = a + b
    part = high - a
    return high, (a_low + b_low) + ((a - (high - part)) + (b - part))


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _log_partition(theta, e, above, s, kind, k, probability):
    """sum softplus(theta + s) - k s + log P(S = k); scores are summed as if in twice the bits."""
    counted = tl.where((kind == ALL)[:, None], theta > float("-inf"), above)
    score = tl.where(counted & (theta < float("inf")), theta, 0.0)
    high, low = tl.reduce((score, tl.zeros_like(score)), 1, _exact_sum)
    # Items above include the forced ones, and so does k.
    surplus = (tl.sum(above.to(tl.int32), axis=1).to(tl.int64) - k).to(s.dtype)
    ordinary = kind == ORDINARY
    surplus = tl.where(ordinary, surplus, 0.0)
    # Rounded by itself: a fused sum would be one of the exact product, whose rest is added too.
    shift = rounded_product(surplus, s)
    high, low = _exact_sum(high, low, shift, tl.fma(surplus, s, 0.0 - shift))
    rest = tl.reduce(1.0 + e, 1, _multiply) * probability
    log_z = high + (low + tl.log(tl.where(ordinary, rest, 1.0)))
    log_z = tl.where(kind == NONE, 0.0, log_z)
    return tl.where(kind == INVALID, float("nan"), log_z)


@triton.jit
def _settled(theta, kind):
    """Marginals of the rows whose subset is certain, and NaN in invalid rows."""
    none = (kind == NONE)[:, None] & (theta == float("inf"))
    every = (kind == ALL)[:, None] & (theta > float("-inf"))
    return tl.where((kind == INVALID)[:, None], float("nan"), (none | every).to(theta.dtype))


@triton.jit
def _store_tile(to, values, row, count, n: tl.constexpr, N: tl.constexpr):
    item = tl.arange(0, N)
    inside = (row < count)[:, None] & (item < n)[None, :]
    values = values.to(to.dtype.element_ty)
    tl.store(to + row[:, None] * n + item[None, :], values, mask=inside)


@triton.jit(do_not_specialize=["count"])
def linear_kernel(
    logits,
    row_k,
    marginals,
    log_partition,
    count,
    n: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    LEVELS: tl.constexpr,
    LOWEST: tl.constexpr,
    MOST: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Marginals and log-partition of R rows; N = 2^LEVELS >= n. Targets are in [LOWEST, MOST]."""
    row, theta, s, kind, rows_k, target, flipped = _rows_of_tile(
        logits, row_k, count, n, K, R, N, LEVELS, LOWEST, MOST, DTYPE
    )
    q, p, e, above = _probabilities(theta + s[:, None])
    uncounted = tl.where(flipped, q, p)
    counted = tl.where(flipped, p, q)
    node = (uncounted, counted)
    children = ()
    for level in tl.static_range(LEVELS):
        left, right = _halves(node)
        children = children + ((left, right),)
        node = _product(left, right, LOWEST if level == LEVELS - 1 else 0, MOST)
    adjoint = _root_adjoint(target, node[0], LOWEST, MOST)
    root = tl.zeros_like(node[0])
    for j in tl.static_range(len(node)):
        root += node[j] * adjoint[j]
    for level in tl.static_range(LEVELS):
        left, right = children[LEVELS - 1 - level]
        of_left = _pull_back(adjoint, right, LOWEST if level == 0 else 0)
        of_right = _pull_back(adjoint, left, LOWEST if level == 0 else 0)
        adjoint = _whole(of_left, of_right)
    ordinary = (kind == ORDINARY)[:, None]
    # The root is the sum of both weights of any item; rounding must not lift a marginal above 1.
    inverse = 1.0 / tl.where(ordinary, root, 1.0)
    chosen = tl.where(flipped, uncounted * adjoint[0], counted * adjoint[1])
    mu = tl.minimum(chosen * inverse, 1.0)
    mu = tl.where(ordinary, mu, _settled(theta, kind))
    _store_tile(marginals, mu, row, count, n, N)
    log_z = _log_partition(theta, e, above, s, kind, rows_k, tl.reshape(root, (R,)))
    tl.store(log_partition + row, log_z.to(log_partition.dtype.element_ty), mask=row < count)


@triton.jit(do_not_specialize=["count"])
def linear_vjp_kernel(
    logits,
    row_k,
    grad_marginals,
    grad_log_partition,
    grad_logits,
    count,
    n: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    LEVELS: tl.constexpr,
    LOWEST: tl.constexpr,
    MOST: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The marginals' derivative along the centred gradient, plus grad_log_partition times them.

    The covariance is symmetric, so the forward-mode derivative is the vector-Jacobian product.
    """
    row, theta, s, kind, _, target, flipped = _rows_of_tile(
        logits, row_k, count, n, K, R, N, LEVELS, LOWEST, MOST, DTYPE
    )
    q, p, _, _ = _probabilities(theta + s[:, None])
    change = tl.zeros_like(q)
    if grad_marginals is not None:
        direction = load_tile(grad_marginals, row, n, count, N, DTYPE)
        qp = tl.where(theta > float("-inf"), q * p, 0.0)
        direction = tl.where(direction > float("-inf"), direction, 0.0)
        variance = tl.sum(qp, axis=1)
        varies = variance > NO_VARIANCE
        centre = tl.sum(qp * direction, axis=1) / tl.where(varies, variance, 1.0)
        change = tl.where(varies[:, None], qp * (direction - centre[:, None]), 0.0)
        change = tl.where(flipped, 0.0 - change, change)
    uncounted = tl.where(flipped, q, p)
    counted = tl.where(flipped, p, q)
    node = (uncounted, counted)
    d_node = (0.0 - change, change)
    children = ()
    for level in tl.static_range(LEVELS):
        left, right = _halves(node)
        d_left, d_right = _halves(d_node)
        children = children + ((left, right, d_left, d_right),)
        if level < LEVELS - 1:
            node = _product(left, right, 0, MOST)
            d_node = _plus(_product(left, d_right, 0, MOST), _product(d_left, right, 0, MOST))
    adjoint = _root_adjoint(target, left[0], LOWEST, MOST)
    d_adjoint = adjoint
    for level in tl.static_range(LEVELS):
        left, right, d_left, d_right = children[LEVELS - 1 - level]
        if level == 0:
            d_of_left = _pull_back(adjoint, d_right, LOWEST)
            d_of_right = _pull_back(adjoint, d_left, LOWEST)
            of_left = _pull_back(adjoint, right, LOWEST)
            of_right = _pull_back(adjoint, left, LOWEST)
        else:
            d_of_left = _plus(_pull_back(adjoint, d_right, 0), _pull_back(d_adjoint, right, 0))
            d_of_right = _plus(_pull_back(adjoint, d_left, 0), _pull_back(d_adjoint, left, 0))
            of_left = _pull_back(adjoint, right, 0)
            of_right = _pull_back(adjoint, left, 0)
        adjoint = _whole(of_left, of_right)
        d_adjoint = _whole(d_of_left, d_of_right)
    without = uncounted * adjoint[0]
    with_it = counted * adjoint[1]
    d_without = uncounted * d_adjoint[0] - change * adjoint[0]
    d_with_it = counted * d_adjoint[1] + change * adjoint[1]
    ordinary = (kind == ORDINARY)[:, None]
    total = tl.where(ordinary, without + with_it, 1.0)
    mu = tl.where(flipped, without, with_it) / total
    d_mu = (tl.where(flipped, d_without, d_with_it) - mu * (d_without + d_with_it)) / total
    mu = tl.where(ordinary, mu, _settled(theta, kind))
    grad = tl.where(ordinary, d_mu, mu * 0.0)
    if grad_log_partition is not None:
        scale = tl.load(grad_log_partition + row, mask=row < count, other=0.0).to(DTYPE)
        grad += scale[:, None] * mu
    # Forced items are constants; the NaN of an invalid row stays.
    grad = tl.where((theta == float("inf")) & (mu == mu), 0.0, grad)
    _store_tile(grad_logits, grad, row, count, n, N)
