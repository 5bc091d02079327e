# SPDX-License-Identifier: Apache-2.0
"""The clock: turns, rounds, calls per block, percentiles."""

from __future__ import annotations

import time

import pytest
from measure import percentiles, time_in_turns


def test_providers_take_turns_in_a_rotating_order() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        time.sleep(1e-3)

    providers = {name: lambda name=name: call(name) for name in "abc"}
    timings = time_in_turns(providers, seconds=60.0, most_rounds=3, block=1e-4)
    assert all(timing.rounds == 3 and timing.calls == 1 for timing in timings.values())
    assert "".join(order[-9:]) == "abcbcacab"


def test_a_slow_provider_sits_out_after_three_rounds() -> None:
    providers = {"slow": lambda: time.sleep(5e-3), "fast": lambda: None}
    timings = time_in_turns(providers, seconds=1e-2, most_rounds=5, block=1e-6)
    assert timings["slow"].rounds == 3
    assert timings["fast"].rounds == 5


def test_a_block_lasts_and_times_are_per_call() -> None:
    (timing,) = time_in_turns(
        {"nap": lambda: time.sleep(1e-3)}, seconds=1.0, most_rounds=3, block=5e-2
    ).values()
    assert 2 <= timing.calls <= 50
    assert 1e-3 <= timing.p20 <= timing.p50 <= timing.p80


def test_percentiles() -> None:
    assert percentiles([5.0, 1.0, 3.0, 2.0, 4.0, 0.0]) == pytest.approx((1.0, 2.5, 4.0))
