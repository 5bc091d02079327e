# SPDX-License-Identifier: Apache-2.0
"""Random numbers in kernels: Philox-4x32-10 with the counter of csrc/core/philox.h.

    key     = the 64-bit seed
    counter = (position / 4, row low, row high, purpose | round << 8)

``row`` is the index of the (sample, row) pair. Word (position mod 4) of the block belongs to
``position``, so that every backend reads the same number for the same decision.
"""

import triton
import triton.language as tl

__all__ = ["philox_tag", "philox_uniform", "philox_words", "uniform_from_bits"]

# What a random word is used for.
TREE_SPLIT: tl.constexpr = tl.constexpr(0)
ITEM_DRAW: tl.constexpr = tl.constexpr(1)
ACCEPTANCE: tl.constexpr = tl.constexpr(2)
PERTURBATION: tl.constexpr = tl.constexpr(3)

STEP: tl.constexpr = tl.constexpr(2.0**-32)
LARGEST: tl.constexpr = tl.constexpr(1.0 - 2.0**-24)


@triton.jit
def philox_tag(purpose, level, rejection):
    """The last word of the counter; the round is level << 16 | rejection."""
    return (level << 24) | (rejection << 8) | purpose


@triton.jit
def philox_words(seed, row, tag, first, COUNT: tl.constexpr):
    """The words of the positions ``first`` .. ``first`` + COUNT - 1, [R, COUNT] uint32.

    ``row``, ``tag``: [R] int64 and int32. ``first`` and COUNT are multiples of 4, so that each
    block is computed once.
    """
    block = first // 4 + tl.arange(0, COUNT // 4)
    zero = tl.zeros([row.shape[0], COUNT // 4], tl.int64)
    w0, w1, w2, w3 = tl.philox(
        seed,
        (zero + block[None, :]).to(tl.uint32),
        (zero + row[:, None]).to(tl.uint32),
        (zero + (row >> 32)[:, None]).to(tl.uint32),
        (zero + tag[:, None]).to(tl.uint32),
    )
    pairs = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # the last two indices are those of w
    return tl.reshape(pairs, [row.shape[0], COUNT])


@triton.jit
def uniform_from_bits(bits, DTYPE: tl.constexpr):
    """A uniform in the open interval (0, 1): its fine end, in steps of 2^-32, is at 0."""
    return tl.minimum((bits.to(DTYPE) + 0.5) * STEP, LARGEST)


@triton.jit
def philox_uniform(seed, row, tag, DTYPE: tl.constexpr):
    """The number at position 0 of the stream of ``row``, a scalar."""
    words = tl.philox(
        seed,
        (row * 0).to(tl.uint32),
        row.to(tl.uint32),
        (row >> 32).to(tl.uint32),
        (row * 0 + tag).to(tl.uint32),
    )
    return uniform_from_bits(words[0], DTYPE)
