# SPDX-License-Identifier: Apache-2.0
"""Each baseline is the k-subset law, by enumeration; and the relaxed subset what it should be."""

from __future__ import annotations

from collections.abc import Callable

import baselines
import circuit
import compiled
import dft
import product_tree
import pytest
import relaxed
import tilt
import torch
from cases import Case
from checks import WrongResult, check, targets_of
from providers import DFT, OURS, PROVIDERS
from run import checked_case, run_case
from torch import Tensor

LogPartition = Callable[[Tensor, int], Tensor]
BY_NAME: dict[str, LogPartition] = {
    "dp": baselines.log_partition,
    "circuit": circuit.log_partition,
    "tree": product_tree.log_partition,
    "dft": dft.log_partition,
    "dft, tilted": dft.tilted,
}


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (3, 3), (5, 2), (8, 4), (9, 6)])
def test_log_partition_and_marginals(name: str, n: int, k: int) -> None:
    logits = torch.randn(3, n, dtype=torch.float64).requires_grad_()
    subsets = torch.combinations(torch.arange(n), k)
    hot = torch.zeros(len(subsets), n, dtype=torch.float64).scatter(-1, subsets, 1.0)
    scores = logits.detach() @ hot.T
    log_z = BY_NAME[name](logits, k)
    (mu,) = torch.autograd.grad(log_z.sum(), logits)
    torch.testing.assert_close(log_z.detach(), scores.logsumexp(-1), rtol=0, atol=1e-11)
    torch.testing.assert_close(mu, scores.softmax(-1) @ hot, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "k"), [(100, 1), (100, 99), (333, 150), (1000, 40)])
@pytest.mark.parametrize("op", ["marginals", "marginals_grad"])
def test_the_product_tree_where_it_transforms(op: str, n: int, k: int) -> None:
    """Sizes that are no power of two, cut and uncut, above the degree of direct products."""
    (tree,) = (provider for provider in PROVIDERS[op] if provider.name == "fft tree")
    assert check(tree, targets_of(Case(op, 2, n, k, dtype=torch.float64))) < 1e-11


def test_the_shift_puts_the_mean_at_k() -> None:
    logits = 30 * torch.randn(4, 50, dtype=torch.float64)
    means = torch.sigmoid(logits - tilt.shift(logits, 7)).sum(-1)
    torch.testing.assert_close(means, torch.full_like(means, 7.0), rtol=0, atol=1e-6)


def test_a_baseline_out_of_its_depth_is_reported_and_not_hidden() -> None:
    case = Case("marginals", 4, 256, 4)
    (transform,) = (p for p in PROVIDERS["marginals"] if p.name == DFT)
    errors = {r["provider"]: r["error"] for r in run_case(case, 1, 0.01, [transform])}
    assert errors.keys() == {DFT}
    assert errors[DFT] is None or errors[DFT] > 1e-3
    with pytest.raises(WrongResult):
        check(type(transform)("fft tree", "marginals", transform.run), targets_of(case))


def test_the_relaxed_subset_becomes_the_best_k() -> None:
    theta = torch.randn(3, 20, dtype=torch.float64)
    soft = relaxed.subset(theta, 5)
    torch.testing.assert_close(soft.sum(-1), torch.full((3,), 5.0, dtype=torch.float64))
    best = torch.zeros_like(theta).scatter(-1, theta.topk(5).indices, 1.0)
    torch.testing.assert_close(relaxed.subset(theta, 5, 1e-4), best, rtol=0, atol=1e-8)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("op", ["marginals", "marginals_grad"])
def test_compiled_baselines(op: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs of what is compiled; that code is made of them takes half a minute to see."""
    monkeypatch.setattr(compiled, "BACKEND", backend)
    case = Case(op, 2, 4, 2)
    providers = compiled.providers_of(case)
    assert len(providers) == (2 if op == "marginals" else 1)
    for provider in providers:
        assert check(provider, targets_of(case)) < 1e-6
    compiled._marginals.cache_clear()
    compiled._vjp.cache_clear()


def test_long_batches_are_checked_on_some_rows() -> None:
    assert checked_case(Case("marginals", 100, 2**14, 3)).rows == 16
    long = checked_case(Case("marginals", 4, 10 * 2**20, 20))
    assert (long.rows, long.n, long.k) == (1, 2**20, 2)
    small = Case("marginals", 64, 256, 32)
    assert checked_case(small) == small


def test_every_baseline_has_an_op_and_ours_is_first() -> None:
    for providers in PROVIDERS.values():
        assert providers[0].name == OURS
        assert len({provider.name for provider in providers}) == len(providers)
