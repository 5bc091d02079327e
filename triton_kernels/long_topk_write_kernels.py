# SPDX-License-Identifier: Apache-2.0
"""Long rows of perturbed top-k, once their selections are settled: k-hot, indices, differences.

Whether an item is chosen depends on its own key and index and the settled pair alone, so parts of
a row are written in any order, and the noise is made anew.
"""

import triton
import triton.language as tl

from .long_topk_kernels import STATE, chunk_of_draw, draw_of_selection
from .selection_kernels import perturbed_keys, store_subset
from .topk_difference_kernels import mean_difference

__all__ = [
    "long_difference_kernel",
    "long_indices_kernel",
    "long_khot_kernel",
    "long_tally_kernel",
]

MOST_PARTS: tl.constexpr = tl.constexpr(512)  # of blocks.split_selections


@triton.jit
def load_settled(settled, selection, KEY: tl.constexpr):
    """(threshold, index from the end, valid) of a selection."""
    from_ = settled + selection * STATE
    return tl.load(from_).to(KEY), tl.load(from_ + 1), tl.load(from_ + 2) > 0


@triton.jit
def reaches(keys, from_end, threshold, reverse):
    """Which items are chosen."""
    chosen = (keys > threshold) | ((keys == threshold) & (from_end >= reverse))
    return chosen & (from_end >= 0)


