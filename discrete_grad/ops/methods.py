# SPDX-License-Identifier: Apache-2.0
"""``method="auto"``: the fastest method for the shape, from measured crossovers."""

from __future__ import annotations

# Work of the linear recursion per row, n min(k, n - k), up to which it beats the contour on a CPU
# where there are rows to fill the lanes of a vector; for a single row the contour is the faster one
# almost from the start. bench/crossover.py measures it.
_LINEAR_WORK = 4096


def choose_method(n: int, k: int | None) -> str:
    """ "linear" for small n k, else "contour". ``k`` None: it differs from row to row."""
    narrow = n // 2 if k is None else min(k, n - k)
    return "linear" if n * narrow <= _LINEAR_WORK else "contour"
