# SPDX-License-Identifier: Apache-2.0
"""The two modes against their laws, and the measured differences between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.compat import law
from tests import oracle, stats
from tests.compat import laws

INF = float("inf")
MODES = ("exact", "compat")


def logits_of(scores: np.ndarray, mode: str) -> np.ndarray:
    return scores if mode == "exact" else laws.circuit_logits(scores)


def vjp(scores, k, mode, grad):
    """(marginals, their vector-Jacobian product with ``grad``)."""
    leaf = scores.detach().clone().requires_grad_()
    mu = law.marginals(leaf, k, mode)
    return mu.detach(), torch.autograd.grad(mu, leaf, grad)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "k"), [(5, 2), (8, 3), (9, 8), (6, 0), (6, 6)])
def test_marginals_by_enumeration(backend, mode, n, k):
    scores = torch.randn(4, n, dtype=torch.float64)
    expected = [
        laws.inclusion(laws.subset_law(logits_of(row, mode), k), n) for row in scores.numpy()
    ]
    found = law.marginals(scores, k, mode)
    assert_close(found, torch.tensor(np.array(expected)), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("dtype", "bounds"),
    # float32: the deviation that the published circuit has from this law is allowed to the adapter.
    [(torch.float64, (1e-13, 1e-13)), (torch.float32, (5e-6, 2.5e-6))],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("mode", MODES)
def test_marginals_and_gradients_at_the_size_of_the_clients(mode, dtype, bounds):
    """n = 128, k = 10, against 60-digit arithmetic; complement detached, so the Jacobian is Cov."""
    n, k = 128, 10
    scores = torch.randn(3, n, dtype=dtype)
    grad = torch.rand(3, n, dtype=dtype) * 2 - 1
    mu, gradient = vjp(scores, k, mode, grad)
    assert mu.dtype == gradient.dtype == dtype
    wide, wide_grad = scores.double().numpy(), grad.double().numpy()
    for row in range(3):
        exact = oracle.subset(logits_of(wide[row], mode), k, wide_grad[row])
        for found, value, bound in zip(
            (mu[row], gradient[row]), (exact.marginals, exact.vjp), bounds, strict=True
        ):
            error = np.abs(found.double().numpy() - oracle.as_floats(value)).max()
            assert error < bound


def test_how_far_the_modes_are_apart():
    """Normal scores, [16, 128], k = 10: what docs/clients.md says."""
    scores = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    apart = (law.marginals(scores, 10, "compat") - law.marginals(scores, 10, "exact")).abs()
    assert apart.max().item() == pytest.approx(0.91, abs=0.005)
    assert apart.mean().item() == pytest.approx(0.058, abs=5e-4)


def test_the_sampler_of_compat_follows_another_law_than_its_marginals():
    """Largest difference in a row of 8 normal scores, k = 3: what docs/clients.md says."""
    found = []
    for row in np.random.RandomState(0).randn(400, 8):
        drawn = laws.inclusion(laws.plackett_luce(row, 3), 8)
        # logsigmoid(x), which makes the circuit's law that of theta = x
        activated = -np.log1p(np.exp(-row))
        found.append(
            [
                np.abs(drawn - _inclusion(laws.circuit_logits(row))).max(),
                np.abs(
                    laws.inclusion(laws.plackett_luce(activated, 3), 8)
                    - _inclusion(laws.circuit_logits(activated))
                ).max(),
                np.abs(drawn - _inclusion(row)).max(),
            ]
        )
    raw, activated, exact = np.array(found).T
    medians = [float(np.median(x)) for x in (raw, activated, exact)]
    assert medians == pytest.approx([0.35, 0.17, 0.066], abs=0.01)
    assert ((raw.min() < 0.17) & (raw.max() > 0.17)).all()
    assert ((activated.min() < 0.15) & (activated.max() > 0.15)).all()


def _inclusion(logits: np.ndarray) -> np.ndarray:
    return laws.inclusion(laws.subset_law(logits, 3), 8)


def test_logsigmoid_scores_give_the_law_of_theta_with_a_shortened_gradient():
    """The complement is constant in the backward pass: (1 - sigmoid(theta)) Cov g, not Cov g."""
    theta = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 9, dtype=torch.float64)
    activated = torch.nn.functional.logsigmoid(theta)
    mu = law.marginals(activated, 4, "compat")
    assert_close(mu, dg.subset.marginals(theta, 4), rtol=0, atol=1e-13)
    (found,) = torch.autograd.grad(mu, theta, grad)
    _, full = vjp(theta, 4, "exact", grad)
    assert_close(found, (1 - theta.detach().sigmoid()) * full, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_draws_follow_the_law_of_the_mode(mode):
    scores = torch.tensor([1.0, -0.6, 0.3, -1.5, 0.05, 0.8], dtype=torch.float64)
    codes = stats.subset_codes(law.draw(scores, 3, 20_000, mode).numpy())
    row = scores.numpy()
    exact = stats.chi_square_p(codes, laws.coded(laws.subset_law(row, 3)))
    plackett_luce = stats.chi_square_p(codes, laws.coded(laws.plackett_luce(row, 3)))
    own, other = (exact, plackett_luce) if mode == "exact" else (plackett_luce, exact)
    assert own > stats.P_VALUE
    assert other < 1e-9
    # nor is either the law of compat's marginals
    circuit = laws.coded(laws.subset_law(laws.circuit_logits(row), 3))
    assert stats.chi_square_p(codes, circuit) < 1e-9


def test_gradcheck_and_second_derivatives(backend):
    scores = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)

    def exact(x):
        return law.marginals(x, 3, "exact")

    assert torch.autograd.gradcheck(exact, scores)
    assert torch.autograd.gradgradcheck(exact, scores)

    constant = (law.circuit_logits(scores) - scores).detach()

    def compat(x):
        """What "compat" differentiates: the complement held where it is."""
        return dg.subset.marginals(x + constant, 3)

    grad = torch.randn(2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(compat, scores)
    (expected,) = torch.autograd.grad(compat(scores), scores, grad)
    assert_close(vjp(scores, 3, "compat", grad)[1], expected, rtol=1e-12, atol=1e-14)


def test_a_score_of_zero_is_certain_in_compat(backend):
    scores = torch.tensor([[0.0, 1.0, -2.0, 0.5], [0.3, 0.0, 0.0, 0.1], [0.0, 0.0, 0.0, 0.1]])
    mu, gradient = vjp(scores, 2, "compat", torch.randn(3, 4))
    assert mu[0, 0] == 1
    assert_close(mu[0].sum(), torch.tensor(2.0))
    assert mu[1].tolist() == [0, 1, 1, 0]
    assert mu[2].isnan().all()  # more certain items than k: no subset has any weight
    assert gradient[:2].isfinite().all()
    assert law.marginals(scores, 2, "exact").isfinite().all()
    nearly = law.marginals(torch.tensor([1e-30, -1e-30, 1.0]), 2, "compat")
    assert nearly.tolist() == pytest.approx([1, 1, 0], abs=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_gradients_are_finite_at_all_sizes(scale):
    mu, gradient = vjp(torch.randn(20, 30) * scale, 7, "compat", torch.randn(20, 30))
    assert_close(mu.sum(-1), torch.full((20,), 7.0), rtol=0, atol=1e-4)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_dtypes(mode, dtype):
    scores = torch.randn(4, 12).to(dtype)
    mu, gradient = vjp(scores, 5, mode, torch.randn(4, 12, dtype=dtype))
    assert mu.dtype == gradient.dtype == law.draw(scores, 5, 2, mode).dtype == dtype
    expected = law.marginals(scores.double(), 5, mode)
    assert_close(mu.double(), expected, rtol=0, atol=1e-13 if dtype == torch.float64 else 3e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_fakes_are_told_from_candidates(dtype):
    scores = torch.tensor([[3.0, -1e10, -2.0, -1e10], [-1e4, 0.0, 1.0, 2.0]]).to(dtype)
    scores[1, 1] = float("nan")
    rows, counts = law.without_fakes(scores, 3)
    assert rows[0].tolist() == [3, -INF, -2, -INF]
    assert counts.tolist() == [2, 3]
    assert torch.equal(rows[1].nan_to_num(), scores[1].nan_to_num())  # NaN, and -1e4 stays
    for mode in MODES:
        mu = law.marginals(rows, counts, mode)
        assert mu[0].tolist() == [1, 0, 1, 0]
        assert mu[1].isnan().all()


def test_best_subset():
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.5, -1.0, 3.0, float("nan")]])
    assert law.best(scores, 2, "exact")[0].tolist() == [0, 1, 1, 0]
    assert law.best(scores, 2, "compat")[0].tolist() == [0, 1, 1, 1]  # ties add items
    assert law.best(scores, 0, "compat")[0].tolist() == [0, 0, 0, 0]
    for mode in MODES:
        assert law.best(scores, 4, mode)[0].tolist() == [1, 1, 1, 1]
        assert law.best(scores, 2, mode)[1].isnan().all()


def test_a_mode_is_one_of_two():
    assert law.check_mode("compat") == "compat"
    with pytest.raises(ValueError, match="mode must be 'exact' or 'compat', got 'Exact'"):
        law.check_mode("Exact")
