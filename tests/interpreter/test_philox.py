# SPDX-License-Identifier: Apache-2.0
"""The kernels' random numbers are those of the reference, bit for bit."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from discrete_grad.reference import philox as reference
from discrete_grad.triton_kernels.launch import launch
from discrete_grad.triton_kernels.philox import (
    philox_tag,
    philox_uniform,
    philox_words,
    uniform_from_bits,
)

ROWS = torch.tensor([0, 5, 2**31, 2**32 - 1, 2**32 + 7, 2**40, 2**62 + 3, 1])
SEEDS = [0, 1, 2**31, 2**32 + 1, 2**63 - 1, -1, -(2**40), 1234567890123456789]
COUNT = 16


@triton.jit
def stream_kernel(
    seed, rows, words, uniforms, first_uniform, purpose, level, rejection, first,
    R: tl.constexpr, COUNT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Words, uniform numbers and the number at position 0 of the streams of R rows."""
    row = tl.load(rows + tl.arange(0, R))
    tag = philox_tag(purpose, level, rejection)
    bits = philox_words(tl.load(seed), row, tl.zeros([R], tl.int32) + tag, first, COUNT)
    at = tl.arange(0, R)[:, None] * COUNT + tl.arange(0, COUNT)[None, :]
    tl.store(words + at, bits.to(tl.int64))
    tl.store(uniforms + at, uniform_from_bits(bits, DTYPE))
    tl.store(first_uniform, philox_uniform(tl.load(seed), tl.load(rows + R - 1), tag, DTYPE))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("purpose", "level", "rejection", "first"),
    [(0, 0, 0, 0), (1, 3, 2, 4), (2, 26, 65535, 8), (1, 1, 65535, 2**26)],
)
def test_words_and_uniforms(dtype, purpose, level, rejection, first):
    words = torch.empty(len(ROWS), COUNT, dtype=torch.int64)
    uniforms = torch.empty(len(ROWS), COUNT, dtype=dtype)
    single = torch.empty(1, dtype=dtype)
    position = first + torch.arange(COUNT)
    for value in SEEDS:
        seed = torch.tensor([value])
        launch(
            stream_kernel, 1, seed, ROWS, words, uniforms, single, purpose, level, rejection, first,
            num_warps=1, R=len(ROWS), COUNT=COUNT,
            DTYPE=tl.float64 if dtype == torch.float64 else tl.float32,
        )  # fmt: skip
        number = level << 16 | rejection
        bits = reference._words(seed, ROWS.unsqueeze(-1), purpose, number, position // 4)
        want = bits.gather(-1, (position % 4).expand(len(ROWS), COUNT).unsqueeze(-1)).squeeze(-1)
        assert torch.equal(words, want)
        of_row = [
            reference.uniform(seed, row.unsqueeze(0), purpose, number, position, dtype)
            for row in ROWS
        ]
        assert torch.equal(uniforms, torch.stack(of_row))
        zero = torch.zeros(1, dtype=torch.int64)
        assert torch.equal(single, reference.uniform(seed, ROWS[-1:], purpose, number, zero, dtype))


def test_the_largest_uniform_is_below_one():
    bits = torch.tensor([0, 1, 2**31, 2**32 - 2, 2**32 - 1], dtype=torch.int64)
    for dtype in (torch.float32, torch.float64):
        v = reference._to_uniform(bits, dtype)
        out = torch.empty(8, dtype=dtype)
        padded = torch.cat([bits, bits[:3]])
        launch(
            uniform_kernel, 1, padded, out, num_warps=1,
            DTYPE=tl.float64 if dtype == torch.float64 else tl.float32,
        )  # fmt: skip
        assert torch.equal(out[:5], v)
        assert out.min() > 0
        assert out.max() < 1


@triton.jit
def uniform_kernel(bits, out, DTYPE: tl.constexpr):
    at = tl.arange(0, 8)
    tl.store(out + at, uniform_from_bits(tl.load(bits + at).to(tl.uint32), DTYPE))
