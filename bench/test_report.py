# SPDX-License-Identifier: Apache-2.0
"""Numbers to reach, scaling, memory: what is measured, fitted and written."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import bounds
import memory
import memory_report
import pytest
import report
import run
import scaling
import scaling_figures
import scaling_report
import targets
import targets_report
import torch
from cases import Case
from machine import environment
from providers import DFT, DP, OURS, SOFTMAX, TREE

ABOUT = {**environment(), "load_average_after": [0.0, 0.0, 0.0]}
SETTINGS = targets.Settings(threads=1, seconds=0.01, compiled=False)
SMALL = Case("marginals", 2, 16, 3)


@pytest.fixture(autouse=True)
def _threads_as_they_were():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _timed(provider: str, p50: float, error: float | None = 0.0, **more: object) -> dict:
    record = {"provider": provider, "op": "marginals", "rows": 16, "n": 4096, "k": 10}
    return {**record, "dtype": "float32", "p50": p50, "error": error, **more}


def test_the_fastest_baseline_is_right():
    records = [_timed(OURS, 1.0), _timed(SOFTMAX, 0.1), _timed(DFT, 2.0, None)]
    records += [_timed(DP, 9.0), _timed("circuit, compiled", 3.0), _timed(TREE, 2.5, 0.5)]
    assert targets.fastest(records)["provider"] == "circuit, compiled"
    records.append(_timed(TREE, 2.0, 1e-8))
    assert targets.fastest(records)["provider"] == "circuit, compiled"
    assert targets.fastest(records, targets.BASELINES)["provider"] == TREE


def test_rows_of_the_table_are_measured():
    rows = (
        targets.Row("fast", "ages", "1x", partial(targets.speedup, SMALL, 1e-9)),
        targets.Row("faster", "ages", "a lot", partial(targets.speedup, SMALL, 1e9)),
        targets.Row("over the DP", "", "", partial(targets.over_dp, SMALL, 10.0, 0.0)),
        targets.Row("at most", "", "", partial(
            targets.at_most, "marginals", ((2, 16, 3), (1, 32, 4)), SOFTMAX, 1e9)),
        targets.Row("on a GPU", "", "fast", targets.not_run),
    )  # fmt: skip
    filled = targets.fill(rows, SETTINGS)
    assert [row["reached"] for row in filled] == [True, False, True, True, None]
    text = targets_report.section(
        {"environment": ABOUT, "quick": True, "threads": 1, "rows": json.loads(json.dumps(filled))}
    )
    assert "| a lot | **no** |" in text
    assert "| not yet run on a GPU | fast | - |" in text
    assert f"| fast | {DP} |" in text


def test_what_stops_a_row_is_said_of_rows_that_there_are():
    assert bounds.BOUNDS.keys() <= {row.work for row in targets.ROWS}


def test_bounds_are_of_what_was_measured():
    row = {"best_seconds": 1e-2, "goal": 500.0, "fixed_seconds": 1e-5, "ours": 5e-5}
    text = bounds.of_call_and_arithmetic("no such shape")(row)
    assert "takes 10 us" in text
    assert "is 25% of what they take." in text
    details = [_timed(OURS, seconds, k=k) for k, seconds in ((10, 3e-3), (1000, 2e-3))]
    text = bounds.of_node_counts({"details": details})
    assert "slowest is k = 10 (3 ms), the fastest k = 1,000 (2 ms)" in text


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
def test_the_exponent_of_a_power_law(power):
    lengths = [8, 512, 4096, 16384, 65536]
    times = {n: 1e-9 * n**power + (1.0 if n < scaling.FROM_N else 0.0) for n in lengths}
    records = [_timed(OURS, times[n], n=n) for n in lengths]
    assert scaling.exponent(records) == pytest.approx(power)


def test_one_thread_over_two_is_checked_and_timed():
    found = scaling.threads_ratio(SMALL, 0.01)
    assert found["ratio"] == pytest.approx(found["one"] / found["two"], rel=0.01)


def _scaled() -> dict:
    over_n = [_timed(OURS, n * 1e-9, n=n) for n in (4096, 16384)]
    over_n += [_timed(SOFTMAX, n * 1e-10, n=n) for n in (4096, 16384)]
    over_n += [_timed(DP, n * 1e-6, n=n) for n in (64, 512)]
    over_k = [_timed(OURS, 1e-3 * k**0.1, n=65536, k=k) for k in (10, 32768)]
    over_k += [_timed(name, 1e-3, n=1024, k=k) for name in (OURS, DP) for k in (1, 512)]
    over_rows = [_timed(OURS, rows * 1e-7, rows=rows) for rows in (1, 1000)]
    found = {"n": over_n, "k": over_k, "rows": over_rows}
    threads = [{"op": "marginals", "rows": 8, "n": 9, "k": 3, "one": 3.0, "two": 2.0, "ratio": 1.5}]
    accuracy = [_timed("contour", 1e-4, 1e-7), _timed(DP, 1e-2, 1e-5), _timed(DFT, 1.0, None)]
    return {
        "environment": ABOUT, "quick": True, "threads": 1, "over_n": over_n, "over_k": over_k,
        "over_rows": over_rows, "accuracy": accuracy, "two_threads": threads,
        "summary": scaling.summary(found, threads),
    }  # fmt: skip


def test_scaling_is_held_to_its_bounds(tmp_path):
    written = _scaled()
    assert written["summary"]["exponents"] == {"marginals": 1.0}
    text = scaling_report.section(written)
    assert "| exponent of n, Marginals, forward | 1.00 | 0.95 to 1.1 | yes |" in text
    assert "| 2.25 | at most 1.5 | **no** |" in text
    assert "| 1.50 | at least 1.7 | **no** |" in text
    scaling_figures.draw(written, tmp_path)
    assert {path.stem.removeprefix("bench-") for path in tmp_path.glob("*.png")} == set(
        scaling_report.FIGURES
    )


def test_every_sweep_has_the_points_its_summary_reads():
    for quick in (True, False):
        cases = scaling.sweeps(quick)
        assert {10, 32768} <= {case.k for case in cases["k"] if case.n == 65536}
        assert sum(case.n >= scaling.FROM_N for case in cases["n"] if case.op == "marginals") >= 3


def test_memory_beyond_the_outputs():
    case = Case("simple_grad", 16, 1024, 16)
    found = memory.measure(case, threads=1)
    table = case.rows * case.n * (case.k + 1) * 4
    assert found["dp_table_bytes"] == table
    assert found[DP]["beyond_outputs_bytes"] > table
    assert found[OURS]["beyond_outputs_bytes"] < table / 2
    large = {"rows": 64, "n": 65536, "k": 4096, "logits_bytes": 2**24, "dp_table_bytes": 2**36}
    written = {"environment": ABOUT, "quick": False, "cases": [found, {**large, OURS: found[OURS]}]}
    assert "not run: its table alone is 65,536.0" in memory_report.section(written)


def test_benchmarks_md_from_a_folder(tmp_path: Path):
    records = run.run_all([SMALL, Case("sample", 2, 16, 3)], [1], 0.01)
    timing = dict.fromkeys(("p20", "p50", "p80"), 1e-6)
    results = {
        "environment": ABOUT,
        "quick": True,
        "dispatch_cost": {"op alone": timing},
        "results": records,
    }
    memory_row = {"rows": 1, "n": 2, "k": 1, "logits_bytes": 8, "dp_table_bytes": 16}
    memory_row |= {OURS: {"beyond_outputs_bytes": -1, "over_logits": -0.1}}
    files = {
        "cpu-1cores-2026-01-01": results,
        "scaling": _scaled(),
        "memory": {"environment": ABOUT, "quick": True, "cases": [memory_row]},
        "targets": {"environment": ABOUT, "quick": True, "threads": 1, "rows": []},
    }
    for name, written in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(written), encoding="utf-8")
    output = report.write(tmp_path, tmp_path / "BENCHMARKS.md")
    headings = [line for line in output.read_text().splitlines() if line.startswith("## ")]
    assert headings == [
        "## Numbers to reach",
        "## Who is compared",
        f"## {ABOUT['host_kind']}, {ABOUT['date'][:10]}",
        "## Scaling",
        "## Memory of SIMPLE, forward + backward",
    ]
    assert "All providers, time (error):" in output.read_text()
