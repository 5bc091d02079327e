# SPDX-License-Identifier: Apache-2.0
"""The I-MLE difference of two perturbed selections, of rows that one program holds in registers."""

import triton
import triton.language as tl

from .noise_kernels import noise_tile
from .selection_kernels import choose, perturbed_keys, valid_rows
from .tilt import load_counts, load_tile

__all__ = ["left_side", "mean_difference", "right_side", "topk_difference_kernel"]


@triton.jit
def left_side(theta, noise, move, alpha, temperature, SYMMETRIC: tl.constexpr):
    """alpha theta + temperature noise, and ``move`` (lambda g) more if SYMMETRIC."""
    x = tl.cast(alpha, theta.dtype) * theta + tl.cast(temperature, theta.dtype) * noise
    return x + move if SYMMETRIC else x


@triton.jit
def right_side(theta, noise, move, alpha, temperature):
    """alpha theta - ``move`` + temperature noise."""
    moved = tl.cast(alpha, theta.dtype) * theta - move
    return moved + tl.cast(temperature, theta.dtype) * noise


@triton.jit
def mean_difference(total, samples, SYMMETRIC: tl.constexpr, DTYPE: tl.constexpr):
    """The mean over samples of differences that sum to ``total`` (int32), halved if SYMMETRIC."""
    parts = (2 * samples if SYMMETRIC else samples).to(DTYPE)
    if DTYPE == tl.float32:
        return tl.div_rn(total.to(DTYPE), parts)
    else:
        return total.to(DTYPE) / parts


@triton.jit(
    do_not_specialize=[
        *("k", "n", "count", "samples"),
        *("grad_sample", "grad_row", "grad_item", "step_row"),
    ]
)
def topk_difference_kernel(
    logits,
    grad,
    row_k,
    quantiles,
    step,
    seed,
    difference,
    nonzeros,
    k,
    n,
    count,
    samples,
    grad_sample,
    grad_row,
    grad_item,
    step_row,
    left_alpha: tl.float64,
    left_temperature: tl.float64,
    right_alpha: tl.float64,
    right_temperature: tl.float64,
    SYMMETRIC: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """All samples of R rows a program: difference [count, n] and nonzeros [count].

    grad [samples, count, n] and step [count] have strides, 0 where they are expanded.
    """
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    item = tl.arange(0, N)[None, :]
    inside = (row < count)[:, None] & (item < n)
    theta = load_tile(logits, row, n, count, N, DTYPE)
    size = load_counts(row_k, k, row, count)
    valid = row >= 0
    scale = tl.load(step + row * step_row, mask=row < count, other=0.0)[:, None]
    grad_at = row[:, None] * grad_row + item.to(tl.int64) * grad_item
    key = tl.load(seed)
    total = tl.zeros([R, N], tl.int32)
    changed = tl.zeros([R], tl.int64)
    sample = samples * 0
    while sample < samples:
        stream = row + sample.to(tl.int64) * count
        noise = noise_tile(quantiles, key, stream, 0, N, DTYPE)
        g = tl.load(grad + sample.to(tl.int64) * grad_sample + grad_at, mask=inside, other=0.0)
        move = scale * g.to(DTYPE)
        left = left_side(theta, noise, move, left_alpha, left_temperature, SYMMETRIC)
        right = right_side(theta, noise, move, right_alpha, right_temperature)
        left, left_unfit = perturbed_keys(theta, left)
        right, right_unfit = perturbed_keys(theta, right)
        valid = valid & valid_rows(theta, left_unfit | right_unfit, size)
        taken = tl.where(valid, size, 0).to(tl.int32)
        change = choose(left, taken).to(tl.int32) - choose(right, taken).to(tl.int32)
        total += change
        changed += tl.sum(tl.abs(change), axis=1)
        sample += 1
    mean = mean_difference(total, samples, SYMMETRIC, DTYPE)
    mean = tl.where(valid[:, None], mean, float("nan"))
    tl.store(difference + row[:, None] * n + item, mean, mask=inside)
    tl.store(nonzeros + row, tl.where(valid, changed, 0), mask=row < count)
