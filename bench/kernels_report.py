# SPDX-License-Identifier: Apache-2.0
"""The sections of BENCHMARKS.md on the CPU kernels, from what bench/compare_commits.py wrote."""

from __future__ import annotations

from tables import Record, duration, multiple, table, taken_on


def by_commit(written: Record) -> str:
    """Columns: the kernels of several commits."""
    variants = written["variants"]
    names = "\n".join(f"- `{entry['commit']}`: {entry['subject']}" for entry in variants)
    return "\n".join(
        [
            "## CPU kernels, commit by commit\n",
            f"{taken_on(written['environment'])} The kernels alone, float32, one thread, "
            f"{variants[0]['level']}: programs made of each commit, run in turns "
            "(`python bench/compare_commits.py`). docs/performance.md says what was tried and "
            "why.\n",
            names + "\n",
            _times(written, [f"`{entry['commit'][:7]}`" for entry in variants]),
        ]
    )


def by_level(written: Record) -> str:
    """Columns: the SIMD levels of one commit."""
    levels = [entry["level"] for entry in written["variants"]]
    return "\n".join(
        [
            "## CPU kernels, by SIMD level\n",
            f"{taken_on(written['environment'])} The same driver; DEFAULT is the portable code "
            "(SSE2 on this machine), to stay within 4 times AVX2.\n",
            _times(written, levels, 1),
        ]
    )


def by_instruction(written: Record) -> str:
    """What each kernel executes for an item, and where."""
    rows = []
    for case in written["cases"]:
        least = 0.05 * case["per_item"]
        parts = [f"{name} {value:.1f}" for name, value in case["parts"].items() if value >= least]
        rows.append([f"`{case['case']}`", f"{case['per_item']:.1f}", ", ".join(parts)])
    environment = written["environment"]
    return "\n".join(
        [
            "## CPU kernels, instructions for each item\n",
            f"Counted by callgrind (`python bench/instructions.py`), {environment['date'][:10]}, "
            f"{environment['commit'][:12]}; float32, {written['level']}, whose vectors hold eight "
            "items. Functions with a twentieth of them or more; what the compiler put into another "
            "function is counted there.\n",
            table(["op-rows x n-k-samples", "in all", "of these"], rows),
        ]
    )


def _times(written: Record, columns: list[str], other: int = -1) -> str:
    """With the ratio of the first column over another."""
    rows = []
    for case in written["cases"]:
        seconds = case["seconds"]
        ratio = f"**{multiple(seconds[0] / seconds[other])}**"
        rows.append([f"`{case['case']}`", *(duration(one) for one in seconds), ratio])
    return table(["op-rows x n-k-samples", *columns, f"{columns[0]} / {columns[other]}"], rows)
