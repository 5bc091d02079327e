# SPDX-License-Identifier: Apache-2.0
"""Perturbed top-k of rows that one program holds in registers."""

import triton
import triton.language as tl

from .noise_kernels import noise_tile
from .selection_kernels import choose, perturbed_keys, store_subset, valid_rows
from .tilt import load_counts, load_tile

__all__ = ["perturbed_topk_kernel"]


@triton.jit(do_not_specialize=["k", "n", "count", "draws"])
def perturbed_topk_kernel(
    logits,
    row_k,
    quantiles,
    seed,
    khot,
    indices,
    k,
    n,
    count,
    draws,
    temperature: tl.float64,
    R: tl.constexpr,
    N: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """R of the draws (sample, row) a program, into khot [draws, n] or indices [draws, k].

    The other of the two is None; indices has every row's k.
    """
    draw = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    row = draw % count
    theta = load_tile(logits, row, n, count, N, DTYPE)
    noise = noise_tile(quantiles, tl.load(seed), draw, 0, N, DTYPE)
    keys, unfit = perturbed_keys(theta, theta + tl.cast(temperature, DTYPE) * noise)
    size = load_counts(row_k, k, row, count)
    valid = valid_rows(theta, unfit, size)
    chosen = choose(keys, tl.where(valid, size, 0).to(tl.int32))
    item = tl.arange(0, N)[None, :]
    inside = (draw < draws)[:, None]
    if indices is None:
        at = draw[:, None] * n + item
        store_subset(khot, at, chosen, (valid == 0)[:, None], inside & (item < n))
    else:
        chosen = tl.where(valid[:, None], chosen, item < k)
        place = tl.cumsum(chosen.to(tl.int32), axis=1) - 1
        value = tl.where(valid[:, None], item, -1).to(tl.int64)
        tl.store(indices + draw[:, None] * k + place, value, mask=inside & chosen)
