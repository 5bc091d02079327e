# SPDX-License-Identifier: Apache-2.0
"""Every baseline and yardstick of a case: its time and its error, where it was run."""

from __future__ import annotations

from providers import DESCRIPTIONS, OURS
from tables import Record, duration, table


def tables(cases: list[dict[str, Record]], op: str) -> str:
    """One line for each case, one column for each provider that this op has."""
    of_op = [case for case in cases if case[OURS]["op"] == op]
    names = [name for name in DESCRIPTIONS if any(name in case for case in of_op)]
    # A case that nobody but this library and one yardstick serves is in the table above.
    lines = [_line(case, names) for case in of_op if len(case) > 3]
    if len(names) <= 3 or not lines:
        return ""
    header = ["rows", "n", "k", "dtype", "threads", *(f"`{name}`" for name in names)]
    return "All providers, time (error):\n\n" + table(header, lines)


def _line(case: dict[str, Record], names: list[str]) -> list[str]:
    ours = case[OURS]
    cells = [*(f"{ours[part]:,}" for part in ("rows", "n", "k")), ours["dtype"]]
    return [*cells, str(ours["threads"]), *(_cell(case.get(name)) for name in names)]


def _cell(record: Record | None) -> str:
    if record is None:
        return "-"
    error = "not finite" if record["error"] is None else f"{record['error']:.0e}"
    return f"{duration(record['p50'])} ({error})"
