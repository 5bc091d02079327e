# SPDX-License-Identifier: Apache-2.0
"""Times of several callables, taken in turns within one process.

A block is so many calls of one provider that it lasts at least _BLOCK seconds; one round has one
block of each provider, in an order that rotates from round to round, so that a change of the
machine's speed meets all of them. The numbers kept are the 20th, 50th and 80th percentile over the
rounds of the time per call; ratios are of medians of the same run.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_BLOCK = 2e-3


@dataclass(frozen=True)
class Timing:
    """Seconds per call at three percentiles, over ``rounds`` blocks of ``calls`` calls."""

    p20: float
    p50: float
    p80: float
    rounds: int
    calls: int


def percentiles(times: list[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile, between neighbours linearly; four digits."""
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    p20, p50, p80 = (float(f"{t:.4g}") for t in (fifths[0], statistics.median(times), fifths[3]))
    return p20, p50, p80


def _block(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def _calls_per_block(call: Callable[[], object], seconds: float) -> int:
    call()  # the first call pays for allocations, threads and caches
    once = _block(call, 1)
    if once < seconds / 10:
        once = _block(call, 10) / 10
    return max(1, math.ceil(seconds / once))


def time_in_turns(
    providers: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    most_rounds: int,
    least_rounds: int = 3,
    block: float = _BLOCK,
) -> dict[str, Timing]:
    """Time every provider for about ``seconds`` each.

    A provider that has had its time and ``least_rounds`` sits out the rounds that are left.
    """
    calls = {name: _calls_per_block(run, block) for name, run in providers.items()}
    times: dict[str, list[float]] = {name: [] for name in providers}
    names = list(providers)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(most_rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                spent = sum(times[name]) * calls[name]
                if turn < least_rounds or spent < seconds:
                    times[name].append(_block(providers[name], calls[name]) / calls[name])
    finally:
        if was_enabled:
            gc.enable()
    return {
        name: Timing(*percentiles(taken), rounds=len(taken), calls=calls[name])
        for name, taken in times.items()
    }
