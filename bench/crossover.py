# SPDX-License-Identifier: Apache-2.0
"""Where the O(n k) recursion beats the O(n) contour: the measurement behind method="auto".

    python bench/crossover.py [--quick | --rules] [--output FILE]

Times the three methods over (n, k, rows, dtype), forward and forward + backward, and writes
bench/results/crossover.json, with what the rule of discrete_grad/ops/methods.py loses against the
faster of the two, beside what always taking one of them would. --rules measures nothing: it asks
that again of the cells in the file, after a change of the rule.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from cases import Case, Inputs
from checks import check, targets_of
from machine import RESULTS, environment, load_average, save
from measure import time_in_turns
from providers import Provider
from torch import Tensor
from tqdm import tqdm

import discrete_grad as dg
from discrete_grad import ops

METHODS = ("contour", "linear", "recursion")
ROWS = (1, 4, 64, 1024)
DTYPES = (torch.float32, torch.float64)
_MOST_WORK = 2**16
Rule = Callable[[Case], str]
RULES: dict[str, Rule] = {
    "auto": lambda case: ops.choose_method(case.rows, case.n, case.k, "cpu"),
    "contour": lambda _: "contour",
    "linear": lambda _: "linear",
}


@dataclass(frozen=True)
class Cell:
    """Seconds per call of each method on one case: 20th percentiles, as disturbances only add."""

    case: Case
    seconds: dict[str, float]

    def loss(self, rule: Rule) -> float:
        """Time of the method that the rule takes over that of the faster one."""
        taken = self.seconds[rule(self.case)]
        return taken / min(self.seconds["linear"], self.seconds["contour"])


def _grid(quick: bool) -> Iterator[Case]:
    for n in (8, 64, 256) if quick else (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        # Powers of two up to the middle, and two sizes beyond it.
        sizes = [2**e for e in range(n.bit_length()) if 2**e <= n // 2] + [3 * n // 4, n - 1]
        for k in sorted(set(sizes)):
            if n * min(k, n - k) <= _MOST_WORK:
                for rows in (1, 64) if quick else ROWS:
                    for dtype in DTYPES:
                        for op in ("marginals", "marginals_grad"):
                            yield Case(op, rows, n, k, dtype=dtype)


def _forward(method: str, case: Case, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return dg.subset.marginals(inputs.logits, case.k, method=method)


def _forward_backward(method: str, case: Case, inputs: Inputs) -> Tensor:
    mu = dg.subset.marginals(inputs.logits, case.k, method=method)
    return torch.autograd.grad(mu, inputs.logits, inputs.grad)[0]


def _measure(case: Case, seconds: float) -> Cell:
    run, quantity = (
        (_forward, "marginals") if case.op == "marginals" else (_forward_backward, "vjp")
    )
    targets = targets_of(case)
    calls = {}
    for method in METHODS:
        provider = Provider(method, quantity, partial(run, method))
        check(provider, targets)
        calls[method] = partial(provider.run, case, targets.inputs)
    timings = time_in_turns(
        calls, seconds=seconds, most_rounds=20, least_rounds=5, block=seconds / 20
    )
    return Cell(case, {method: timing.p20 for method, timing in timings.items()})


def losses(cells: list[Cell]) -> dict[str, dict[str, object]]:
    """Of each rule: the geometric mean over cells, each of which counts the same; and the worst."""
    found: dict[str, dict[str, object]] = {}
    for name, rule in RULES.items():
        worst = max(cells, key=lambda cell: cell.loss(rule))
        found[name] = {
            "mean_loss": round(geometric_mean(cell.loss(rule) for cell in cells), 3),
            "worst_loss": round(worst.loss(rule), 2),
            "worst_case": worst.case.id,
        }
    return found


def _record(cell: Cell) -> dict[str, object]:
    case = cell.case
    return {
        "op": case.op,
        "dtype": case.dtype_name,
        "rows": case.rows,
        "n": case.n,
        "k": case.k,
        "seconds": cell.seconds,
    }


def _cell(written: dict[str, Any]) -> Cell:
    """The inverse of ``_record``."""
    dtype = next(d for d in DTYPES if str(d) == f"torch.{written['dtype']}")
    case = Case(written["op"], written["rows"], written["n"], written["k"], dtype=dtype)
    return Cell(case, written["seconds"])


def rules_of(cells: list[Cell]) -> dict[str, object]:
    """What each rule loses, for each dtype."""
    by_dtype = [[cell for cell in cells if cell.case.dtype == dtype] for dtype in DTYPES]
    return {mine[0].case.dtype_name: losses(mine) for mine in by_dtype}


def main() -> None:
    parser = argparse.ArgumentParser(description="Where linear, recursion and contour cross.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="a coarse grid; prints only")
    what.add_argument("--rules", action="store_true", help="of the cells that the file has")
    parser.add_argument("--output", type=Path, default=RESULTS / "crossover.json")
    parser.add_argument("--seconds", type=float, default=0.04, help="per method and cell")
    options = parser.parse_args()

    if options.rules:
        written = json.loads(options.output.read_text(encoding="utf-8"))
        written["rules"] = rules_of([_cell(cell) for cell in written["cells"]])
        print(json.dumps(written["rules"], indent=2))
        save(written, options.output)
        return
    record = environment()
    cells = [
        _measure(case, options.seconds)
        for case in tqdm(list(_grid(options.quick)), desc="crossover", unit="cell", disable=None)
    ]
    record["load_average_after"] = load_average()
    rules = rules_of(cells)
    print(json.dumps(rules, indent=2))
    if not options.quick:
        written = {
            "environment": record,
            "threads": torch.get_num_threads(),
            "rules": rules,
            "cells": [_record(cell) for cell in cells],
        }
        save(written, options.output)


if __name__ == "__main__":
    main()
