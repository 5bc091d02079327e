# SPDX-License-Identifier: Apache-2.0
"""Selections in rows that are too long for one program: passes that count, then one that settles.

What is kept of a selection while it is made is a few thousand numbers, whatever n is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import Split, selections_at_once, split_selections
from .launch import launch
from .long_topk_kernels import BINS, DIGIT_BITS, FACTS, STATE, count_digits_kernel, settle_kernel
from .rows import Rows, cdiv

__all__ = ["Sides", "selections_each", "settle"]

_BINS, _DIGIT_BITS, _FACTS, _STATE = (
    constant.value for constant in (BINS, DIGIT_BITS, FACTS, STATE)
)


class Sides(NamedTuple):
    """What is selected by: without ``grad``, logits + left_temperature noise alone."""

    left_alpha: float
    left_temperature: float
    right_alpha: float
    right_temperature: float
    grad: Tensor | None = None  # [samples, rows, n], of any strides
    step: Tensor | None = None  # [rows]
    symmetric: bool = False

    @property
    def count(self) -> int:
        """Selections of each draw."""
        return 1 if self.grad is None else 2

    @property
    def strides(self) -> tuple[int, ...]:
        """Of ``grad`` and of ``step``."""
        if self.grad is None or self.step is None:
            return (0, 0, 0, 0)
        return (*self.grad.stride(), *self.step.stride())

    @property
    def scalars(self) -> tuple[float, float, float, float]:
        """The first four."""
        return self[:4]


def _passes(rows: Rows) -> int:
    """Digits of a key and of an index."""
    key_bits = 8 * rows.dtype.itemsize
    return cdiv(key_bits, _DIGIT_BITS) + cdiv((rows.n - 1).bit_length(), _DIGIT_BITS)


def selections_each(rows: Rows) -> int:
    """How many selections are made at a time."""
    return selections_at_once(_passes(rows) * (_BINS + 2 * _STATE) + _FACTS)


def settle(
    rows: Rows,
    quantiles: Tensor | None,
    seed: Tensor,
    sides: Sides,
    first: int,
    width: int,
    samples: int,
) -> tuple[Tensor, Split]:
    """The selections of ``samples`` samples of ``width`` rows from ``first`` on.

    Returns:
        (threshold, index from the end, valid) of each, int64 [samples * width * sides, 3], and how
        their rows were shared out.
    """
    device = rows.logits.device
    passes = _passes(rows)
    selections = samples * width * sides.count
    split = split_selections(rows.n, selections, rows.dtype)
    counts = torch.zeros(selections, passes * _BINS + _FACTS, dtype=torch.int32, device=device)
    states = torch.empty(selections, passes, _STATE, dtype=torch.int64, device=device)
    settled = torch.empty(selections, _STATE, dtype=torch.int64, device=device)
    for index in range(passes):
        launch(
            count_digits_kernel,
            selections * split.parts,
            rows.logits,
            sides.grad,
            rows.row_k,
            quantiles,
            sides.step,
            seed,
            states,
            counts,
            index,
            passes,
            rows.k,
            rows.n,
            first,
            width,
            rows.count,
            split.parts,
            split.span,
            *sides.strides,
            *sides.scalars,
            num_warps=split.num_warps,
            fp_fusion=False,
            SYMMETRIC=sides.symmetric,
            B=split.block,
            DTYPE=rows.tl_dtype,
        )
    launch(
        settle_kernel,
        selections,
        rows.row_k,
        states,
        counts,
        settled,
        passes,
        rows.k,
        first,
        width,
        rows.count,
        num_warps=1,
        SIDES=sides.count,
        DTYPE=rows.tl_dtype,
    )
    return settled, split