@triton.jit
def chosen_chunk(
    logits,
    quantiles,
    seed,
    draw,
    threshold,
    reverse,
    at,
    n,
    count,
    temperature,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Which items [1, B] of a draw from item ``at`` on are chosen."""
    theta, x, _ = chunk_of_draw(
        logits,
        None,
        quantiles,
        seed,
        draw,
        0.0,
        at,
        n,
        count,
        0,
        0,
        0,
        1.0,
        temperature,
        1.0,
        temperature,
        False,
        B,
        DTYPE,
    )
    keys, _ = perturbed_keys(theta, x)
    return reaches(keys, n - 1 - (at + tl.arange(0, B)[None, :]), threshold, reverse)


@triton.jit(do_not_specialize=["n", "first", "count", "parts", "span"])
def long_khot_kernel(
    logits,
    quantiles,
    seed,
    settled,
    khot,
    n,
    first,
    count,
    parts,
    span,
    temperature: tl.float64,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """One part of a draw from ``first`` on, into khot [draws, n]."""
    KEY: tl.constexpr = tl.int32 if DTYPE == tl.float32 else tl.int64
    pid = tl.program_id(0).to(tl.int64)
    draw = first + pid // parts
    threshold, reverse, valid = load_settled(settled, pid // parts, KEY)
    at = (pid % parts) * span
    end = tl.minimum(at + span, n)
    while at < end:
        chosen = chosen_chunk(
            logits, quantiles, seed, draw, threshold, reverse, at, n, count, temperature, B, DTYPE
        )
        item = at + tl.arange(0, B)[None, :]
        store_subset(khot, draw * n + item, chosen, valid == 0, item < n)
        at += B


@triton.jit(do_not_specialize=["n", "first", "count", "parts", "span"])
def long_tally_kernel(
    logits,
    quantiles,
    seed,
    settled,
    tallies,
    n,
    first,
    count,
    parts,
    span,
    temperature: tl.float64,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """How many items of each part of a draw are chosen, into tallies [draws, parts]."""
    KEY: tl.constexpr = tl.int32 if DTYPE == tl.float32 else tl.int64
    pid = tl.program_id(0).to(tl.int64)
    draw = first + pid // parts
    threshold, reverse, _ = load_settled(settled, pid // parts, KEY)
    tally = tl.zeros([1], tl.int32)
    at = (pid % parts) * span
    end = tl.minimum(at + span, n)
    while at < end:
        chosen = chosen_chunk(
            logits, quantiles, seed, draw, threshold, reverse, at, n, count, temperature, B, DTYPE
        )
        tally += tl.sum(chosen.to(tl.int32), axis=1)
        at += B
    tl.store(tallies + pid + tl.arange(0, 1), tally)


@triton.jit(do_not_specialize=["k", "n", "first", "count", "parts", "span"])
def long_indices_kernel(
    logits,
    quantiles,
    seed,
    settled,
    tallies,
    indices,
    k,
    n,
    first,
    count,
    parts,
    span,
    temperature: tl.float64,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The chosen items of a part of a draw, into indices [draws, k]; -1 where it is invalid."""
    KEY: tl.constexpr = tl.int32 if DTYPE == tl.float32 else tl.int64
    pid = tl.program_id(0).to(tl.int64)
    part = pid % parts
    draw = first + pid // parts
    threshold, reverse, valid = load_settled(settled, pid // parts, KEY)
    other = tl.arange(0, MOST_PARTS)
    earlier = tl.load(tallies + (pid - part) + other, mask=other < part, other=0)
    placed = tl.sum(earlier, axis=0)
    at = part * span
    end = tl.minimum(at + span, n)
    while at < end:
        chosen = chosen_chunk(
            logits, quantiles, seed, draw, threshold, reverse, at, n, count, temperature, B, DTYPE
        )
        item = at + tl.arange(0, B)[None, :]
        place = placed + tl.cumsum(chosen.to(tl.int32), axis=1) - 1
        placed += tl.sum(tl.sum(chosen.to(tl.int32), axis=1), axis=0)
        place = tl.where(valid, place, item)
        chosen = tl.where(valid, chosen, item < k)
        tl.store(indices + draw * k + place, tl.where(valid, item, -1), mask=chosen)
        at += B


@triton.jit(
    do_not_specialize=[
        *("n", "first", "width", "count", "samples", "parts", "span"),
        *("grad_sample", "grad_row", "grad_item", "step_row"),
    ]
)
def long_difference_kernel(
    logits,
    grad,
    quantiles,
    step,
    seed,
    settled,
    difference,
    nonzeros,
    n,
    first,
    width,
    count,
    samples,
    parts,
    span,
    grad_sample,
    grad_row,
    grad_item,
    step_row,
    left_alpha: tl.float64,
    left_temperature: tl.float64,
    right_alpha: tl.float64,
    right_temperature: tl.float64,
    SYMMETRIC: tl.constexpr,
    B: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """All samples of one part of a row from ``first`` on: difference [count, n], and its share of
    nonzeros [count], zeros at first.
    """
    KEY: tl.constexpr = tl.int32 if DTYPE == tl.float32 else tl.int64
    pid = tl.program_id(0).to(tl.int64)
    of_slab = pid // parts
    row = first + of_slab
    scale = tl.load(step + row * step_row)
    changed = tl.zeros([1], tl.int64)
    valid = row >= 0
    at = (pid % parts) * span
    end = tl.minimum(at + span, n)
    while at < end:
        item = at + tl.arange(0, B)[None, :]
        total = tl.zeros([1, B], tl.int32)
        sample = row * 0
        while sample < samples:
            pair = sample * width + of_slab
            draw = draw_of_selection(pair, first, width, count)
            theta, left, right = chunk_of_draw(
                logits,
                grad,
                quantiles,
                seed,
                draw,
                scale,
                at,
                n,
                count,
                grad_sample,
                grad_row,
                grad_item,
                left_alpha,
                left_temperature,
                right_alpha,
                right_temperature,
                SYMMETRIC,
                B,
                DTYPE,
            )
            keys, _ = perturbed_keys(theta, left)
            threshold, reverse, usable = load_settled(settled, 2 * pair, KEY)
            chosen_left = reaches(keys, n - 1 - item, threshold, reverse).to(tl.int32)
            keys, _ = perturbed_keys(theta, right)
            threshold, reverse, also = load_settled(settled, 2 * pair + 1, KEY)
            change = chosen_left - reaches(keys, n - 1 - item, threshold, reverse).to(tl.int32)
            valid = valid & usable & also
            total += change
            changed += tl.sum(tl.abs(change), axis=1)
            sample += 1
        mean = mean_difference(total, samples, SYMMETRIC, DTYPE)
        mean = tl.where(valid, mean, float("nan"))
        tl.store(difference + row * n + item, mean, mask=item < n)
        at += B
    if valid:
        tl.atomic_add(nonzeros + row + tl.arange(0, 1), changed, sem="relaxed")
