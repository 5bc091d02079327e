# SPDX-License-Identifier: Apache-2.0
"""log_prob, entropy, kl_divergence, covariance, mode, count_log_prob against enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from tests.api import enumeration as exact

INF = float("inf")
EXACT = {"rtol": 1e-12, "atol": 1e-12}

ROWS = {
    "normal": ([0.3, -1.2, 0.8, 2.0, -0.4, 0.1], 3),
    "k0": ([0.3, -1.2, 0.8], 0),
    "k1": ([0.3, -1.2, 0.8, 2.0], 1),
    "all-but-one": ([0.3, -1.2, 0.8, 2.0], 3),
    "all": ([0.3, -1.2, 0.8], 3),
    "steep": ([-30.0, -10.0, 0.0, 10.0, 30.0], 2),
    "ties": ([0.5] * 6, 2),
    "excluded": ([0.3, -INF, 0.8, -INF, 1.0], 2),
    "forced": ([0.3, INF, 0.8, -0.5, INF], 3),
    "forced-and-excluded": ([0.3, INF, 0.8, -INF, -1.0, 0.2], 3),
    "only-forced": ([0.3, INF, 0.8], 1),
    "exactly-k-live": ([0.3, -INF, 0.8], 2),
}
ROW = pytest.mark.parametrize(("row", "k"), ROWS.values(), ids=ROWS)


def leaf(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradients(output, *inputs, create_graph=False):
    return torch.autograd.grad(output, inputs, create_graph=create_graph)


@ROW
def test_log_prob(backend, row, k):
    logits, reference = leaf(row), leaf(row)
    hot, log_p = exact.law(reference, k)
    value = dg.subset.log_prob(logits, k, hot)
    assert_close(value, log_p, **EXACT)
    possible = log_p > -INF
    weights = torch.linspace(-1, 2, len(hot), dtype=torch.float64)[possible]
    ours = gradients((value[possible] * weights).sum(), logits)
    assert_close(ours, gradients((log_p[possible] * weights).sum(), reference), **EXACT)
    # An impossible subset pulls nothing, and nothing is NaN.
    everything = gradients(dg.subset.log_prob(logits, k, hot).sum(), logits)
    assert everything[0].isfinite().all()


@ROW
def test_entropy_and_its_gradient(backend, row, k):
    logits, reference = leaf(row), leaf(row)
    value = dg.subset.entropy(logits, k)
    expected = exact.entropy(reference, k)
    assert_close(value, expected, **EXACT)
    (ours,) = gradients(value, logits, create_graph=True)
    (theirs,) = gradients(expected, reference, create_graph=True)
    assert_close(ours, theirs, **EXACT)
    # dH = -Cov theta, with 0 for excluded and forced items.
    finite = torch.where(logits.isinf(), 0.0, logits).detach()
    assert_close(ours, -exact.covariance(reference.detach(), k) @ finite, **EXACT)
    direction = torch.linspace(-1, 1, len(row), dtype=torch.float64)
    assert_close(
        gradients((ours * direction).sum(), logits),
        gradients((theirs * direction).sum(), reference),
        rtol=1e-10,
        atol=1e-10,
    )


@ROW
def test_kl_divergence_and_its_gradients(backend, row, k):
    row = torch.tensor(row, dtype=torch.float64)
    other = torch.where(row.isinf(), row, row.flip(0).clamp(-9, 9) * 0.7 + 0.2)
    p, q, reference_p, reference_q = (x.clone().requires_grad_() for x in (row, other) * 2)
    value = dg.subset.kl_divergence(p, q, k)
    expected = exact.kl_divergence(reference_p, reference_q, k)
    assert_close(value, expected, **EXACT)
    assert_close(
        gradients(value, p, q),
        gradients(expected, reference_p, reference_q),
        rtol=1e-11,
        atol=1e-11,
    )


@ROW
def test_covariance(backend, row, k):
    value = dg.subset.covariance(leaf(row), k)
    assert_close(value.detach(), exact.covariance(leaf(row), k).detach(), **EXACT)
    assert torch.equal(value, value.mT)


@ROW
def test_mode(backend, row, k):
    logits = leaf(row)
    hot, log_p = exact.law(logits.detach(), k)
    value = dg.subset.mode(logits, k)
    assert not value.requires_grad
    assert value.sum() == k
    index = (hot == value).all(-1).nonzero().item()
    assert log_p[index] == log_p.max()


@pytest.mark.parametrize("k", range(6))
def test_mode_takes_the_lowest_index_among_equals(k):
    logits = torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0])
    order = [1, 3, 0, 2, 4]
    expected = torch.zeros(5).scatter(0, torch.tensor(order[:k], dtype=torch.int64), 1.0)
    assert torch.equal(dg.subset.mode(logits, k), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(backend, dtype):
    logits = torch.tensor([[0.5, -1.25, 0.75, 2.0]] * 2, dtype=dtype)
    hot = dg.subset.mode(logits, 2)
    half = dtype.itemsize == 2
    bound = {"rtol": 1e-2 if half else 1e-6, "atol": 1e-2 if half else 1e-6, "check_dtype": False}
    wide = logits.double()
    values = {
        "log_prob": (dg.subset.log_prob(logits, 2, hot), exact.law(wide, 2)[1].amax(-1)),
        "entropy": (dg.subset.entropy(logits, 2), exact.entropy(wide, 2)),
        "kl": (
            dg.subset.kl_divergence(logits, logits.flip(-1), 2),
            exact.kl_divergence(wide, wide.flip(-1), 2),
        ),
        "covariance": (dg.subset.covariance(logits, 2), exact.covariance(wide, 2)),
    }
    for name, (value, expected) in values.items():
        assert value.dtype == dtype, name
        assert_close(value, expected, msg=lambda text, name=name: f"{name}: {text}", **bound)


def test_a_shift_of_all_logits_loses_nothing(backend):
    # On a grid of 2^-8, exact in float32 at 1e4, where one ulp is 2^-10.
    base = torch.tensor([0.5, -1.25, 3.0, 0.25, -2.0, 1.75, 0.0])
    other = torch.tensor([-1.0, 0.5, 0.75, -0.25, 1.0, 0.0, 2.5])
    hot = exact.subsets(7, 3)
    for shift in (1e4, -1e4):
        p, q = base + shift, other - shift
        assert_close(dg.subset.entropy(p, 3), exact.entropy(base, 3).float(), rtol=0, atol=2e-6)
        assert_close(
            dg.subset.log_prob(p, 3, hot), exact.law(base, 3)[1].float(), rtol=0, atol=4e-6
        )
        assert_close(
            dg.subset.kl_divergence(p, q, 3),
            exact.kl_divergence(base, other, 3).float(),
            rtol=0,
            atol=4e-6,
        )


@pytest.mark.parametrize("huge", [1e4, 1e8, 1e30])
def test_one_huge_logit_leaves_the_others_their_digits(backend, huge):
    rest = torch.tensor([0.5, -1.25, 3.0, 0.25])
    other = rest.flip(0)
    top, bottom = torch.tensor([huge]), torch.tensor([-huge])
    logits = torch.cat([top, rest, bottom])
    bound = {"rtol": 0, "atol": 3e-6}
    assert_close(dg.subset.entropy(logits, 3), exact.entropy(rest, 2).float(), **bound)
    kl = dg.subset.kl_divergence(logits, torch.cat([top, other, bottom]), 3)
    assert_close(kl, exact.kl_divergence(rest, other, 2).float(), **bound)
    hot = exact.subsets(4, 2)
    inside = torch.cat([torch.ones(6, 1), hot, torch.zeros(6, 1)], -1)
    assert_close(dg.subset.log_prob(logits, 3, inside), exact.law(rest, 2)[1].float(), **bound)
    # Without the huge item, a subset is as improbable as it should be.
    without = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert_close(dg.subset.log_prob(logits, 3, without), torch.tensor(-huge), rtol=1e-3, atol=0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_entropy_on_either_side_of_a_gap(backend, k):
    logits = torch.tensor([200.0, 200.0, 200.0, 0.0, 0.0, 0.0])
    expected = math.log(3) if k in (1, 5) else 0.0
    assert_close(dg.subset.entropy(logits, k), torch.tensor(expected), rtol=0, atol=1e-6)


def test_log_prob_is_minus_infinity_outside_the_support(backend):
    logits = torch.tensor([0.3, INF, 0.8, -INF, 0.1], dtype=torch.float64)
    outside = {
        "too few": [1, 1, 0, 0, 0],
        "too many": [1, 1, 1, 0, 1],
        "picks an excluded item": [1, 1, 0, 1, 0],
        "misses a forced item": [1, 0, 1, 0, 1],
        "not zeros and ones": [0.5, 1, 0.5, 0, 1],
        "negative": [-1, 1, 1, 1, 1],
    }
    value = dg.subset.log_prob(logits, 3, torch.tensor(list(outside.values())))
    assert dict(zip(outside, value.tolist(), strict=True)) == dict.fromkeys(outside, -INF)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_log_prob_takes_any_dtype_and_broadcasts(backend, dtype):
    logits = torch.randn(2, 4, dtype=torch.float64)
    hot, log_p = exact.law(logits, 2)
    value = dg.subset.log_prob(logits, 2, hot.to(dtype).unsqueeze(1))
    assert_close(value, log_p.T, **EXACT)
    per_row = dg.subset.log_prob(logits, torch.tensor([2, 3]), hot.to(dtype).unsqueeze(1))
    assert_close(per_row[:, 0], log_p[0], **EXACT)
    assert (per_row[:, 1] == -INF).all()


def test_kl_divergence_is_infinite_where_q_excludes_what_p_allows(backend):
    p = torch.tensor([0.3, -0.5, 0.8, 0.1])
    excluding = torch.tensor([0.3, -0.5, 0.8, -INF])
    forcing = torch.tensor([0.3, -0.5, 0.8, INF])
    # p gives item 0 a marginal that rounds to 1, item 3 one that rounds to 0: still not certain.
    steep = torch.tensor([300.0, 0.1, 0.2, -300.0])
    rows = [(p, excluding), (p, forcing), (steep, excluding), (steep, torch.tensor([INF, 0, 0, 0]))]
    for ours, theirs in rows:
        assert dg.subset.kl_divergence(ours, theirs, 2) == INF
    # What p itself never does, q may rule out.
    for certain in (excluding, forcing):
        value = dg.subset.kl_divergence(certain, certain + torch.tensor([1.0, 0, 0, 0]), 2)
        assert value.isfinite()
    only = torch.tensor([0.1, 0.2, -INF])
    assert dg.subset.kl_divergence(only, torch.tensor([INF, INF, 0.0]), 2) == 0
    assert dg.subset.kl_divergence(p, excluding, 0) == 0
    assert dg.subset.kl_divergence(p, forcing, 4) == 0


def test_gradients_of_an_infinite_kl_divergence_are_not_nan(backend):
    p = torch.tensor([[0.3, -0.5, 0.8], [0.1, 0.2, 0.3]], requires_grad=True)
    q = torch.tensor([[0.3, -INF, 0.8], [1.0, 0.2, 0.3]], requires_grad=True)
    value = dg.subset.kl_divergence(p, q, 1)
    assert value.isinf().tolist() == [True, False]
    for gradient in torch.autograd.grad(value.sum(), (p, q)):
        assert gradient.isfinite().all()
        assert gradient[1].abs().sum() > 0.01


@pytest.mark.parametrize("k", [1, 2])
def test_kl_divergence_of_opposite_certainties(backend, k):
    p = torch.tensor([200.0, 0.5, -0.25, -200.0], dtype=torch.float64)
    expected = exact.kl_divergence(p, p.flip(0), k)
    assert expected > 190
    assert_close(dg.subset.kl_divergence(p, p.flip(0), k), expected, **EXACT)


def test_kl_divergence_of_a_law_with_itself_is_zero(backend):
    logits = torch.randn(5, 9, dtype=torch.float64) * 4
    assert_close(dg.subset.kl_divergence(logits, logits, 4), torch.zeros(5).double(), **EXACT)


@pytest.mark.parametrize("maximum", [0, 2, 5, 8])
def test_count_log_prob(backend, maximum):
    row = [0.3, -1.2, INF, 2.0, -INF]
    logits, reference = leaf(row), leaf(row)
    probs = torch.sigmoid(reference)
    expected = torch.ones(1, dtype=torch.float64)
    for p in probs:
        expected = torch.cat([expected * (1 - p), torch.zeros(1)]) + torch.cat(
            [torch.zeros(1), expected * p]
        )
    expected = torch.cat([expected, torch.zeros(9)])[: maximum + 1]
    value = dg.subset.count_log_prob(logits, maximum)
    assert_close(value.exp(), expected, **EXACT)
    assert (value == -INF).tolist() == (expected == 0).tolist()
    weights = torch.linspace(0.5, 1, maximum + 1, dtype=torch.float64)
    chosen = expected > 0
    if chosen.any():
        ours = gradients((value[chosen] * weights[chosen]).sum(), logits)
        theirs = gradients((expected[chosen].log() * weights[chosen]).sum(), reference)
        assert_close(ours, theirs, **EXACT)
