# SPDX-License-Identifier: Apache-2.0
"""Masks with a period: the undecided items all on one parity must not make rejection slow.

With every undecided item in the half that is drawn first, a draw would be accepted only when its
sum is k itself: once in 2.5 sqrt(V) tries, at each level. The sampler draws the other half first
then.
"""

from __future__ import annotations

import time

import pytest
import torch

import discrete_grad as dg

N, ROWS = 4096, 16
INF = float("inf")


def _seconds(logits: torch.Tensor, k: int) -> float:
    """The least processor time of five calls, one thread: what other programs do at the time does
    not count.
    """
    times = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        start = time.process_time()
        z = dg.subset.sample(logits, k, 8, generator=generator)
        times.append(time.process_time() - start)
        assert bool((z.sum(-1) == k).all())
        assert not bool(z[..., logits[0] == -INF].any())
    return min(times)


@pytest.mark.parametrize("filler", [-INF, -60.0], ids=["excluded", "all but excluded"])
@pytest.mark.parametrize(("stride", "offset"), [(2, 0), (2, 1), (4, 2), (8, 7), (32, 0), (64, 31)])
def test_periodic_masks_finish_fast(stride, offset, filler):
    torch.manual_seed(0)
    everywhere = torch.randn(ROWS, N)
    masked = torch.full((ROWS, N), filler)
    masked[:, offset::stride] = everywhere[:, offset::stride]
    k = N // stride // 2
    torch.set_num_threads(1)
    try:
        with dg.backend("cpp"):
            free, restricted = _seconds(everywhere, N // 2), _seconds(masked, k)
    finally:
        torch.set_num_threads(2)
    assert restricted < 3 * free, f"{restricted:.4f} s with the mask, {free:.4f} s without"


@pytest.mark.timeout(120)
def test_reference_finishes_too():
    logits = torch.full((N,), -INF, dtype=torch.float64)
    logits[::2] = torch.randn(N // 2, dtype=torch.float64)
    with dg.backend("reference"):
        z = dg.subset.sample(logits, 700, 4, generator=torch.Generator().manual_seed(0))
    assert (z.sum(-1) == 700).all()
    assert not z[:, 1::2].any()
