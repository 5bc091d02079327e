# SPDX-License-Identifier: Apache-2.0
"""``method="auto"``: the fastest method for the shape, from measured crossovers."""

from __future__ import annotations

import torch

# Work of the linear recursion per row, n min(k, n - k), up to which it beats the contour on a CPU.
# bench/crossover.py measures it; bench/results holds what it gave.
_LINEAR_WORK = {4: 8192, 8: 2048}


def choose_method(n: int, k: int | None, dtype: torch.dtype) -> str:
    """ "linear" for small n k, else "contour". ``k`` None: it differs from row to row."""
    narrow = n // 2 if k is None else min(k, n - k)
    return "linear" if n * narrow <= _LINEAR_WORK[8 if dtype == torch.float64 else 4] else "contour"
