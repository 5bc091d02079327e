# SPDX-License-Identifier: Apache-2.0
"""pytest-benchmark over the quick cases: marginals forward, forward + backward, samples, SIMPLE.

    pytest bench --benchmark-columns=median,iqr,rounds
    pytest bench -k "marginals_grad and 64x256"

Every provider is checked before it is timed, and the providers of a case are one group: this
library beside the dynamic programme. The tables of BENCHMARKS.md come from run.py, which times the
providers of a case in turns; here they run one after another, and pytest-benchmark saves and
compares (--benchmark-autosave, --benchmark-compare).
"""

from __future__ import annotations

from functools import lru_cache

import pytest
from cases import QUICK_CASES, Case
from checks import check, targets_of
from providers import Provider, providers_of
from pytest_benchmark.fixture import BenchmarkFixture

# One case at a time: the targets of the longest rows take a lot of memory.
_targets = lru_cache(maxsize=1)(targets_of)


@pytest.mark.parametrize(
    ("case", "provider"),
    [
        pytest.param(case, provider, id=f"{case.id}-{provider.name}")
        for case in QUICK_CASES
        for provider in providers_of(case)
    ],
)
def test_speed(benchmark: BenchmarkFixture, case: Case, provider: Provider) -> None:
    targets = _targets(case)
    benchmark.group = case.id
    benchmark.extra_info["error"] = check(provider, targets)
    benchmark(provider.run, case, targets.inputs)
