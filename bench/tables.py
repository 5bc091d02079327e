# SPDX-License-Identifier: Apache-2.0
"""What the sections of BENCHMARKS.md share: numbers with units, Markdown tables, provenance."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:.3g} {unit}"
    raise AssertionError


def multiple(ratio: float) -> str:
    """Two digits or three, never an exponent."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:#.2g}".removesuffix(".")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, columns of numbers to the right."""
    numbers = [any(row[at].lstrip("*")[:1].isdigit() for row in rows) for at in range(len(header))]
    lines = [header, ["---:" if number else ":---" for number in numbers], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def spread(record: Record) -> str:
    low, high = duration(record["p20"]), duration(record["p80"])
    return f"{duration(record['p50'])} ({low} - {high})"


def taken_on(about: Record, quick: bool = False) -> str:
    """A sentence on machine, date, commit and load."""
    commit = about["commit"][:12] if about["commit"] else "outside a repository"
    if about["uncommitted_changes"]:
        commit += " with uncommitted changes"
    return (
        f"{about['processor']}, {about['cores']} cores, {about['date'][:10]}, {commit}, "
        f"torch {about['torch']}, load average {about['load_average']} before, "
        f"{about['load_average_after']} after{', quick run' if quick else ''}."
    )
