# SPDX-License-Identifier: Apache-2.0
"""One tree, several semirings, each against a list of all subsets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from discrete_grad import reference
from discrete_grad.reference import recursion
from discrete_grad.reference.semirings import EXPECTATION, LOG, MAX, REAL
from tests import oracle
from tests.api import enumeration

SIZES = [1, 2, 3, 5, 8, 9]


def _scores(n: int, j: int, absent: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The log-weight of every subset of j items."""
    hot = enumeration.subsets(n, j)
    return (hot * present + (1 - hot) * absent).sum(-1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("most", [1, 4, 9])
def test_coefficients(n, most):
    """Degree j of the root tells of the subsets of j items, in each semiring; k < n is cut off."""
    absent, present = torch.randn(2, 3, n, dtype=torch.float64)
    trees = {
        LOG: recursion.leaves(absent, present),
        MAX: recursion.leaves(absent, present),
        REAL: recursion.leaves(absent.exp(), present.exp()),
        EXPECTATION: torch.stack(
            [
                recursion.leaves(absent.exp(), present.exp()),
                recursion.leaves(absent.exp() * absent, present.exp() * present),
            ]
        ),
    }
    for row in range(3):
        for j in range(min(most, n) + 1):
            scores = _scores(n, j, absent[row], present[row])
            want = {
                LOG: scores.logsumexp(0),
                MAX: scores.amax(0),
                REAL: scores.exp().sum(),
                EXPECTATION: torch.stack([scores.exp().sum(), (scores.exp() * scores).sum()]),
            }
            for semiring, leaf in trees.items():
                root = recursion.build_tree(semiring, leaf, most)[-1]
                assert root.shape[-2] == 1
                assert root.shape[-1] <= most + 1
                torch.testing.assert_close(root[..., row, 0, j], want[semiring])


def test_impossible_counts_have_zero_gradient():
    """All -inf: logsumexp must give -inf with derivative 0, not NaN, twice."""
    theta = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def counts(t):
        never = torch.full_like(t, -torch.inf)
        leaf = recursion.leaves(torch.zeros_like(t), torch.where(t.detach() > 0, t, never))
        root = recursion.build_tree(LOG, leaf, 6)[-1]
        return torch.where(root.isfinite(), root, 0.0).sum() + 0 * root.exp().sum()

    with torch.no_grad():
        theta[:] = torch.tensor([1.0, -1.0, 2.0, -2.0, -3.0, 0.5])
    (first,) = torch.autograd.grad(counts(theta), theta, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), theta)
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert torch.equal(first == 0, theta < 0)


@pytest.mark.parametrize("method", ["linear", "recursion"])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_marginals_are_the_derivative_of_the_root(method, n):
    """The outside pass against autograd through the tree itself."""
    theta = torch.randn(2, n, dtype=torch.float64, requires_grad=True)
    for k in range(n + 1):
        marginals, log_partition = reference.marginals(theta, k, method)
        (grad,) = torch.autograd.grad(log_partition.sum(), theta)
        torch.testing.assert_close(marginals, grad, rtol=0, atol=1e-14)
        torch.testing.assert_close(marginals, enumeration.marginals(theta, k), rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["linear", "recursion"])
def test_tiny_marginals_keep_their_relative_accuracy(method):
    logits = torch.linspace(300.0, -300.0, 25, dtype=torch.float64)
    got = reference.marginals(logits, 9, method)[0]
    exact = oracle.subset(logits.tolist(), 9).marginals
    assert min(exact) < 1e-150
    for value, want in zip(got.tolist(), exact, strict=True):
        assert abs(value / want - 1) < 1e-12


def test_mode():
    """Against sorting; in a tie the lowest index; masks; sums that floating point would round."""
    theta = torch.randn(40, 17, dtype=torch.float64)
    for k in (0, 1, 8, 17):
        want = torch.zeros_like(theta).scatter(-1, theta.topk(k).indices, 1.0)
        assert torch.equal(reference.mode(theta, k), want)
    ties = torch.tensor([1.0, 3.0, 1.0, 1.0, 3.0, 1.0])
    assert reference.mode(ties, 3).tolist() == [1, 1, 0, 0, 1, 0]
    assert reference.mode(torch.zeros(7), 3).tolist() == [1, 1, 1, 0, 0, 0, 0]
    masked = torch.tensor([-torch.inf, 0.0, torch.inf, 5.0, 1.0])
    assert reference.mode(masked, 2).tolist() == [0, 0, 1, 1, 0]
    # 1e8 + 1 = 1e8 in float32: a sum of logits could not tell the second from the third.
    assert reference.mode(torch.tensor([1e8, 1.0, 2.0, 0.0]), 2).tolist() == [1, 0, 1, 0]
    per_row = reference.mode(theta[:3], torch.tensor([2, 0, 18]))
    assert per_row.sum(-1)[:2].tolist() == [2, 0]
    assert per_row[2].isnan().all()


