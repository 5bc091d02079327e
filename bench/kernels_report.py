# SPDX-License-Identifier: Apache-2.0
"""The section of BENCHMARKS.md on the CPU kernels, from what bench/compare_commits.py wrote."""

from __future__ import annotations

from tables import Record, duration, multiple, table, taken_on


def section(written: Record) -> str:
    commits = written["commits"]
    names = "\n".join(f"- `{entry['commit']}`: {entry['subject']}" for entry in commits)
    rows = []
    for case in written["cases"]:
        seconds = case["seconds"]
        ratio = f"**{multiple(seconds[0] / seconds[-1])}**"
        rows.append([f"`{case['case']}`", *(duration(one) for one in seconds), ratio])
    header = ["op-rows x n-k-samples", *(f"`{c['commit'][:7]}`" for c in commits), "first / last"]
    return "\n".join(
        [
            "## CPU kernels, commit by commit\n",
            f"{taken_on(written['environment'])} The kernels alone, float32, one thread, "
            f"{written['level']}: programs made of each commit, run in turns "
            "(`python bench/compare_commits.py`). docs/performance.md says what was tried and "
            "why.\n",
            names + "\n",
            table(header, rows),
        ]
    )
