# SPDX-License-Identifier: Apache-2.0
"""The section of BENCHMARKS.md on scaling, from what bench/scaling.py wrote."""

from __future__ import annotations

from cases import OPS
from tables import Record, table, taken_on

# To reach: bounds of the exponent; time at k = n / 2 over that at k = 10; of one thread over two.
_EXPONENT, _OVER_K, _THREADS = (0.95, 1.1), 1.5, 1.7
FIGURES = {
    "n": "Time over n, 16 rows, k = n / 16",
    "k": "Time over k, 16 rows",
    "rows": "Time over the number of rows, n = 64, k = 8",
    "accuracy": "Error over time, marginals of 64 rows, n = 256, k = 32",
}


def _yes(inside: bool) -> str:
    return "yes" if inside else "**no**"


def section(written: Record) -> str:
    """Exponents and ratios beside their bounds, and the figures."""
    found = written["summary"]
    low, high = _EXPONENT
    rows = [
        [
            f"exponent of n, {OPS[op]}",
            f"{v:.2f}",
            f"{low} to {high}",
            _yes(low <= v <= high),
        ]
        for op, v in found["exponents"].items()
    ]
    rows += [
        [f"k = n / 2 over k = 10, {OPS[op]}", f"{v:.2f}", f"at most {_OVER_K}", _yes(v <= _OVER_K)]
        for op, v in found["half_over_ten"].items()
    ]
    rows += [
        [f"one thread over two, {case}", f"{v:.2f}", f"at least {_THREADS}", _yes(v >= _THREADS)]
        for case, v in found["two_threads"].items()
    ]
    # The rows of 10^6 items and more leave the cache, and their results are fresh pages.
    rows += [
        [f"exponent of n, torch.softmax of the same rows, beside {OPS[op]}", f"{v:.2f}", "", ""]
        for op, v in found["exponents_of_softmax"].items()
    ]
    figures = [f"![{text}](docs/figures/bench-{name}.png)\n" for name, text in FIGURES.items()]
    return "\n".join(
        [
            "## Scaling\n",
            f"{taken_on(written['environment'], written['quick'])} float32, {written['threads']} "
            "threads where not said otherwise. Exponent: slope of log time over log n, n from 4096 "
            "on, 16 rows, k = n / 16; over k: 16 rows of 65,536.\n",
            table(["what", "measured", "to reach", "reached"], rows),
            *figures,
        ]
    )
