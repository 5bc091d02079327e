# SPDX-License-Identifier: Apache-2.0
"""``method="auto"``: the fastest method for the shape; on a CPU from measured crossovers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The linear recursion of the CPU kernels beats the contour on short rows: up to so many items, and
# so much work n min(k, n - k), where there are rows to fill the lanes of a vector. What this rule
# loses is measured by bench/crossover.py.
_LINEAR_ITEMS = 512
_LINEAR_WORK = 4096
_LINEAR_ROWS = 16
# The linear recursion of the Triton kernels stays in registers up to about this many items, and so
# many chosen or left out; beyond, its tree goes through memory. A rule of registers (docs/
# kernels.md), not yet of measured times.
_LINEAR_ITEMS_ON_GPU = 32
_LINEAR_COUNT_ON_GPU = 8


def method_for(logits: Tensor, bound: int, row_k: Tensor | None) -> str:
    """What "auto" is for these logits and counts, the latter as ``routing.row_counts`` has them."""
    *batch, n = logits.shape
    known = None if row_k is not None else bound
    return choose_method(math.prod(batch), n, known, logits.device.type)


def choose_method(rows: int | torch.SymInt, n: int, k: int | None, device_type: str) -> str:
    """ "linear" for many rows of small n k, else "contour". ``k`` None: it differs by row.

    An exported program has one method for every batch: a symbolic number of rows counts as many.
    """
    narrow = n // 2 if k is None else min(k, n - k)
    if device_type == "cuda":
        linear = n <= _LINEAR_ITEMS_ON_GPU and narrow <= _LINEAR_COUNT_ON_GPU
    else:
        many = isinstance(rows, torch.SymInt) or rows >= _LINEAR_ROWS
        linear = n <= _LINEAR_ITEMS and n * narrow <= _LINEAR_WORK and many
    return "linear" if linear else "contour"