@pytest.mark.parametrize("k", [1, 3, 6])
def test_entropy(k):
    """By the expectation semiring, by enumeration, and as log Z - <theta, mu>."""
    theta = (2 * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    entropy = reference.entropy(theta, k)
    torch.testing.assert_close(entropy, enumeration.entropy(theta, k), rtol=0, atol=1e-13)
    marginals, log_partition = reference.marginals(theta, k)
    other = log_partition - (theta * marginals).sum(-1)
    torch.testing.assert_close(entropy, other, rtol=0, atol=1e-13)
    (grad,) = torch.autograd.grad(entropy.sum(), theta)
    want = -torch.einsum("bij,bj->bi", enumeration.covariance(theta, k), theta)
    torch.testing.assert_close(grad, want, rtol=0, atol=1e-13)


def test_entropy_of_a_row_with_a_gap():
    """p log p of probabilities that underflow is 0, and so is its gradient."""
    theta = torch.tensor([4000.0, 4001.0, -5000.0, -5001.0, -5000.0], dtype=torch.float64)
    theta.requires_grad_()
    entropy = reference.entropy(theta, 2)
    (grad,) = torch.autograd.grad(entropy, theta)
    assert entropy.item() == 0
    assert grad.tolist() == [0.0] * 5
    half = reference.entropy(theta, 1).item()
    q = 1 / (1 + math.exp(-1))
    want = -sum(p * math.log(p) for p in (q, 1 - q))
    assert abs(half - want) < 1e-14


@pytest.mark.parametrize("most", [0, 2, 5, 8])
def test_count_log_prob(most):
    theta = torch.tensor([0.5, -3.0, torch.inf, 40.0, -torch.inf, -200.0], dtype=torch.float64)
    theta.requires_grad_()
    got = reference.count_log_prob(theta, most)
    exact = oracle.count_log_prob(theta.tolist(), most)
    for j, (value, want) in enumerate(zip(got.tolist(), exact, strict=True)):
        if want == -oracle.INF:
            assert value == -torch.inf, j
        else:
            assert abs(value - want) < 1e-13 * max(1, abs(want)), j
    possible = got.isfinite()
    if possible.any():
        (grad,) = torch.autograd.grad(got[possible].sum(), theta)
        assert grad.isfinite().all()
        assert grad[2] == 0
        assert grad[4] == 0
    assert (
        reference.count_log_prob(torch.zeros(3, 0), 2).tolist() == [[0, -torch.inf, -torch.inf]] * 3
    )
    nan = torch.tensor([[0.0, torch.nan], [0.0, 0.0]])
    rows = reference.count_log_prob(nan, 1)
    assert rows[0].isnan().all()
    assert rows[1].isfinite().all()


def test_counts_sum_to_one():
    theta = 3 * torch.randn(4, 70)
    total = reference.count_log_prob(theta, 70).logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros(4), rtol=0, atol=2e-6)


def test_descend_finds_every_subset():
    """With weights of one and a chooser that reads a script, each target yields each subset."""
    n, k = 5, 2
    leaf = recursion.leaves(torch.ones(n), torch.ones(n))
    levels = recursion.build_tree(REAL, leaf, k)
    seen = set()
    for script in itertools.product(range(k + 1), repeat=7):
        numbers = iter(script)

        def choose(weight: torch.Tensor, first: int, numbers=numbers) -> torch.Tensor:
            assert weight.shape[-2] == first
            picks = [next(numbers) for _ in range(first)]
            possible = [set(row.nonzero().squeeze(-1).tolist()) for row in weight]
            return torch.tensor(
                [a if a in some else max(some) for a, some in zip(picks, possible, strict=True)]
            )

        subset = recursion.descend(REAL, levels, torch.tensor(k), choose)
        assert int(subset.sum()) == k
        assert not subset[n:].any()
        seen.add(tuple(subset.nonzero().squeeze(-1).tolist()))
    assert seen == set(itertools.combinations(range(n), k))
