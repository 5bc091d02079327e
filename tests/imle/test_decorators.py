# SPDX-License-Identifier: Apache-2.0
"""dg.imle and dg.aimle around any batched solver: semantics, arguments, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from tests.imle import formulas
from tests.imle.problems import generator, gradient, stored_noise, weights

decorators = pytest.mark.parametrize("decorator", [dg.imle, dg.aimle], ids=["imle", "aimle"])


class Stored(dg.BaseNoiseDistribution):
    """Noise of the user's own that remembers what it drew."""

    def sample(self, shape):
        self.drawn = torch.randn(shape)
        return self.drawn


def mode(k):
    return lambda values: dg.subset.mode(values, k)


def assignments(values):
    """argmax over permutation matrices, by SciPy: a solver that leaves torch."""
    from scipy.optimize import linear_sum_assignment

    out = np.zeros(values.shape)
    for index, weight in enumerate(values.numpy()):
        out[index][linear_sum_assignment(weight, maximize=True)] = 1
    return torch.from_numpy(out)


def test_ways_to_decorate():
    theta = torch.randn(2, 6)
    expected = dg.subset.mode(theta, 2)

    @dg.imle(nb_samples=2)
    def with_arguments(values):
        """The two largest."""
        return dg.subset.mode(values, 2)

    @dg.aimle
    def bare(values):
        return dg.subset.mode(values, 2)

    assert with_arguments.__name__ == "with_arguments"
    assert with_arguments.__doc__ == "The two largest."
    assert_close(with_arguments(theta), expected.repeat_interleave(2, 0))
    assert_close(bare(theta), expected)
    assert_close(dg.aimle(mode(2))(theta), expected)
    target = dg.TargetDistribution(1.0, 2.0)
    # The positions of the published packages.
    solve = dg.imle(mode(2), target, None, 2, 3, 0.5, 0.25)
    assert solve.target_distribution is target
    assert solve(theta).shape == (12, 6)
    assert dg.aimle(mode(2), None, None, 2, 3, 0.5, 0.25, True)(theta).shape == (12, 6)
    assert type(bare.target_distribution) is dg.AdaptiveTargetDistribution


@decorators
def test_samples_of_an_example_are_neighbours(backend, decorator):
    """[B * T, ...], the sample index running fastest; the user's noise is asked for [B, T, ...]."""
    noise = Stored()
    solve = decorator(
        mode(3),
        noise_distribution=noise,
        nb_samples=4,
        nb_marginal_samples=2,
        theta_noise_temperature=0.7,
    )
    theta = torch.randn(5, 9)
    z = solve(theta)
    assert noise.drawn.shape == (5, 8, 9)
    x = theta[:, None] + 0.7 * noise.drawn
    assert_close(z.reshape(5, 8, 9), dg.subset.mode(x, 3))


