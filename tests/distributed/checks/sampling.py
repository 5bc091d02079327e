# SPDX-License-Identifier: Apache-2.0
"""The sharded sampler and SIMPLE: the law of the draws over all ranks, seeds, gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.distributed as dist

import discrete_grad as dg
import discrete_grad.distributed as dd
from tests import cases
from tests.distributed.program import World, check
from tests.stats import P_VALUE, chi_square_p, marginal_z, max_z_bound, subset_codes

INF = float("inf")
# Logits, k, and the cuts between the ranks, by number of processes.
_LAWS = {
    2: ([0.3, -1.2, 2.0, 0.0, 0.7, -0.4, 1.1, -2.0], 4, (0, 4, 8)),
    3: ([1.5, -0.5, 0.2, 3.0, -3.0, 0.0, 0.9, -1.4, 0.6], 5, (0, 4, 4, 9)),
    4: ([0.0, INF, -1.0, 0.5, -INF, 2.0, 1.0, -0.3, 0.1, 6.0], 5, (0, 1, 4, 8, 10)),
}


def _exact(logits: list[float], k: int) -> dict[int, float]:
    forced = {i for i, x in enumerate(logits) if x == INF}
    weights = {}
    for subset in itertools.combinations(range(len(logits)), k):
        if forced <= set(subset) and all(logits[i] > -INF for i in subset):
            score = sum(logits[i] for i in subset if i not in forced)
            weights[sum(1 << i for i in subset)] = math.exp(score)
    total = sum(weights.values())
    return {code: weight / total for code, weight in weights.items()}


def _whole(local: torch.Tensor, cuts: tuple[int, ...], world: World) -> torch.Tensor:
    """The draws of all ranks side by side."""
    wide = local.new_zeros(*local.shape[:-1], cuts[-1])
    wide[..., cuts[world.rank] : cuts[world.rank + 1]] = local
    dist.all_reduce(wide, group=world.group)
    return wide


@check(2, 3, 4)
def draws_over_all_subsets(world: World) -> None:
    logits, k, cuts = _LAWS[world.size]
    part = torch.tensor(logits)[cuts[world.rank] : cuts[world.rank + 1]]
    draws = _whole(dd.sample(part, k, 20_000, group=world.group), cuts, world)
    assert (draws.sum(-1) == k).all()
    law = _exact(logits, k)
    p = chi_square_p(subset_codes(draws.numpy()), law)
    print(f"chi-square over {len(law)} subsets, 20000 draws: p = {p:.2f}")
    assert p > P_VALUE


@check(4)
def draws_of_long_rows(world: World) -> None:
    """Marginals, and the law of one rank's count, where no law can be enumerated."""
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(2000, generator=rng, dtype=torch.float64) * 2
    cuts = (0, 100, 900, 901, 2000)
    mine = slice(cuts[world.rank], cuts[world.rank + 1])
    samples = 4000
    draws = _whole(dd.sample(logits[mine], 300, samples, group=world.group), cuts, world)
    assert (draws.sum(-1) == 300).all()
    z = marginal_z(draws.mean(0).numpy(), dg.subset.marginals(logits, 300).numpy(), samples)
    assert np.abs(z).max() < max_z_bound(z.size)
    assert abs((z**2).sum() - z.size) < 6 * math.sqrt(2 * z.size)
    # P(c_2 = c | k) is proportional to P(S_2 = c) P(rest = k - c).
    inside = torch.zeros(2000, dtype=torch.bool)
    inside[cuts[1] : cuts[2]] = True
    ours = dg.subset.count_log_prob(logits[inside], 300)
    theirs = dg.subset.count_log_prob(logits[~inside], 300).flip(0)
    law = (ours + theirs).softmax(0).numpy()
    counts = draws[:, inside].sum(-1).long().numpy()
    p = chi_square_p(counts, {c: q for c, q in enumerate(law) if q > 0})
    print(f"marginals of 2000 items: largest z {np.abs(z).max():.1f}; count of one rank: {p:.2f}")
    assert p > P_VALUE


@check(1, 3)
def draws_of_adversarial_rows(world: World) -> None:
    """Exactly k items, all of the law, whatever the row."""
    for dtype, table in ((torch.float64, cases.CASES), (torch.float32, cases.FLOAT32_CASES)):
        logits, sizes, _ = cases.padded(table)
        k = torch.tensor(sizes)
        mine = slice(*((0, 300) if world.size == 1 else ((0, 4), (4, 18), (18, 300))[world.rank]))
        part = torch.tensor(logits, dtype=dtype)[:, mine]
        draws = dd.sample(part, k, 5, group=world.group)
        total = draws.sum(-1)
        dist.all_reduce(total, group=world.group)
        assert torch.equal(total, k.expand_as(total).to(dtype))
        assert dd.log_prob(part, k, draws, group=world.group).isfinite().all()


@check(3)
def the_first_generator_decides(world: World) -> None:
    logits = torch.zeros(50)
    own = [torch.Generator().manual_seed(5 + 100 * world.rank) for _ in range(2)]
    first, again = (dd.sample(logits, 70, group=world.group, generator=g) for g in own)
    assert torch.equal(first, again)
    other = torch.Generator().manual_seed(5 if world.rank else 6)
    assert not torch.equal(first, dd.sample(logits, 70, group=world.group, generator=other))
    other_ranks = torch.Generator().manual_seed(5 if world.rank == 0 else 999)
    same = dd.sample(logits, 70, group=world.group, generator=other_ranks)
    assert torch.equal(first, same)
    parts = [torch.empty_like(first) for _ in range(3)]
    dist.all_gather(parts, first, group=world.group)
    assert not torch.equal(parts[0], parts[1]), "two ranks drew the same items"


@check(2)
def simple_has_the_gradient_of_the_marginals(world: World) -> None:
    for dtype, accuracy in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        logits = torch.randn(4, 9, dtype=dtype)
        upstream = torch.randn(3, 4, 9, dtype=dtype)
        mine = slice(0, 2) if world.rank == 0 else slice(2, 9)
        part = logits[:, mine].clone().requires_grad_()
        hot = dd.simple(part, 4, 3, group=world.group)
        assert hot.shape == (3, *part.shape)
        assert ((hot == 0) | (hot == 1)).all()
        hot.backward(upstream[..., mine])
        whole = logits.clone().requires_grad_()
        dg.subset.marginals(whole, 4).backward(upstream.sum(0))
        assert (part.grad - whole.grad[:, mine]).abs().max() < accuracy
