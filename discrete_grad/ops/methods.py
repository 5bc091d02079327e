# SPDX-License-Identifier: Apache-2.0
"""``method="auto"``: the fastest method for the shape; on a CPU from measured crossovers."""

from __future__ import annotations

# Work of the linear recursion per row, n min(k, n - k), up to which it beats the contour on a CPU
# where there are rows to fill the lanes of a vector; for a single row the contour is the faster one
# almost from the start. bench/crossover.py measures it.
_LINEAR_WORK = 4096


# The linear recursion of the Triton kernels stays in registers up to about this many items, and so
# many chosen or left out; beyond, its tree goes through memory. A rule of registers (docs/
# kernels.md), not yet of measured times.
_LINEAR_ITEMS_ON_GPU = 32
_LINEAR_COUNT_ON_GPU = 8


def choose_method(n: int, k: int | None, device_type: str) -> str:
    """ "linear" for small n k, else "contour". ``k`` None: it differs from row to row."""
    narrow = n // 2 if k is None else min(k, n - k)
    if device_type == "cuda":
        small = n <= _LINEAR_ITEMS_ON_GPU and narrow <= _LINEAR_COUNT_ON_GPU
    else:
        small = n * narrow <= _LINEAR_WORK
    return "linear" if small else "contour"
