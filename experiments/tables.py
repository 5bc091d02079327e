# SPDX-License-Identifier: Apache-2.0
"""Tables of results, for the terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import rich.markup
import rich.table


@dataclass(frozen=True)
class Table:
    """Cells of text under column headings; the first column names the rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the row {row} has no cell for each of {self.columns}")

    def markdown(self) -> str:
        """As GitHub's Markdown has it, the caption below."""
        lines = [
            _line(self.columns),
            "|---|" + "---:|" * (len(self.columns) - 1),
            *(_line(row) for row in self.rows),
        ]
        return "\n".join(lines) + f"\n\n{self.caption}"

    def rich(self, title: str) -> rich.table.Table:
        """For the terminal."""
        result = rich.table.Table(title=title, caption=rich.markup.escape(self.caption))
        for i, column in enumerate(self.columns):
            result.add_column(rich.markup.escape(column), justify="right" if i else "left")
        for row in self.rows:
            result.add_row(*map(rich.markup.escape, row))
        return result


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def mean_std(values: Sequence[float], digits: int) -> str:
    """mean ± sample standard deviation (the mean alone of a single value)."""
    if not values:
        raise ValueError("there is no mean of no values")
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.{digits}f}"
