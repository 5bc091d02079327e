# SPDX-License-Identifier: Apache-2.0
"""The section of BENCHMARKS.md on the memory of SIMPLE, from what bench/memory.py wrote."""

from __future__ import annotations

from providers import DP, OURS
from tables import Record, table, taken_on


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f}"


def section(written: Record) -> str:
    header = ["rows", "n", "k", "logits, MiB", "discrete_grad, MiB", "over the logits"]
    header += ["DP, MiB", "over the logits"]

    def row(case: Record) -> list[str]:
        ours, dp = case[OURS], case.get(DP)
        cells = [f"{case[part]:,}" for part in ("rows", "n", "k")]
        cells += [_mib(case["logits_bytes"]), _mib(ours["beyond_outputs_bytes"])]
        cells += [f"**{max(ours['over_logits'], 0):.2g}**"]
        if dp is None:
            return [*cells, f"not run: its table alone is {_mib(case['dp_table_bytes'])}", "-"]
        return [*cells, _mib(dp["beyond_outputs_bytes"]), f"{dp['over_logits']:.3g}"]

    return "\n".join(
        [
            "## Memory of SIMPLE, forward + backward\n",
            "What one call adds to a fresh process at its highest, beyond inputs and outputs (the "
            "sample and the gradient), float32. The dynamic programme's tables hold rows n (k + 1) "
            f"numbers. {taken_on(written['environment'], written['quick'])}\n",
            table(header, [row(case) for case in written["cases"]]),
        ]
    )
