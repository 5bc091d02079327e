# SPDX-License-Identifier: Apache-2.0
"""The law of the number of successes (Poisson-binomial) around the tree: leaves, root, gradients.

Untilted items in the log algebra: item i succeeds with probability sigmoid(theta_i). Every kernel
is elementwise, over pairs (row, item) or (row, count). A NaN among a row's logits reaches every
coefficient of its tree by itself; only columns beyond n, which have no coefficient, ask the root.
"""

import triton
import triton.language as tl

from .device_math import log1p_unit
from .tree_kernels import level_start

__all__ = ["gradient_kernel", "leaves_kernel", "root_in_kernel", "root_out_kernel"]


@triton.jit
def _pair(columns, rows, B: tl.constexpr):
    """(flat index, row, column, inside) of the program's pairs."""
    index = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    row = index // columns
    return index, row, index - row * columns, row < rows


@triton.jit
def _success(theta):
    """(q, p, log q, log p) of logits; infinite ones are certain."""
    above = theta > 0
    e = tl.exp(0.0 - tl.abs(theta))
    rest = log1p_unit(e)
    near = 1.0 / (1.0 + e)
    far = e * near
    log_q = tl.where(above, 0.0, theta) - rest
    log_p = tl.where(above, 0.0 - theta, 0.0) - rest
    return tl.where(above, near, far), tl.where(above, far, near), log_q, log_p


@triton.jit(do_not_specialize=["n", "rows", "size"])
def leaves_kernel(
    logits, direction, values, tangents, n, rows, size, B: tl.constexpr, DTYPE: tl.constexpr
):
    """Leaves of the trees; their derivatives along ``direction`` where tangents are given."""
    index, row, item, inside = _pair(n, rows, B)
    theta = tl.load(logits + index, mask=inside, other=0.0).to(DTYPE)
    q, p, log_q, log_p = _success(theta)
    leaf = row * size + 2 * item
    tl.store(values + leaf, log_p, mask=inside)
    tl.store(values + leaf + 1, log_q, mask=inside)
    if tangents is not None:
        change = tl.load(direction + index, mask=inside, other=0.0).to(DTYPE)
        tl.store(tangents + leaf, (0.0 - q) * change, mask=inside)
        tl.store(tangents + leaf + 1, p * change, mask=inside)


@triton.jit(do_not_specialize=["columns", "rows", "n", "most", "top", "size"])
def root_out_kernel(
    values, tangents, out, columns, rows, n, most, top, size, B: tl.constexpr, DTYPE: tl.constexpr
):
    """The root's coefficients, or their derivatives, as columns.

    Counts above n are impossible: log-probability -inf, derivative 0.
    """
    index, row, j, inside = _pair(columns, rows, B)
    offset, _, _ = level_start(top, n, most)
    root = row * size + offset
    possible = inside & (j <= n)
    nan = tl.load(values + root, mask=inside, other=0.0)
    if tangents is None:
        coefficient = tl.load(values + root + j, mask=possible, other=float("-inf"))
    else:
        coefficient = tl.load(tangents + root + j, mask=possible, other=0.0)
    coefficient = tl.where(nan != nan, nan, coefficient)
    tl.store(out + index, coefficient.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["columns", "rows", "n", "most", "top", "size"])
def root_in_kernel(
    grad,
    adjoints,
    adjoint_tangents,
    columns,
    rows,
    n,
    most,
    top,
    size,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The root's adjoints, with tangents 0, from the gradient's columns."""
    offset, _, stride = level_start(top, n, most)
    _, row, j, inside = _pair(stride, rows, B)
    given = inside & (j < columns)
    adjoint = tl.load(grad + row * columns + j, mask=given, other=0.0).to(DTYPE)
    root = row * size + offset + j
    tl.store(adjoints + root, adjoint, mask=inside)
    if adjoint_tangents is not None:
        tl.store(adjoint_tangents + root, adjoint * 0.0, mask=inside)


@triton.jit(do_not_specialize=["n", "rows", "size"])
def gradient_kernel(
    logits,
    direction,
    adjoints,
    adjoint_tangents,
    grad_logits,
    n,
    rows,
    size,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The gradient of the logits from the leaves' adjoints, or its derivative along ``direction``.

    d log q = p d theta and d log p = -q d theta.
    """
    index, row, item, inside = _pair(n, rows, B)
    theta = tl.load(logits + index, mask=inside, other=0.0).to(DTYPE)
    q, p, _, _ = _success(theta)
    leaf = row * size + 2 * item
    failed = tl.load(adjoints + leaf, mask=inside, other=0.0)
    succeeded = tl.load(adjoints + leaf + 1, mask=inside, other=0.0)
    if adjoint_tangents is None:
        gradient = succeeded * p - failed * q
    else:
        change = tl.load(direction + index, mask=inside, other=0.0).to(DTYPE)
        d_failed = tl.load(adjoint_tangents + leaf, mask=inside, other=0.0)
        d_succeeded = tl.load(adjoint_tangents + leaf + 1, mask=inside, other=0.0)
        gradient = d_succeeded * p - d_failed * q - (succeeded + failed) * (q * p) * change
    tl.store(grad_logits + index, gradient.to(grad_logits.dtype.element_ty), mask=inside)
