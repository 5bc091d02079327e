# SPDX-License-Identifier: Apache-2.0
"""The kernels of each SIMD level, forced by ATEN_CPU_CAPABILITY in a process of its own, against
the exact values.

A level that the processor lacks cannot be forced (PyTorch takes the best it has below it) and is
skipped by name.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import oracle
from tests.accuracy.evaluate import METHODS, check
from tests.cases import FLOAT32_CASES, padded
from tests.tolerances import bound

LEVELS = ["default", "avx2", "avx512"]


def _flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    line = next((x for x in info.read_text().splitlines() if x.startswith("flags")), ":")
    return set(line.split(":")[1].split())


def _has(level: str) -> bool:
    needed = {
        "default": set(),
        "avx2": {"avx2", "fma"},
        "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
    }
    return platform.machine() == "x86_64" and needed[level] <= _flags()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One run per level, made when first asked for."""
    folder = tmp_path_factory.mktemp("isa")
    logits, k, grad = padded(FLOAT32_CASES)
    np.savez(folder / "rows.npz", logits=logits, k=k, grad=grad)
    done: dict[str, dict[str, np.ndarray]] = {}

    def run(level: str) -> dict[str, np.ndarray]:
        if level not in done:
            out = folder / f"{level}.npz"
            probe = Path(__file__).with_name("isa_probe.py")
            run = subprocess.run(
                [sys.executable, str(probe), str(folder / "rows.npz"), str(out)],
                env={**os.environ, "ATEN_CPU_CAPABILITY": level},
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert run.returncode == 0, run.stderr
            with np.load(out) as data:
                done[level] = dict(data)
        return done[level]

    return run


@pytest.mark.parametrize("level", LEVELS)
def test_level_is_accurate(results, level):
    if level != "default" and not _has(level):
        pytest.skip(f"this processor has no {level}")
    got = results(level)
    if _has("default"):
        assert str(got["capability"]).lower() == level
    for dtype in (torch.float64, torch.float32):
        for method in METHODS:
            prefix = f"{str(dtype).removeprefix('torch.')}/{method}/"
            for row, case in enumerate(FLOAT32_CASES):
                n = len(case.logits)
                exact = oracle.subset_cached(case.logits, case.k, case.grad)
                label = f"{level}, {prefix}{case.id}: "
                for quantity, want in (
                    ("marginals", oracle.as_floats(exact.marginals)),
                    ("vjp", oracle.as_floats(exact.vjp)),
                ):
                    check(
                        label + quantity,
                        got[prefix + quantity][row, :n],
                        want,
                        bound(quantity, dtype, method),
                    )
                log_z = np.array(float(exact.log_partition))
                tolerance = bound("log_partition", dtype, method)
                check(
                    label + "log_partition",
                    got[prefix + "log_partition"][row],
                    log_z,
                    tolerance,
                    relative=True,
                )


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_levels_agree(results, level):
    """The same subsets from the same seed, and counts to rounding, whatever the vector width."""
    if not _has(level):
        pytest.skip(f"this processor has no {level}")
    narrow, wide = results("default"), results(level)
    for name in ("float64", "float32"):
        differ = (narrow[f"{name}/sample"] != wide[f"{name}/sample"]).any(-1).mean()
        assert differ <= (0.0 if name == "float64" else 0.005), (
            f"{name}: {differ:.2%} of the subsets differ"
        )
        tolerance = 1e-12 if name == "float64" else 4e-6
        check(
            f"{name}/count",
            wide[f"{name}/count"],
            narrow[f"{name}/count"],
            tolerance,
            relative=True,
        )
