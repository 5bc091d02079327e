# SPDX-License-Identifier: Apache-2.0
"""The section of BENCHMARKS.md on the methods' crossover, from what bench/crossover.py wrote."""

from __future__ import annotations

from tables import Record, table


def section(written: Record) -> str:
    about = written["environment"]
    rules = table(
        ["dtype", "rule", "mean loss", "worst loss", "worst case"],
        [
            [
                dtype,
                name,
                f"{loss['mean_loss']:.3f}",
                f"{loss['worst_loss']:.2f}",
                loss["worst_case"],
            ]
            for dtype, rules in written["rules"].items()
            for name, loss in rules.items()
        ],
    )
    parts = [
        "## Which method `auto` takes\n",
        f"{about['processor']}, {about['cores']} cores, {about['date'][:10]}, load average "
        f"{about['load_average']} before, {about['load_average_after']} after. A loss is the time "
        'of the method that a rule takes over that of the faster of "contour" and "linear"; the '
        'mean is geometric over all cells. "auto" is the rule of discrete_grad/ops/methods.py; the '
        "others take one method always.\n",
        rules,
        'Time of "linear" over that of "contour", forward | forward + backward, and the fastest '
        "where that is neither:\n",
        _cells(written["cells"]),
    ]
    return "\n".join(parts)


def _cells(cells: list[Record]) -> str:
    """float32, one line for each n and k, one column for each number of rows."""
    chosen = [cell for cell in cells if cell["dtype"] == "float32" and 2 * cell["k"] <= cell["n"]]
    by_place = {(c["n"], c["k"], c["rows"], c["op"]): c["seconds"] for c in chosen}
    rows_counts = sorted({cell["rows"] for cell in chosen})

    def ratios(n: int, k: int, rows: int) -> str:
        texts = []
        for op in ("marginals", "marginals_grad"):
            seconds = by_place[n, k, rows, op]
            text = f"{seconds['linear'] / seconds['contour']:.2f}"
            if seconds["recursion"] < min(seconds["linear"], seconds["contour"]):
                text += " (recursion)"
            texts.append(text)
        return ", ".join(texts)

    lines = [
        [str(n), str(k), str(n * k), *(ratios(n, k, rows) for rows in rows_counts)]
        for n, k in sorted({(cell["n"], cell["k"]) for cell in chosen})
    ]
    return table(["n", "k", "n k", *(f"{rows} rows" for rows in rows_counts)], lines)
