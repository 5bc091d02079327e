# SPDX-License-Identifier: Apache-2.0
"""dg.perturbed_optimizer, blackbox and identity: gradients for any batched solver."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.estimators.interpolation import blackbox
from discrete_grad.estimators.negative_identity import identity
from discrete_grad.estimators.perturbed_optimizer import mean_solution, perturbed_optimizer
from tests.stats import max_z_bound

EXACT = {"rtol": 1e-12, "atol": 1e-12}
THETA = torch.tensor([[0.5, -0.3, 1.2, 0.1], [2.0, 0.0, -1.0, 1.5]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def largest(theta, k=2):
    """The maximiser of <theta, y> over the k-hot y."""
    return dg.subset.mode(theta, k)


def smallest(theta, k=2):
    return dg.subset.mode(-theta, k)


class Recorder:
    """A solver that remembers what it was given."""

    def __init__(self, solver):
        self.solver, self.seen, self.extra = solver, [], []

    def __call__(self, theta, *args, **kwargs):
        assert not torch.is_grad_enabled()
        assert not theta.requires_grad
        self.seen.append(theta.clone())
        self.extra.append((args, kwargs))
        return self.solver(theta)


# ---------------------------------------------------------------- perturbed optimizers


@pytest.mark.parametrize("variance_reduction", [False, True])
def test_perturbed_argmax_with_gumbel_noise_is_softmax(backend, variance_reduction):
    """Value and Jacobian against the exact ones, in standard errors of 20,000 independent pairs."""
    rows = 20_000
    g = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    theta = THETA[:1].expand(rows, 4).clone().requires_grad_()
    one_hot = perturbed_optimizer(
        lambda x: largest(x, 1),
        num_samples=2,
        noise="gumbel",
        variance_reduction=variance_reduction,
        generator=seeded(1),
    )
    value = one_hot(theta)
    (gradients,) = torch.autograd.grad(value, theta, g.expand(rows, 4))
    exact = THETA[:1].clone().requires_grad_()
    softmax = exact.softmax(-1)
    (wanted,) = torch.autograd.grad(softmax, exact, g.unsqueeze(0))
    for found, mean in ((value.detach(), softmax.detach()), (gradients, wanted)):
        z = (found.mean(0) - mean[0]) / (found.std(0) / rows**0.5)
        assert z.abs().max() < max_z_bound(8)


@pytest.mark.parametrize("noise", ["normal", "gumbel", "logistic", "laplace"])
def test_perturbed_jacobian_of_a_threshold(backend, noise):
    """y = [theta > 0], one entry: y_sigma is a survival function, its derivative a density."""
    laws = {
        "normal": torch.distributions.Normal(0.0, 1.0),
        "gumbel": torch.distributions.Gumbel(0.0, 1.0),
        "laplace": torch.distributions.Laplace(0.0, 1.0),
    }
    sigma, at, rows = 0.7, 0.4, 40_000
    theta = torch.full((rows, 1), at, dtype=torch.float64, requires_grad=True)
    step = perturbed_optimizer(
        lambda x: (x > 0).to(x), num_samples=2, sigma=sigma, noise=noise, generator=seeded(2)
    )
    value = step(theta)
    (gradients,) = torch.autograd.grad(value.sum(), theta)
    edge = torch.tensor(-at / sigma, dtype=torch.float64)
    if noise == "logistic":
        survival, density = torch.sigmoid(-edge), torch.sigmoid(edge) * torch.sigmoid(-edge)
    else:
        survival, density = 1 - laws[noise].cdf(edge), laws[noise].log_prob(edge).exp()
    for found, mean in ((value.detach(), survival), (gradients, density / sigma)):
        z = (found.mean() - mean) / (found.std() / rows**0.5)
        assert abs(z) < max_z_bound(8)


def test_variance_reduction_reduces_the_variance():
    g = torch.tensor([1.0, 1.5, 2.0, 3.3], dtype=torch.float64)

    def variance(variance_reduction):
        theta = THETA[:1].expand(4000, 4).clone().requires_grad_()
        mean = perturbed_optimizer(
            largest, num_samples=4, variance_reduction=variance_reduction, generator=seeded(3)
        )
        return torch.autograd.grad(mean(theta), theta, g.expand(4000, 4))[0].var(0).sum()

    assert variance(True) < variance(False) / 4


@pytest.mark.parametrize("variance_reduction", [False, True])
def test_perturbed_backward_is_the_formula(variance_reduction):
    """Instances and solutions of several dimensions, not of one shape."""
    theta = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    solutions = torch.randn(5, 2, 6, dtype=torch.float64)
    score = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    g = torch.randn(2, 6, dtype=torch.float64)
    value = mean_solution(theta, solutions, score, variance_reduction)
    assert_close(value, solutions.mean(0), **EXACT)
    (ours,) = torch.autograd.grad(value, theta, g)
    expected = torch.zeros(2, 3, 4, dtype=torch.float64)
    for s, b in itertools.product(range(5), range(2)):
        others = sum(solutions[t, b] for t in range(5) if t != s) / 4
        y = solutions[s, b] - others if variance_reduction else solutions[s, b]
        expected[b] += (g[b] @ y) * score[s, b] / 5
    assert_close(ours, expected, **EXACT)


def test_perturbed_optimizer_calls_its_solver_once(backend):
    solver = Recorder(largest)
    perturbed = perturbed_optimizer(solver, num_samples=3, sigma=0.5, generator=seeded(4))
    theta = THETA.clone().requires_grad_()
    value = perturbed(theta, 7, option="x")
    value.sum().backward()
    (points,) = solver.seen
    assert points.shape == (6, 4)
    assert solver.extra == [((7,), {"option": "x"})]
    assert_close(value, largest(points).reshape(3, 2, 4).mean(0), **EXACT)
    spread = (points.reshape(3, 2, 4) - THETA) / 0.5
    assert spread.abs().amax() < 6
    assert len(spread.unique()) == 24
    again = perturbed_optimizer(largest, num_samples=3, sigma=0.5, generator=seeded(4))
    assert torch.equal(again(THETA), value)
    assert not torch.equal(again(THETA), value)  # the generator has moved on


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_perturbed_optimizer_masks_and_dtypes(backend, dtype):
    theta = THETA.to(dtype)
    theta[0, 1], theta[1, 2] = float("inf"), -float("inf")
    theta.requires_grad_()
    value = perturbed_optimizer(largest, num_samples=200, generator=seeded())(theta)
    assert value.dtype == dtype
    assert value[0, 1] == 1
    assert value[1, 2] == 0
    (gradient,) = torch.autograd.grad((value * torch.arange(4)).sum(), theta)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0
    assert gradient[1, 2] == 0
    assert gradient.abs().sum() > 0


# ---------------------------------------------------------------- blackbox and identity


@pytest.mark.parametrize("minimize", [False, True])
def test_blackbox_is_its_formula(minimize):
    solver = smallest if minimize else largest
    recorder = Recorder(solver)
    theta = THETA.clone().requires_grad_()
    y = blackbox(recorder, lambda_=1.7, minimize=minimize)(theta, 3, option="x")
    assert torch.equal(y, solver(THETA))
    g = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.0, -3.0, -2.0, 1.0]], dtype=torch.float64)
    g = -g if minimize else g  # so that the solution changes
    (ours,) = torch.autograd.grad(y, theta, g)
    if minimize:
        expected = -(solver(THETA) - solver(THETA + 1.7 * g)) / 1.7
    else:
        expected = (solver(THETA) - solver(THETA - 1.7 * g)) / 1.7
    assert expected.abs().sum() > 0
    assert_close(ours, expected, **EXACT)
    assert recorder.extra == [((3,), {"option": "x"})] * 2


def test_blackbox_of_a_minimiser_is_that_of_a_maximiser_at_minus_theta():
    """A descent direction in both: y_min(w) = y_max(-w)."""
    g = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.0, -3.0, -2.0, 1.0]], dtype=torch.float64)
    costs = (-THETA).requires_grad_()
    theta = THETA.clone().requires_grad_()
    (of_costs,) = torch.autograd.grad(blackbox(smallest, minimize=True)(costs), costs, g)
    (of_theta,) = torch.autograd.grad(blackbox(largest)(theta), theta, g)
    assert of_theta.abs().sum() > 0
    assert_close(of_costs, -of_theta, **EXACT)


def project(theta, projection):
    if projection in ("mean", "std"):
        theta = theta - theta.mean(-1, keepdim=True)
    if projection in ("norm", "std"):
        theta = theta / theta.square().sum(-1, keepdim=True).sqrt()
    return theta


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("projection", [None, "mean", "norm", "std"])
def test_identity_is_its_formula(minimize, projection):
    recorder = Recorder(smallest if minimize else largest)
    theta = THETA.clone().requires_grad_()
    y = identity(recorder, minimize=minimize, projection=projection)(theta, 3, option="x")
    assert_close(recorder.seen[0], project(THETA, projection), **EXACT)
    assert recorder.extra == [((3,), {"option": "x"})]
    assert torch.equal(y, recorder.solver(THETA))
    g = torch.randn(2, 4, dtype=torch.float64)
    (ours,) = torch.autograd.grad(y, theta, g)
    copy = THETA.clone().requires_grad_()
    (expected,) = torch.autograd.grad(project(copy, projection), copy, -g if minimize else g)
    assert_close(ours, expected, **EXACT)


def test_identity_projects_out_what_changes_no_solution():
    theta = THETA.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        identity(largest)(theta), theta, torch.randn(2, 4, dtype=torch.float64)
    )
    nothing = torch.zeros(2, dtype=torch.float64)
    assert gradient.abs().sum() > 0.1
    assert_close(gradient.sum(-1), nothing, **EXACT)
    assert_close((gradient * THETA).sum(-1), nothing, **EXACT)


@pytest.mark.parametrize("projection", [None, "mean", "norm", "std"])
def test_identity_masked_and_constant_rows(projection):
    theta = torch.tensor(
        [[0.5, float("inf"), 1.2, -float("inf")], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64
    ).requires_grad_()
    y = identity(largest, projection=projection)(theta)
    assert y.tolist() == [[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    (gradient,) = torch.autograd.grad(y, theta, torch.tensor([[3.0, 1.0, 5.0, 2.0]] * 2).double())
    assert gradient.isfinite().all()
    assert not gradient[0, [1, 3]].any()
    live = project(torch.tensor([[0.5, 1.2]], dtype=torch.float64).requires_grad_(), projection)
    assert live.isfinite().all()
    if projection is None:
        assert gradient[0, [0, 2]].tolist() == [3.0, 5.0]
    if projection == "mean":
        assert_close(gradient[0, [0, 2]], torch.tensor([-1.0, 1.0]).double(), **EXACT)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("decorate", "options"),
    [
        (perturbed_optimizer, {"num_samples": 3, "sigma": 0.5, "noise": "gumbel"}),
        (perturbed_optimizer, {"variance_reduction": False}),
        (blackbox, {"lambda_": 3.0, "minimize": True}),
        (identity, {"minimize": True, "projection": None}),
    ],
)
def test_as_a_decorator_with_its_options(decorate, options):
    @decorate(**options)
    def solver(theta):
        """The two smallest."""
        return smallest(theta)

    assert solver.__name__ == "solver"
    assert solver.__doc__ == "The two smallest."
    results = []
    for function in (solver, decorate(smallest, **options)):
        torch.manual_seed(1)
        theta = THETA.clone().requires_grad_()
        y = function(theta)
        results.append((y, *torch.autograd.grad((y * -THETA).sum(), theta)))
    assert results[0][1].abs().sum() > 0
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("decorate", [perturbed_optimizer, blackbox, identity])
def test_errors_of_all(decorate):
    with pytest.raises(TypeError, match="fn must be callable"):
        decorate(3)
    with pytest.raises(TypeError, match=r"fn must return a torch\.Tensor"):
        decorate(lambda theta: theta.tolist())(THETA)
    with pytest.raises(ValueError, match="fn must return"):
        decorate(lambda theta: theta[:1])(THETA)
    with pytest.raises(ValueError, match=r"theta must have shape \[batch, \*instance\]"):
        decorate(largest)(THETA[0])
    with pytest.raises(TypeError, match="theta must"):
        decorate(largest)(THETA.long())


def test_errors():
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        perturbed_optimizer(largest, num_samples=0)
    with pytest.raises(ValueError, match="sigma must be greater than 0"):
        perturbed_optimizer(largest, sigma=0.0)
    with pytest.raises(ValueError, match="noise must be one of 'gumbel', 'normal'"):
        perturbed_optimizer(largest, noise="sum_of_gamma")
    with pytest.raises(ValueError, match="lambda_ must be greater than 0"):
        blackbox(largest, lambda_=0.0)
    with pytest.raises(ValueError, match="projection must be one of None, 'mean'"):
        identity(largest, projection="max")