@pytest.mark.parametrize("minimises", [False, True], ids=["maximising", "minimising"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["forward", "central"])
@pytest.mark.parametrize("name", ["imle", "aimle"])
def test_any_instance_with_marginal_samples(backend, name, symmetric, minimises):
    """Matrices under the user's noise; states are averaged over the marginal samples first."""
    noise = Stored()
    beta, alpha, tau, target_tau = 8.0, 0.9, 1.0, 0.6
    target = dg.TargetDistribution(alpha, beta, do_gradient_scaling=True)
    sign = -1 if minimises else 1
    solver = (lambda x: assignments(-x)) if minimises else assignments
    solve = {"imle": dg.imle, "aimle": dg.aimle}[name](
        solver,
        target,
        noise,
        3,
        2,
        tau,
        target_tau,
        symmetric_perturbation=symmetric,
        _is_minimization=minimises,
    )
    theta = torch.randn(4, 5, 5, requires_grad=True)
    dy = torch.randn(4, 6, 5, 5)
    z = solve(theta)
    assert z.dtype == theta.dtype
    got = gradient(theta, z, dy)

    def at(direction, temperature, factor):
        x = factor * theta.detach()[:, None] + direction + temperature * noise.drawn
        return solver(x.reshape(24, 5, 5)).reshape(4, 3, 2, 5, 5).mean(2)

    if symmetric:
        left = at(sign * beta * dy, target_tau, alpha)
    elif name == "imle":
        left = at(0 * dy, tau, 1.0)
    else:
        left = at(0 * dy, target_tau, alpha)
    right = at(-sign * beta * dy, target_tau, alpha)
    difference = (left - right) / (2 if symmetric else 1)
    expected = sign * (difference / beta).mean(1)
    assert expected.any()
    assert_close(got.double(), expected)


@pytest.mark.parametrize("law", ["gumbel", "sum_of_gamma", None])
@pytest.mark.parametrize("symmetric", [False, True], ids=["forward", "central"])
@pytest.mark.parametrize("target", ["fixed", "adaptive"])
@decorators
def test_fused_and_unfused_paths_agree(backend, decorator, target, symmetric, law):
    """The same samples and gradients from the same seed, noise with location and scale too."""
    noise = {
        "gumbel": dg.GumbelNoiseDistribution(0.25, 2.0),
        "sum_of_gamma": dg.SumOfGammaNoiseDistribution(5),
        None: None,
    }[law]
    results = []
    for solver in (dg.solvers.topk(5), mode(5)):
        theta = torch.randn(8, 40, generator=generator(1)).requires_grad_()
        chosen = {
            "fixed": dg.TargetDistribution(1.0, 3.0, do_gradient_scaling=True),
            "adaptive": dg.AdaptiveTargetDistribution(1.0, 2.0),
        }[target]
        solve = decorator(
            solver,
            chosen,
            noise,
            nb_samples=3,
            theta_noise_temperature=0.7,
            target_noise_temperature=0.7,
            symmetric_perturbation=symmetric,
            generator=generator(),
        )
        z = solve(theta)
        torch.manual_seed(2)
        got = gradient(theta, z, weights(theta, 3))
        assert got.any()
        results.append((z.detach(), got, getattr(chosen, "state", None)))
    assert_close(*results)


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        ({}, True),
        ({"noise_distribution": dg.NormalNoiseDistribution()}, True),
        ({"noise_distribution": Stored()}, False),
        ({"nb_marginal_samples": 2}, False),
        ({"_is_minimization": True}, False),
        ({"target_noise_temperature": 0.5}, True),
        ({"target_distribution": dg.AdaptiveTargetDistribution()}, True),
        ({"target_distribution": dg.AdaptiveTargetDistribution(0.5)}, False),
        (
            {
                "target_distribution": dg.AdaptiveTargetDistribution(),
                "target_noise_temperature": 0.5,
            },
            False,
        ),
        (
            {
                "target_distribution": dg.AdaptiveTargetDistribution(0.5),
                "symmetric_perturbation": True,
            },
            True,
        ),
    ],
)
def test_when_the_fused_path_is_taken(monkeypatch, settings, fused):
    """By how often the solver itself is called."""
    calls = []
    original = dg.solvers.TopK.__call__

    def counted(self, values):
        calls.append(values.shape)
        return original(self, values)

    monkeypatch.setattr(dg.solvers.TopK, "__call__", counted)
    theta = torch.randn(2, 6, requires_grad=True)
    with dg.backend("reference"):
        dg.imle(dg.solvers.topk(2), **settings)(theta).sum().backward()
    assert (not calls) == fused


class Doubled(dg.BaseTargetDistribution):
    """A target of the user's own: records what it is given."""

    def __init__(self):
        self.seen = []

    def params(self, theta, dy, *, _is_minimization=False):
        self.seen.append((theta.shape, None if dy is None else dy.shape, _is_minimization))
        return theta if dy is None else theta - 4 * dy

    def process(self, theta, dy, gradient):
        self.seen.append((theta.shape, dy.shape, gradient.shape))
        return 2 * gradient


@decorators
def test_a_target_of_the_users_own(backend, decorator):
    target = Doubled()
    law = dg.GumbelNoiseDistribution()
    solve = decorator(dg.solvers.topk(3), target, law, nb_samples=2, generator=generator())
    theta = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    dy = weights(theta, 2)
    got = gradient(theta, solve(theta), dy)
    arrays = (theta.detach().numpy(), stored_noise(law, theta, 2).numpy(), dy.numpy())
    expected = formulas.imle(*arrays, 3, alpha=1.0, step=4.0, tau=1.0, target_tau=1.0)
    assert_close(got, torch.from_numpy(2 * expected))
    left = [] if decorator is dg.imle else [((8, 9), None, False)]
    assert target.seen == [((8, 9), (8, 9), False), *left, ((4, 9), (8, 9), (4, 2, 9))]


def test_a_subclass_of_our_target_takes_the_unfused_path(backend):
    """What it overrides must run."""

    class Shouting(dg.TargetDistribution):
        def process(self, theta, dy, gradient):
            return 10 * super().process(theta, dy, gradient)

    theta = torch.randn(4, 9, requires_grad=True)
    results = []
    for target in (dg.TargetDistribution(1.0, 5.0), Shouting(1.0, 5.0)):
        torch.manual_seed(4)
        solve = dg.imle(
            dg.solvers.topk(3), target, dg.GumbelNoiseDistribution(), generator=generator()
        )
        results.append(gradient(theta, solve(theta), weights(theta, 1)))
    assert results[0].any()
    assert_close(results[1], 10 * results[0])
    with pytest.raises(TypeError, match="target must be of the class TargetDistribution itself"):
        dg.imle_topk(theta, 3, target=Shouting())


