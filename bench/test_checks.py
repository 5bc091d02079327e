# SPDX-License-Identifier: Apache-2.0
"""The checks before the clock refuse what they are there to refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import baselines
import pytest
import torch
from cases import Case, Inputs
from checks import WrongResult, check, targets_of
from providers import DP, OURS, PROVIDERS, Provider
from torch import Tensor

import discrete_grad as dg

_MARGINALS = Case("marginals", 8, 48, 6)


def _gumbel_topk(case: Case, inputs: Inputs) -> Tensor:
    """Plackett-Luce: k items one after another without replacement, another law."""
    shape = (case.samples, case.rows, case.n)
    noisy = inputs.logits.detach() - torch.empty(shape).exponential_().log()
    top = noisy.topk(case.k, dim=-1).indices
    return torch.zeros(shape).scatter(-1, top, 1.0)


def _shifted(case: Case, inputs: Inputs) -> Tensor:
    """Exact draws that name each item's neighbour."""
    return dg.subset.sample(inputs.logits, case.k, case.samples).roll(1, -1)


def _sampler(run: Callable[[Case, Inputs], Tensor]) -> Provider:
    return Provider(OURS, "sample", run)


@pytest.mark.parametrize("op", sorted(PROVIDERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_provider_passes(op: str, dtype: torch.dtype) -> None:
    case = Case(op, 8, 48, 6, samples=3 if op in ("sample", "simple_grad") else 1, dtype=dtype)
    for provider in PROVIDERS[op]:
        check(provider, targets_of(case))


@pytest.mark.parametrize("name", [OURS, DP])
def test_a_wrong_factor_is_refused(name: str) -> None:
    right = next(p for p in PROVIDERS["marginals"] if p.name == name)
    wrong = replace(right, run=lambda case, inputs: right.run(case, inputs) * 1.01)
    with pytest.raises(WrongResult, match="error"):
        check(wrong, targets_of(_MARGINALS))


def test_nan_is_refused() -> None:
    right = PROVIDERS["marginals"][0]
    wrong = replace(right, run=lambda case, inputs: right.run(case, inputs) * torch.nan)
    with pytest.raises(WrongResult, match="error nan"):
        check(wrong, targets_of(_MARGINALS))


def test_another_dtype_is_refused() -> None:
    right = PROVIDERS["marginals"][0]
    wrong = replace(right, run=lambda case, inputs: right.run(case, inputs).double())
    with pytest.raises(WrongResult, match=r"expected torch\.float32"):
        check(wrong, targets_of(_MARGINALS))


@pytest.mark.parametrize("wrong", [_gumbel_topk, _shifted])
def test_another_law_is_refused(wrong: Callable[[Case, Inputs], Tensor]) -> None:
    case = Case("sample", 64, 48, 6)
    with pytest.raises(WrongResult, match="standard deviations from the k-subset law"):
        check(_sampler(wrong), targets_of(case))


def test_a_draw_of_another_size_is_refused() -> None:
    case = Case("sample", 8, 48, 6)
    wrong = _sampler(lambda case, inputs: dg.subset.sample(inputs.logits, case.k + 1, case.samples))
    with pytest.raises(WrongResult, match="no 6-hot vector"):
        check(wrong, targets_of(case))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (5, 2), (5, 5), (6, 4)])
def test_dynamic_programme_against_enumeration(n: int, k: int) -> None:
    logits = torch.randn(3, n, dtype=torch.float64).requires_grad_()
    subsets = torch.combinations(torch.arange(n), k)
    hot = torch.zeros(len(subsets), n, dtype=torch.float64).scatter(-1, subsets, 1.0)
    scores = logits.detach() @ hot.T
    torch.testing.assert_close(
        baselines.log_partition(logits, k).detach(), scores.logsumexp(-1), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        baselines.marginals(logits, k), scores.softmax(-1) @ hot, rtol=0, atol=1e-12
    )
