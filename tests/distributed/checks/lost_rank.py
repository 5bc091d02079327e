# SPDX-License-Identifier: Apache-2.0
"""The last check: a rank dies, and the others end with PyTorch's own error, in time."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import discrete_grad.distributed as dd
from tests.distributed.program import World, check

LIMIT = 5


def _go_on(logits: torch.Tensor, group: dist.ProcessGroup) -> None:
    for _ in range(1000):
        dd.marginals(logits, 4, group=group)


@check(4, last=True)
def a_lost_rank_ends_the_others(world: World) -> None:
    group = dist.new_group(list(range(world.size)), timeout=timedelta(seconds=LIMIT))
    logits = torch.randn(3, 5)
    dd.marginals(logits, 4, group=group)
    if world.rank == world.size - 1:
        os._exit(9)
    start = time.monotonic()
    with pytest.raises(RuntimeError) as error:
        _go_on(logits, group)
    waited = time.monotonic() - start
    print(f"{error.typename} after {waited:.1f} s: {str(error.value)[:90]}")
    assert waited < LIMIT + 5