@pytest.mark.parametrize("name", ["imle_topk", "aimle_topk"])
def test_topk_with_noise_of_the_users_own(backend, name):
    """[S, ..., n] again, with a k for each row."""
    noise, k = Stored(), torch.tensor([[1], [4]])
    target = {"imle_topk": dg.TargetDistribution(), "aimle_topk": dg.AdaptiveTargetDistribution()}
    theta = torch.randn(2, 3, 9, requires_grad=True)
    function = getattr(dg, name)
    z = function(theta, k, 5, target=target[name], noise=noise, temperature=0.5)
    assert noise.drawn.shape == (6, 5, 9)
    x = theta.detach().reshape(6, 1, 9) + 0.5 * noise.drawn
    chosen = dg.subset.mode(x, torch.tensor([1, 1, 1, 4, 4, 4])[:, None])
    assert_close(z.detach(), chosen.movedim(1, 0).reshape(5, 2, 3, 9))
    assert torch.autograd.grad((z * torch.randn_like(z)).sum(), theta)[0].any()


@decorators
def test_arguments_are_passed_through(decorator):
    """By position and name, as they are, in both passes; without a gradient."""
    seen = []
    matrix = torch.randn(3, requires_grad=True)

    def solver(values, *args, **kwargs):
        seen.append((args, kwargs))
        assert not torch.is_grad_enabled()
        assert not values.requires_grad
        return dg.subset.mode(values, kwargs["k"])

    theta = torch.randn(2, 6, requires_grad=True)
    decorator(solver)(theta, matrix, "two", k=2).sum().backward()
    assert len(seen) == (2 if decorator is dg.imle else 3)
    for args, kwargs in seen:
        assert args[0] is matrix
        assert args[1] == "two"
        assert kwargs == {"k": 2}
    assert matrix.grad is None


def test_a_solver_that_works_in_place_does_not_reach_theta():
    def solver(values):
        values.sub_(values.mean(-1, keepdim=True)).clamp_(min=0)
        return values.sign()

    theta = torch.randn(3, 6, requires_grad=True)
    before = theta.detach().clone()
    dg.imle(solver)(theta).sum().backward()
    assert torch.equal(theta, before)


def test_nothing_of_the_solver_is_kept():
    """A solver made of torch functions gets no graph, neither forward nor backward."""
    parameter = torch.randn(6, requires_grad=True)
    theta = torch.randn(3, 6, requires_grad=True)
    z = dg.imle(lambda values: values * parameter)(theta)
    ((leaf, _),) = z.grad_fn.next_functions
    assert leaf.variable is theta
    z.sum().backward()
    assert parameter.grad is None


def test_integer_states_come_out_in_the_dtype_of_theta():
    """An integer output could carry no gradient."""
    theta = torch.randn(3, 6, requires_grad=True)
    z = dg.imle(lambda values: dg.subset.mode(values, 2).to(torch.int64))(theta)
    assert z.dtype == torch.float32
    (got,) = torch.autograd.grad((z * torch.randn_like(z)).sum(), theta)
    assert got.dtype == torch.float32


def test_an_overflow_does_not_reach_the_solver():
    """The solvers of this library refuse NaN; a step that mixed precision skips must not raise."""

    def solver(values):
        assert values.isfinite().all()
        return dg.subset.mode(values, 2)

    for target in (dg.TargetDistribution(), dg.AdaptiveTargetDistribution(), Doubled()):
        theta = torch.randn(3, 6, requires_grad=True)
        z = dg.aimle(solver, target, nb_samples=2)(theta)
        dy = torch.randn(3, 2, 6)
        dy[1, 0, 3] = torch.inf
        got = gradient(theta, z, dy)
        assert got[1].isnan().all()
        assert got[[0, 2]].isfinite().all()


def test_both_passes_run_the_solver_under_the_same_autocast():
    seen = []

    def solver(values):
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return dg.subset.mode(values, 2)

    theta = torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        z = dg.imle(solver)(theta)
    z.sum().backward()
    assert seen == [(True, torch.float16)] * 2


