# SPDX-License-Identifier: Apache-2.0
"""Perturb-and-MAP in the reference: selection, its laws by chi-square, the I-MLE difference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from discrete_grad import reference
from discrete_grad.quantiles import quantile_table
from tests import stats

INF, NAN = math.inf, math.nan
SEED = torch.tensor([20230501])
NORMAL = quantile_table("normal", torch.device("cpu"), torch.float64)


def _sorted_choice(x: list[float], k: int) -> list[float]:
    """The k largest by Python's sort; ties to the lowest index."""
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    return [float(i in order[:k]) for i in range(len(x))]


@pytest.mark.parametrize(
    "row",
    [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 2.0, 2.0, 2.0, 0.0],
        [-0.0, 0.0, -0.0, 0.0, -0.0],
        [0.0, -0.0, 1.0, -1.0, -0.0],
        [-INF, INF, 0.0, INF, -INF],
        [5e-324, 0.0, -5e-324, 5e-324, -0.0],
    ],
)
def test_top_k_and_its_ties(row):
    for k in range(6):
        chosen = reference.top_k(torch.tensor(row, dtype=torch.float64), k)
        assert chosen.double().tolist() == _sorted_choice(row, k), k


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_choice_is_of_logits_plus_the_noise(dtype):
    samples, batch, n = 4, (3, 2), 9
    theta = torch.randn(*batch, n).to(dtype)
    wide = theta.double() if dtype == torch.float64 else theta.float()
    table = NORMAL.to(wide.dtype)
    k = torch.randint(0, n + 1, batch)
    hot = reference.perturbed_topk(theta, k, samples, table, 0.7, SEED)
    assert hot.dtype == dtype
    assert hot.shape == (samples, *batch, n)
    noise = reference.perturbation_noise(samples * 6, n, table, SEED, wide.dtype)
    x = wide + 0.7 * noise.reshape(samples, *batch, n)
    for index in itertools.product(range(samples), range(3), range(2)):
        assert hot[index].tolist() == _sorted_choice(x[index].tolist(), int(k[index[1:]]))


def test_pieces_do_not_change_the_samples(monkeypatch):
    theta, grad = torch.randn(3, 5), torch.randn(7, 3, 5)
    step = torch.tensor(1.5)
    settings = (1.0, 1.0, 1.0, 1.0, True, SEED)

    def results():
        return (
            reference.perturbed_topk(theta, 2, 7, None, 1.0, SEED),
            *reference.topk_difference(theta, grad, 2, None, step, *settings),
        )

    whole = results()
    monkeypatch.setattr("discrete_grad.reference.topk._PIECE", 31)
    for one, other in zip(whole, results(), strict=True):
        assert torch.equal(one, other)


def test_noise_of_a_row_depends_on_its_index_alone():
    long = reference.perturbation_noise(6, 10, None, SEED, torch.float32)
    assert torch.equal(long[:4, :7], reference.perturbation_noise(4, 7, None, SEED, torch.float32))
    assert len(long.unique()) == 60
    assert not torch.equal(long, reference.perturbation_noise(6, 10, None, SEED + 1, torch.float32))


def test_temperature_zero_is_the_mode():
    theta = torch.randn(4, 8)
    theta[0] = 0.0
    hot = reference.perturbed_topk(theta, 3, 5, None, 0.0, SEED)
    assert torch.equal(hot, reference.mode(theta, 3).expand(5, 4, 8))


