# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a subset to its indices."""

import triton
import triton.language as tl

__all__ = ["compact_kernel"]


@triton.jit(do_not_specialize=["n", "k", "draws"])
def compact_kernel(chosen, indices, n, k, draws, R: tl.constexpr, N: tl.constexpr):
    """Positions of the bytes that are 1 in each row of chosen [draws, n], into indices [draws, k].

    A row has k of them, or is marked with 2 as invalid and gets -1.
    """
    draw = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    inside = (draw < draws)[:, None]
    before = tl.zeros([R], tl.int32)
    first = 0
    while first < n:
        item = first + tl.arange(0, N)[None, :]
        byte = tl.load(chosen + draw[:, None] * n + item, mask=inside & (item < n), other=0)
        taken = (byte > 0).to(tl.int32)
        place = before[:, None] + tl.cumsum(taken, axis=1) - 1
        value = tl.where(byte == 2, -1, item)
        tl.store(
            indices + draw[:, None] * k + place,
            value.to(tl.int64),
            mask=inside & (byte > 0) & (place < k),
        )
        before += tl.sum(taken, axis=1)
        first += N
