# SPDX-License-Identifier: Apache-2.0
"""Counter-based random numbers: Philox4x32-10 in integer tensor operations.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["philox4x32", "uniform", "uniform_row"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# Largest uniform handed out: one float32 step below 1, so that a float32 backend agrees.
_LARGEST = 1.0 - 2.0**-24


def _multiply(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of ``multiplier * word``, both 32-bit words held in int64.

    By 16-bit halves: the plain product needs 64 bits without sign and would overflow int64.
    """
    low = multiplier * (word & 0xFFFF)
    high = multiplier * (word >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _MASK


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four random 32-bit words for each 128-bit counter under a 64-bit key.

    Args:
        counter: four int64 tensors of words in [0, 2^32) that broadcast together.
        key: two such tensors.

    Returns:
        Four int64 tensors of words in [0, 2^32), of the broadcast shape.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _words(seed: Tensor, row: Tensor, purpose: int, round: int, block: Tensor) -> Tensor:
    """The four words of each block, stacked in a new last dimension."""
    key = (seed & _MASK, (seed >> 32) & _MASK)
    tag = torch.full_like(row, purpose | (round << 8))
    counter = (block, row & _MASK, (row >> 32) & _MASK, tag)
    return torch.stack(philox4x32(counter, key), dim=-1)


def _to_uniform(words: Tensor, dtype: torch.dtype) -> Tensor:
    """``min((word + 1/2) 2^-32, 1 - 2^-24)``: never 0 or 1, with its fine steps next to 0."""
    return ((words.to(dtype) + 0.5) * 2.0**-32).clamp(max=_LARGEST)


def uniform(
    seed: Tensor,
    row: Tensor,
    purpose: int,
    round: int,
    position: Tensor,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Uniform number v(row, purpose, round, position) of the stream that ``seed`` opens.

    Word ``position mod 4`` of the Philox block with key ``(seed low, seed high)`` and counter
    ``(position div 4, row low, row high, purpose | round << 8)``; see docs/mathematics.md.

    Args:
        seed: int64 tensor with one element.
        row: int64, the index of the (sample, row) pair.
        purpose: in [0, 256): 0 splits in the tree, 1 items, 2 acceptance, 3 perturbation noise.
        round: in [0, 2^24): ``level << 16 | rejection``.
        position: int64, broadcasts with ``row``.
        dtype: of the result.

    Returns:
        Numbers in (0, 1) of the broadcast shape.
    """
    row, position = torch.broadcast_tensors(row, position)
    words = _words(seed.reshape(()), row, purpose, round, position // 4)
    chosen = words.gather(-1, (position % 4).unsqueeze(-1)).squeeze(-1)
    return _to_uniform(chosen, dtype)


def uniform_row(
    seed: Tensor,
    row: Tensor,
    purpose: int,
    round: int,
    count: int,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """``uniform`` at the positions 0 .. count-1, each Philox block computed once.

    Returns:
        ``[*row.shape, count]``.
    """
    block = torch.arange((count + 3) // 4, device=row.device)
    words = _words(seed.reshape(()), row.unsqueeze(-1), purpose, round, block)
    return _to_uniform(words.flatten(-2)[..., :count], dtype)
