# SPDX-License-Identifier: Apache-2.0
"""The sampler's law by chi-square over all subsets, for the tree and for halving.

Halving is exercised on rows short enough to list by lowering the size at which the tree takes over.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.reference import sampling
from discrete_grad.reference.contour import characteristic, probability
from discrete_grad.reference.items import Items, tilt_items
from discrete_grad.reference.rows import classify
from discrete_grad.reference.tilt import solve_tilt
from tests import oracle, stats

INF = math.inf
DRAWS = 100_000

ROWS = {
    "uniform": ([0.0] * 9, 4),
    "normal": ([1.2, -0.3, 0.8, -2.0, 0.1, 1.7, -1.1, 0.4, -0.6, 0.0], 5),
    "steep": ([-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0], 3),
    "softmax": ([0.5, -1.0, 2.0, 0.0, -2.0, 1.0, 0.25], 1),
    "all-but-one": ([0.5, -1.0, 2.0, 0.0, -2.0, 1.0, 0.25], 6),
    # All that is uncertain sits on one parity: the half that is drawn first must be the other one.
    "even-uncertain": ([0.5, 9.0, -0.5, -9.0, 1.0, 9.0, -1.0, -9.0, 0.0, 9.0, 0.3], 6),
    "odd-uncertain": ([9.0, 0.5, -9.0, -0.5, 9.0, 1.0, -9.0, -1.0, 9.0, 0.0, -9.0], 6),
    "masked": ([0.5, -INF, 1.0, INF, -1.0, 0.0, -INF, 2.0, INF, -0.5, 0.25, 1.0], 5),
}


def _law(logits: list[float], k: int) -> dict[int, float]:
    exact = oracle.enumerate_subsets(logits, k)
    return {sum(1 << i for i in subset): float(p) for subset, p in exact.items()}


@pytest.mark.parametrize("tree_size", [64, 4, 1], ids=["tree", "halving", "halving-to-the-end"])
@pytest.mark.parametrize("name", ROWS)
def test_law(name, tree_size):
    logits, k = ROWS[name]
    theta = torch.tensor(logits, dtype=torch.float64)
    seed = torch.tensor([tree_size + 1000])
    hot = reference.sampling.sample(theta, k, DRAWS, seed, tree_size=tree_size)
    assert torch.equal(hot.sum(-1), torch.full((DRAWS,), float(k), dtype=torch.float64))
    p = stats.chi_square_p(stats.subset_codes(hot.numpy()), _law(logits, k))
    assert p > stats.P_VALUE, p


def test_the_chi_square_sees_a_wrong_law():
    """Gumbel top-k, another distribution, is told apart with the same number of draws."""
    logits, k = ROWS["steep"]
    noise = np.random.RandomState(0).gumbel(size=(DRAWS, len(logits)))
    top = np.argsort(-(np.array(logits) + noise), axis=-1)[:, :k]
    hot = np.zeros((DRAWS, len(logits)))
    np.put_along_axis(hot, top, 1.0, axis=-1)
    assert stats.chi_square_p(stats.subset_codes(hot), _law(logits, k)) < 1e-20


def test_long_row_marginals_and_covariances():
    """n = 200 at the canonical size: z-scores of all marginals and of 1,000 covariances."""
    n, k, draws = 200, 50, 10_000
    theta = 1.5 * torch.randn(n, dtype=torch.float64)
    hot = reference.sample(theta, k, draws, torch.tensor([7])).numpy()
    assert np.array_equal(hot.sum(-1), np.full(draws, k))
    mu = reference.marginals(theta, k)[0].numpy()
    frequency = hot.mean(0)
    z = stats.marginal_z(frequency, mu, draws)
    assert np.abs(z).max() < stats.max_z_bound(n)
    i, j = np.random.RandomState(1).randint(0, n, (2, 1000))
    i, j = i[i != j], j[i != j]
    covariance = reference.vjp(theta.expand(n, n), k, torch.eye(n, dtype=torch.float64)).numpy()
    both = np.einsum("si,si->i", hot[:, i], hot[:, j]) / draws
    z = stats.covariance_z(both, mu[i], mu[j], frequency[i], frequency[j], covariance[i, j], draws)
    assert np.abs(z).max() < stats.max_z_bound(len(i))


def _poisson_binomial(q: np.ndarray) -> np.ndarray:
    law = np.ones(1)
    for x in q:
        law = np.convolve(law, [1 - x, x])
    return law


@pytest.mark.parametrize(
    ("n", "odd"),
    [(600, 0.5), (600, 0.15), (280, 0.15)],
    ids=["equal-halves", "first-half-heavier", "most-nodes"],
)
def test_the_law_of_a_half_holds_far_from_its_mean(n, odd):
    """Total variation of the counts of A that acceptance by the contour's P_B leads to.

    P_B is read wherever the sum of A goes. With nodes for the variance of B alone, aliases would
    be accepted there: the test sees the difference.
    """
    q = np.where(np.arange(n) % 2 == 0, 0.5, odd)
    target = round(q.sum())
    row = classify(torch.from_numpy(np.log(q / (1 - q)))[None], torch.tensor([target]))
    item = tilt_items(row, solve_tilt(row))
    variance = item.variance[0]
    assert variance[0::2].sum() <= 2 * variance[1::2].sum()
    first, second = (_poisson_binomial(item.q[0, i::2].numpy()) for i in (0, 1))
    count = torch.arange(max(0, target - n // 2), min(target, n // 2) + 1)
    exact = first[target - count] * second[count]

    def error(phi):
        read = first[target - count] * probability(phi, count[:, None])[:, 0].numpy()
        return 0.5 * np.abs(read / read.sum() - exact / exact.sum()).sum()

    phi, peak = sampling._law_of_part(row, item, slice(1, None, 2))
    assert abs(peak.item() / second.max() - 1) < 1e-12
    assert error(phi) < 1e-13
    half = Items(*(field[:, 1::2] for field in item))
    roomy = sampling._HALF_RULE._replace(most=99)
    live = torch.tensor([n // 2])
    # No node that the truncation keeps is lost for want of room.
    all_kept = characteristic(half, live, roomy, variance.sum()[None]).weight > 0
    assert (phi.weight > 0).sum() == all_kept.sum()
    own = characteristic(half, live, roomy, variance[1::2].sum()[None])
    assert error(own) > 5e-10


def test_acceptance_of_the_halves(monkeypatch):
    """At least 0.57 of the proposals are accepted, also where one parity holds all the variance."""
    proposals = [0]
    kept = sampling.uniform_row

    def counting(seed, row, purpose, *rest):
        if purpose == sampling._ACCEPT:
            proposals[0] += row.numel()
        return kept(seed, row, purpose, *rest)

    monkeypatch.setattr(sampling, "uniform_row", counting)
    n, draws = 128, 2000
    noise = torch.randn(n, dtype=torch.float64)
    even = torch.arange(n) % 2 == 0
    sure = torch.where(torch.arange(n) % 4 < 2, 30.0, -30.0).double()
    one_sided = torch.where(even, noise, sure), torch.where(even, sure, noise)
    for theta in (noise, 30 * noise, *one_sided):
        proposals[0] = 0
        reference.sample(theta, 64, draws, torch.tensor([3]))
        assert draws <= proposals[0] < draws / 0.55, proposals[0] / draws


def test_streams_of_rows_and_samples():
    """A sample depends on its (sample, row) index and its row alone; not on how work is split."""
    theta, k = torch.randn(5, 70), torch.tensor([3, 20, 0, 70, 69])
    seed = torch.tensor([11])
    whole = reference.sample(theta, k, 6, seed)
    assert torch.equal(whole.sum(-1), k.float().expand(6, 5))
    assert torch.equal(
        whole, reference.sample(theta.reshape(5, 1, 70), k[:, None], 6, seed)[:, :, 0]
    )
    assert torch.equal(whole[:2], reference.sample(theta, k, 2, seed))
    assert not torch.equal(whole, reference.sample(theta, k, 6, seed + 1))
    piece = sampling._PIECE
    try:
        sampling._PIECE = 150
        assert torch.equal(whole, reference.sample(theta, k, 6, seed))
    finally:
        sampling._PIECE = piece
    other = theta.clone()
    other[0] = 0.0
    assert torch.equal(whole[:, 1:], reference.sample(other, k, 6, seed)[:, 1:])


@pytest.mark.parametrize("tree_size", [64, 2])
def test_indices_are_the_same_samples(tree_size):
    theta, seed = torch.randn(2, 3, 9), torch.tensor([5])
    hot = sampling.sample(theta, 4, 7, seed, tree_size=tree_size)
    indices = sampling.sample_indices(theta, 4, 7, seed, tree_size=tree_size)
    assert indices.shape == (7, 2, 3, 4)
    assert indices.dtype == torch.int64
    assert (indices.diff(dim=-1) > 0).all()
    assert torch.equal(torch.zeros_like(hot).scatter(-1, indices, 1.0), hot)


def test_the_top_of_a_uniform_decides_nothing():
    """k = n - 1: every item but one is in, and which one is decided where q is next to 1.

    One item is left out 1,000 times as often as any other.
    """
    n = 1024
    theta = torch.zeros(n, dtype=torch.float64)
    theta[5] = -math.log(1000.0)
    hot = reference.sample(theta, n - 1, 2000, torch.tensor([1]))
    out = (hot == 0).nonzero()[:, 1]
    assert out.shape == (2000,)
    share = 1000 / (1000 + n - 1)
    count = int((out == 5).sum())
    assert abs(count - 2000 * share) < 5 * math.sqrt(2000 * share * (1 - share))
    others = out[out != 5]
    # 1,000 balls into 1,000 boxes fill 63% of them: the others are equally likely.
    assert abs(others.unique().numel() / (n - 1) - (1 - math.exp(-others.numel() / (n - 1)))) < 0.05


def test_special_rows():
    theta = torch.tensor(
        [[INF, INF, 1.0, 2.0], [-INF, -INF, 1.0, 5.0], [math.nan, 0, 0, 0], [INF, INF, INF, 0]]
    )
    for tree_size in (64, 2):
        hot = sampling.sample(theta, 2, 3, torch.tensor([1]), tree_size=tree_size)
        assert hot[:, 0].tolist() == [[1, 1, 0, 0]] * 3
        assert hot[:, 1].tolist() == [[0, 0, 1, 1]] * 3
        assert hot[:, 2:].isnan().all()
        indices = sampling.sample_indices(theta, 2, 3, torch.tensor([1]), tree_size=tree_size)
        assert indices[0].tolist() == [[0, 1], [2, 3], [-1, -1], [-1, -1]]
    for shape, k in (((0,), 0), ((3, 0), 0), ((3, 0, 5), 2), ((0, 5), 1), ((2, 5), 0)):
        hot = reference.sample(torch.zeros(shape), k, 4, torch.tensor([1]))
        assert hot.shape == (4, *shape)
        assert torch.equal(hot, torch.zeros_like(hot))
        indices = reference.sample_indices(torch.zeros(shape), k, 4, torch.tensor([1]))
        assert indices.shape == (4, *shape[:-1], k)
    assert reference.sample(torch.zeros(2, 5), 3, 0, torch.tensor([1])).shape == (0, 2, 5)
    narrow = reference.sample(torch.zeros(5, dtype=torch.bfloat16), 3, 2, torch.tensor([1]))
    assert narrow.dtype == torch.bfloat16
    assert classify(torch.zeros(5), 3).valid