@decorators
def test_empty_batch(backend, decorator):
    for solver in (dg.solvers.topk(2), mode(2)):
        theta = torch.randn(0, 6, requires_grad=True)
        solve = decorator(solver, noise_distribution=dg.GumbelNoiseDistribution(), nb_samples=3)
        z = solve(theta)
        assert z.shape == (0, 6)
        assert gradient(theta, z, torch.zeros(0, 3, 6)).shape == (0, 6)
        if decorator is dg.aimle:
            assert solve.target_distribution.beta == 1.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"nb_samples": 0}, ValueError, "nb_samples must be at least 1, got 0"),
        ({"nb_samples": 1.5}, TypeError, "nb_samples must be an int, got float 1.5"),
        ({"nb_marginal_samples": 0}, ValueError, "nb_marginal_samples must be at least 1"),
        ({"theta_noise_temperature": -1.0}, ValueError, "theta_noise_temperature must be finite"),
        ({"target_noise_temperature": "1"}, TypeError, "target_noise_temperature must be a float"),
        (
            {"noise_distribution": "gumbel"},
            TypeError,
            "noise_distribution must be a BaseNoiseDistribution, got str 'gumbel'",
        ),
        (
            {"target_distribution": 1.0},
            TypeError,
            "target_distribution must be a BaseTargetDistribution, got float 1.0",
        ),
        ({"function": 3}, TypeError, "function must be callable .a batched MAP solver., got int 3"),
    ],
)
@decorators
def test_bad_settings(decorator, settings, error, message):
    with pytest.raises(error, match=message):
        decorator(**{"function": mode(2), **settings})


@decorators
def test_bad_calls(backend, decorator):
    solve = decorator(mode(2))
    with pytest.raises(TypeError, match=r"theta must be a torch.Tensor, got list"):
        solve([1.0])
    with pytest.raises(TypeError, match="theta must have dtype float64"):
        solve(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"theta must have shape \[batch, \*instance\], got"):
        solve(torch.ones(3))
    with pytest.raises(ValueError, match="k must be from 0 to n = 3"):
        decorator(dg.solvers.topk(4))(torch.ones(2, 3))
    theta = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"function must return a tensor of shape \(2, 3\), got"):
        decorator(lambda values: values[:, :2])(theta)
    with pytest.raises(TypeError, match=r"function must return a torch.Tensor, got ndarray"):
        decorator(lambda values: values.numpy())(theta)
    with pytest.raises(ValueError, match="generator must be on the device of logits"):
        decorator(
            mode(2),
            noise_distribution=dg.GumbelNoiseDistribution(),
            generator=generator(),
        )(theta.detach().to("meta"))

    class Short(Stored):
        def sample(self, shape):
            return super().sample(shape)[:, :1]

    with pytest.raises(ValueError, match=r"noise_distribution.sample must return .*\(2, 3, 3\)"):
        decorator(mode(2), noise_distribution=Short(), nb_samples=3)(theta)

    class Bad(Doubled):
        def process(self, theta, dy, gradient):
            return gradient[:, 0]

    z = decorator(mode(2), Bad())(theta)
    with pytest.raises(ValueError, match=r"target_distribution.process must return"):
        z.sum().backward()


@pytest.mark.parametrize("name", ["imle_topk", "aimle_topk"])
def test_bad_arguments_of_topk(name):
    good = {"imle_topk": dg.TargetDistribution(), "aimle_topk": dg.AdaptiveTargetDistribution()}
    other = {"imle_topk": good["aimle_topk"], "aimle_topk": good["imle_topk"]}
    theta, function = torch.randn(2, 5), getattr(dg, name)
    with pytest.raises(TypeError, match="target must be of the class"):
        function(theta, 2, target=other[name])
    with pytest.raises(ValueError, match="target_temperature must be finite and at least 0"):
        function(theta, 2, target=good[name], target_temperature=-1.0)
    with pytest.raises(ValueError, match="k must be from 0 to n = 5"):
        function(theta, 6, target=good[name])
    with pytest.raises(ValueError, match="num_samples must be at least 0"):
        function(theta, 2, -1, target=good[name])
    with pytest.raises(ValueError, match="noise must be one of"):
        function(theta, 2, target=good[name], noise="cauchy")


@decorators
@pytest.mark.parametrize("path", ["fused", "unfused"])
def test_a_second_derivative_is_an_error(backend, decorator, path):
    """A zero would be taken for an answer."""
    theta = torch.randn(3, 6, requires_grad=True)
    solve = decorator(
        dg.solvers.topk(2) if path == "fused" else mode(2),
        noise_distribution=dg.GumbelNoiseDistribution(),
    )
    (first,) = torch.autograd.grad(solve(theta).square().sum(), theta, create_graph=True)
    with pytest.raises(NotImplementedError, match="piecewise constant"):
        first.sum().backward()
