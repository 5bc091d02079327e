# SPDX-License-Identifier: Apache-2.0
"""One of the processes that the tests of this folder share: runs checks, writes what came.

python program.py RANK PORT FOLDER NAME-SIZE...
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

PROCESSES = 4
TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class World:
    """The first ``size`` of the processes, which a check runs on."""

    size: int
    rank: int
    group: dist.ProcessGroup
    folder: str


# name -> (check, numbers of processes, last). A check raises where something is wrong; it runs on
# every rank of its world, and what it prints on the first one is kept.
CHECKS: dict[str, tuple[Callable[[World], None], tuple[int, ...], bool]] = {}
SLOW: set[str] = set()


def check(
    *sizes: int, last: bool = False, slow: bool = False
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Registers a check for so many processes, one after the other; ``last`` behind all others.

    ``slow``: its test has that mark.
    """

    def register(function: Callable[[World], None]) -> Callable[[World], None]:
        CHECKS[function.__name__] = function, sizes, last
        if slow:
            SLOW.add(function.__name__)
        return function

    return register


def names() -> list[str]:
    """Of all checks at all sizes, in the order in which they run: NAME-SIZE."""
    ordered = sorted(CHECKS.items(), key=lambda item: item[1][2])
    return [f"{name}-{size}" for name, (_, sizes, _) in ordered for size in sizes]


def run(rank: int, port: int, folder: str, wanted: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES, timeout=TIMEOUT)
    groups = {
        size: dist.new_group(list(range(size)), timeout=TIMEOUT) for size in range(1, PROCESSES + 1)
    }
    outcomes: dict[str, dict[str, object]] = {}
    for name in wanted:
        function, size = CHECKS[name.rpartition("-")[0]][0], int(name.rpartition("-")[2])
        if rank >= size:
            continue
        printed, failure, start = io.StringIO(), None, time.perf_counter()
        torch.manual_seed(7)  # alike on all ranks: what must differ by rank may not come from here
        try:
            with contextlib.redirect_stdout(printed):
                function(World(size, rank, groups[size], folder))
        except Exception:
            failure = traceback.format_exc()
        seconds = time.perf_counter() - start
        outcomes[name] = {"failure": failure, "printed": printed.getvalue(), "seconds": seconds}
        torch.save(outcomes, f"{folder}/{rank}.pt")
        if failure:  # the others may wait for this rank by now: nothing after this would tell
            os._exit(1)
    os._exit(0)  # not all ranks are left to say goodbye: the last check ends one of them


if __name__ == "__main__":
    from tests.distributed import program
    from tests.distributed.checks import batch, lost_rank, rows, sampling  # noqa: F401

    program.run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