@pytest.mark.parametrize("k", [0, 1, 4])
def test_none_and_all(k):
    theta = torch.tensor([[0.5, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    hot = reference.perturbed_topk(theta, k, 3, None, 1.0, SEED)
    assert torch.equal(hot.sum(-1), torch.full((3, 2), float(k)))
    indices = reference.perturbed_topk_indices(theta, k, 3, None, 1.0, SEED)
    assert indices.shape == (3, 2, k)
    assert torch.equal(torch.zeros_like(hot).scatter(-1, indices, 1.0), hot)


def test_infinite_logits_settle_their_items():
    theta = torch.tensor([INF, 0.0, -INF, 1.0, -INF, INF]).double()
    for temperature in (0.0, 1.0, 1e6):
        hot = reference.perturbed_topk(theta, 3, 2000, None, temperature, SEED)
        assert (hot[:, [0, 5]] == 1).all()
        assert (hot[:, [2, 4]] == 0).all()
        assert (hot.sum(-1) == 3).all()
    either = reference.perturbed_topk(theta, 3, 2000, None, 1.0, SEED)[:, [1, 3]].mean(0)
    assert (either > 0.1).all()


INVALID = {
    "NaN": ([0.0, NAN, 1.0, 2.0], 2),
    "NaN and k = 0": ([0.0, NAN, 1.0, 2.0], 0),
    "too few items": ([-INF, -INF, -INF, 2.0], 2),
    "too many forced": ([INF, INF, INF, 2.0], 2),
    "k < 0": ([0.0, 1.0, 2.0, 3.0], -1),
    "k > n": ([0.0, 1.0, 2.0, 3.0], 5),
    "overflow": ([0.0, 1.0, 3e38, 3.0], 2),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_row_is_alone(case):
    row, bad_k = INVALID[case]
    theta = torch.tensor([[0.3, -1.0, 0.5, 2.0], row, [0.0, 0.0, 1.0, -INF]])
    k = torch.tensor([2, bad_k, 3])
    # Normal noise of this size takes 3e38 beyond the largest float32 in one of 40 samples.
    temperature = 3e37 if case == "overflow" else 1.0
    table = NORMAL.float()
    hot = reference.perturbed_topk(theta, k, 40, table, temperature, SEED)
    bad = hot[:, 1].isnan().all(-1)
    assert bad.any() if case == "overflow" else bad.all()
    assert torch.equal(hot[:, 1].isnan().any(-1), bad)
    assert torch.equal(hot[:, [0, 2]].sum(-1), torch.tensor([2.0, 3.0]).expand(40, 2))
    good = theta.clone()
    good[1] = 0.0
    clean = reference.perturbed_topk(good, k.clamp(1, 3), 40, table, temperature, SEED)
    assert torch.equal(hot[:, [0, 2]], clean[:, [0, 2]])
    step = torch.tensor(1.0)
    difference, nonzeros = reference.topk_difference(
        theta,
        torch.randn(40, 3, 4),
        k,
        table,
        step,
        1.0,
        temperature,
        1.0,
        temperature,
        False,
        SEED,
    )
    assert difference[1].isnan().all()
    assert nonzeros[1] == 0
    assert difference[[0, 2]].isfinite().all()
    if 0 <= bad_k <= 4:
        alone = theta[1].expand(40, 4)
        indices = reference.perturbed_topk_indices(alone, bad_k, 3, table, temperature, SEED)
        invalid = reference.perturbed_topk(alone, bad_k, 3, table, temperature, SEED).isnan()
        assert torch.equal((indices == -1).all(-1) & invalid.any(-1), invalid.all(-1))
        assert (indices[~invalid.any(-1)] >= 0).all()


def test_one_item_with_gumbel_noise_follows_the_softmax():
    theta = torch.tensor([1.2, -0.3, 0.8, -2.0, 0.1, 1.7], dtype=torch.float64)
    hot = reference.perturbed_topk(theta, 1, 200_000, None, 1.0, SEED)
    law = {1 << i: p for i, p in enumerate(theta.softmax(-1).tolist())}
    p = stats.chi_square_p(stats.subset_codes(hot.numpy()), law)
    assert p > stats.P_VALUE, p


def _plackett_luce_subsets(theta: torch.Tensor, k: int) -> dict[int, float]:
    """The law of the set of the first k of a ranking by Plackett and Luce: a sum over orders."""
    weight = theta.exp().tolist()
    law: dict[int, float] = {}
    for order in itertools.permutations(range(len(weight)), k):
        p, rest = 1.0, sum(weight)
        for i in order:
            p *= weight[i] / rest
            rest -= weight[i]
        code = sum(1 << i for i in order)
        law[code] = law.get(code, 0.0) + p
    return law


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_two_of_five_with_gumbel_noise_follow_plackett_luce(temperature):
    theta = torch.tensor([1.2, -0.3, 0.8, -2.0, 0.1], dtype=torch.float64)
    hot = reference.perturbed_topk(theta, 2, 200_000, None, temperature, SEED)
    codes = stats.subset_codes(hot.numpy())
    p = stats.chi_square_p(codes, _plackett_luce_subsets(theta / temperature, 2))
    assert p > stats.P_VALUE, p
    assert stats.chi_square_p(codes, _plackett_luce_subsets(theta / 1.5, 2)) < 1e-6


def _difference_step_by_step(theta, g, k, step, noise, left, right, symmetric):
    """The definition with all noise stored, one selection at a time. float64."""
    samples, rows, _ = g.shape
    total = np.zeros(theta.shape)
    nonzeros = np.zeros(rows, dtype=np.int64)
    for s in range(samples):
        for r in range(rows):
            move = step[r] * g[s, r]
            at_left = left[0] * theta[r] + left[1] * noise[s, r] + (move if symmetric else 0)
            at_right = right[0] * theta[r] - move + right[1] * noise[s, r]
            z_left = np.array(_sorted_choice(at_left.tolist(), k[r]))
            z_right = np.array(_sorted_choice(at_right.tolist(), k[r]))
            total[r] += z_left - z_right
            nonzeros[r] += (z_left != z_right).sum()
    return total / samples / (2 if symmetric else 1), nonzeros


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("steps", ["one", "each row", "negative", "huge", "zero"])
@pytest.mark.parametrize("table", [None, NORMAL], ids=["gumbel", "normal"])
def test_difference_step_by_step(symmetric, steps, table):
    samples, rows, n = 5, 6, 8
    theta = torch.randn(rows, n, dtype=torch.float64)
    g = torch.randn(samples, rows, n, dtype=torch.float64)
    k = torch.tensor([0, 1, 3, 4, 7, 8])
    step = {
        "one": torch.tensor(1.5),
        "each row": torch.rand(rows) * 4,
        "negative": torch.tensor(-2.0),
        "huge": torch.tensor(1e4),
        "zero": torch.tensor(0.0),
    }[steps].double()
    left, right = (1.0, 0.8), (0.9, 1.2)
    found, nonzeros = reference.topk_difference(
        theta, g, k, table, step, *left, *right, symmetric, SEED
    )
    noise = reference.perturbation_noise(samples * rows, n, table, SEED, torch.float64)
    expected, count = _difference_step_by_step(
        theta.numpy(),
        g.numpy(),
        k.tolist(),
        step.expand(rows).numpy(),
        noise.reshape(samples, rows, n).numpy(),
        left,
        right,
        symmetric,
    )
    assert (expected != 0).any()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-15, atol=0)
    assert nonzeros.tolist() == count.tolist()
    assert nonzeros.dtype == torch.int64


def test_without_a_step_nothing_differs():
    theta, g = torch.randn(3, 7), torch.randn(4, 3, 7)
    for step in (torch.tensor(0.0), torch.tensor(1.0)):
        for symmetric in (False, True):
            found, nonzeros = reference.topk_difference(
                theta, g * (step == 0), 3, None, step, 1.0, 0.5, 1.0, 0.5, symmetric, SEED
            )
            assert (found == 0).all()
            assert (nonzeros == 0).all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_gradient_that_is_not_finite(bad):
    theta = torch.randn(3, 5)
    theta[2, 0] = -INF
    g = torch.randn(4, 3, 5)
    g[2, 1, 3] = bad
    g[1, 2, 0] = bad  # of an excluded item: it moves nothing
    found, nonzeros = reference.topk_difference(
        theta, g, 2, None, torch.tensor(3.0), 1.0, 1.0, 1.0, 1.0, False, SEED
    )
    assert found[1].isnan().all()
    assert nonzeros[1] == 0
    assert found[[0, 2]].isfinite().all()
    assert (found[2] != 0).any()
    assert found[2, 0] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_difference_is_never_of_a_16_bit_type(dtype):
    theta, g = torch.randn(2, 6).to(dtype), torch.randn(3, 2, 6).to(dtype)
    found, _ = reference.topk_difference(
        theta, g, 2, None, torch.tensor(2.0), 1.0, 1.0, 1.0, 1.0, True, SEED
    )
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expanded, _ = reference.topk_difference(
        theta, g[:1].expand(3, 2, 6), 2, None, torch.tensor(2.0), 1.0, 1.0, 1.0, 1.0, True, SEED
    )
    plain, _ = reference.topk_difference(
        theta, g[:1].repeat(3, 1, 1), 2, None, torch.tensor(2.0), 1.0, 1.0, 1.0, 1.0, True, SEED
    )
    assert torch.equal(expanded, plain)


def test_no_samples():
    theta = torch.randn(2, 5)
    assert reference.perturbed_topk(theta, 2, 0, None, 1.0, SEED).shape == (0, 2, 5)
    assert reference.perturbed_topk_indices(theta, 2, 0, None, 1.0, SEED).shape == (0, 2, 2)
    found, nonzeros = reference.topk_difference(
        theta, theta.new_zeros(0, 2, 5), 2, None, torch.tensor(1.0), 1.0, 1.0, 1.0, 1.0, True, SEED
    )
    assert torch.equal(found, torch.zeros(2, 5))
    assert torch.equal(nonzeros, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_empty(shape):
    theta = torch.randn(shape)
    assert reference.perturbed_topk(theta, 0, 2, None, 1.0, SEED).shape == (2, *shape)
    found, _ = reference.topk_difference(
        theta, theta.new_zeros(2, *shape), 0, None, torch.tensor(1.0), 1, 1, 1, 1, False, SEED
    )
    assert found.shape == shape


def test_vmap():
    theta, g = torch.randn(3, 4, 7), torch.randn(3, 6, 4, 7)
    table = NORMAL.float()
    step = torch.tensor(2.0)

    def sample(one):
        return reference.perturbed_topk(one, 3, 6, table, 1.0, SEED)

    def difference(one, grad):
        return reference.topk_difference(one, grad, 3, table, step, 1, 1, 1, 1, True, SEED)

    mapped = torch.vmap(sample)(theta), *torch.vmap(difference)(theta, g)
    for b in range(3):
        alone = sample(theta[b]), *difference(theta[b], g[b])
        for one, other in zip(mapped, alone, strict=True):
            assert torch.equal(one[b], other)
