# SPDX-License-Identifier: Apache-2.0
"""AIMLE's adaptive state: its trajectory, when it changes, how long the gradient is."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.noise import resolve
from tests.imle import formulas
from tests.imle.problems import generator, gradient, stored_noise, weights

STATE = ("beta", "grad_norm", "previous_update")
paths = pytest.mark.parametrize("path", ["fused", "unfused"])


def state(target):
    return [getattr(target, name).item() for name in STATE]


def decorated(path, target, k=3, samples=1, **settings):
    solver = dg.solvers.topk(k) if path == "fused" else lambda x: dg.subset.mode(x, k)
    settings.setdefault("noise_distribution", dg.GumbelNoiseDistribution())
    return dg.aimle(solver, target, nb_samples=samples, generator=generator(), **settings)


def one_step(path, target, theta=None, scale=1.0, **settings):
    """One forward and backward pass from the same noise and gradients every time."""
    torch.manual_seed(3)
    theta = torch.randn(4, 12, requires_grad=True) if theta is None else theta
    z = decorated(path, target, **settings)(theta)
    return gradient(theta, z, weights(theta, z.shape[0] // theta.shape[0], scale))


@paths
@pytest.mark.parametrize("symmetric", [False, True], ids=["forward", "central"])
@pytest.mark.parametrize(
    ("beta", "step", "momentum", "decay", "norm"),
    [
        (0.0, 1e-2, 0.0, 0.9, 1.0),
        (1.0, 1e-2, 0.9, 0.9, 1.0),
        (0.3, 5e-2, 0.5, 0.5, 4.0),
        (0.02, 3e-3, 0.9, 0.0, 0.0),
    ],
)
def test_trajectory_over_200_steps(backend, path, symmetric, beta, step, momentum, decay, norm):
    """Bit for bit that of a transcript in Python floats, which are float64 as the buffers are."""
    target = dg.AdaptiveTargetDistribution(1.0, beta, 1.0, step, momentum, decay, norm)
    rule = formulas.AdaptiveRule(beta, 1.0, step, momentum, decay, norm)
    theta = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    directions = set()
    for seed in range(200):
        dy = weights(theta, 2)
        solve = dg.aimle(
            dg.solvers.topk(3) if path == "fused" else lambda x: dg.subset.mode(x, 3),
            target,
            dg.GumbelNoiseDistribution(),
            nb_samples=2,
            symmetric_perturbation=symmetric,
            generator=generator(seed),
        )
        got = gradient(theta, solve(theta), dy)
        noise = stored_noise(dg.GumbelNoiseDistribution(), theta, 2, seed)
        arrays = (theta.detach().numpy(), noise.numpy(), dy.numpy())
        expected = rule.gradient(*arrays, 3, alpha=1.0, target_tau=1.0, symmetric=symmetric)
        assert state(target) == [rule.beta, rule.ema, rule.previous]
        assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
        directions.add(rule.previous > 0)
        with torch.no_grad():
            theta -= 0.01 * got
    # From 0 towards an attainable target, beta must have turned; the last rule only falls.
    assert directions == ({False} if norm == 0 else {True, False})


@paths
def test_the_gradient_has_the_length_of_its_lambda(backend, path):
    """S samples: divided by the lambda of the perturbation; published_scale: sqrt(S) longer."""
    results = {}
    for published in (False, True):
        target = dg.AdaptiveTargetDistribution(1.0, 3.0, published_scale=published)
        results[published] = one_step(path, target, samples=16)
    assert results[False].any()
    assert_close(results[True], 4 * results[False])


def test_a_finite_difference_has_the_length_of_the_true_gradient():
    """S = 100 samples, central: the mean length ratio to the exact gradient is about 1, not 10."""
    ratios = []
    for seed in range(6):
        torch.manual_seed(seed)
        theta = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
        dy = torch.randn(6, dtype=torch.float64)
        target = dg.AdaptiveTargetDistribution(1.0, 0.5)
        solve = decorated("unfused", target, k=1, samples=100, symmetric_perturbation=True)
        with dg.backend("reference"):
            got = gradient(theta, solve(theta), dy.expand(1, 100, 6))
        p = theta.softmax(-1)
        (exact,) = torch.autograd.grad((p * dy).sum(), theta)
        ratios.append((got.norm() / exact.norm()).item())
    assert 0.5 < sum(ratios) / len(ratios) < 2


@paths
def test_loss_scale(backend, path):
    """Mixed precision multiplies the loss by 2^16: so is the gradient, and nothing else changes."""
    plain, scaled = (dg.AdaptiveTargetDistribution(1.0, 2.0, beta_update_step=0.1) for _ in "ab")
    theta = torch.randn(4, 12, requires_grad=True)
    for _ in range(20):
        expected = one_step(path, plain, theta, samples=3)
        got = one_step(path, scaled, theta, scale=2.0**16, samples=3)
        assert torch.equal(got, expected * 2**16)
        assert state(scaled) == state(plain)
    assert expected.any()


@paths
@pytest.mark.parametrize("scale", [1e-30, 1e-42, 1e30])
def test_extreme_gradients(backend, path, scale):
    """Squares of float32 numbers of this size leave float32's range; the difference does not."""
    usual, extreme = (dg.AdaptiveTargetDistribution(1.0, 2.0) for _ in "ab")
    expected = one_step(path, usual)
    got = one_step(path, extreme, scale=scale)
    assert got.isfinite().all()
    assert state(extreme)[1] > 0
    if scale != 1e-42:  # of subnormal gradients a few bits are left
        assert_close(got / scale, expected, rtol=1e-5, atol=0)
        assert state(extreme) == state(usual)


@paths
def test_zero_gradient(backend, path):
    """g = 0: gradient 0 (not 0 / 0), and a step of the rule that saw no non-zero entry."""
    target = dg.AdaptiveTargetDistribution(1.0, 2.0)
    assert not one_step(path, target, scale=0.0).any()
    assert state(target) == [2.0 + 1e-4, 0.9, 1e-4]
    nothing = torch.zeros(4, 12, requires_grad=True)
    for scale in (0.0, 1.0):  # lambda is 0 / 0, then 0
        assert not one_step(path, target, nothing, scale).any()


@paths
def test_per_example_zero_gradient(backend, path):
    """An example with g = 0 has gradient 0 and does not disturb the others."""
    theta = torch.randn(3, 12, requires_grad=True)
    target = dg.AdaptiveTargetDistribution(1.0, 5.0, per_example=True)
    z = decorated(path, target)(theta)
    dy = weights(theta, 1)
    dy[1] = 0
    got = gradient(theta, z, dy)
    assert not got[1].any()
    assert got[0].any()
    assert got.isfinite().all()


@paths
def test_per_example_is_the_batch_of_one(backend, path):
    """lambda of an example depends on that example alone."""
    theta = torch.randn(3, 12, requires_grad=True)
    dy = weights(theta, 2) * torch.tensor([1.0, 100.0, 1e-3]).reshape(3, 1, 1)
    together = dg.AdaptiveTargetDistribution(1.0, 4.0, per_example=True).eval()
    alone = dg.AdaptiveTargetDistribution(1.0, 4.0).eval()
    noise = {"noise_distribution": None}  # rows of one call have different noise
    got = gradient(theta, decorated(path, together, samples=2, **noise)(theta), dy)
    assert got.any()
    for row in range(3):
        one = theta[row : row + 1].detach().requires_grad_()
        expected = gradient(one, decorated(path, alone, samples=2, **noise)(one), dy[row : row + 1])
        assert_close(got[row : row + 1], expected)


@paths
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("per_example", [False, True], ids=["batch", "per-example"])
def test_a_gradient_that_is_not_finite_leaves_the_state(backend, path, value, per_example):
    """As an overflow under mixed precision, whose step is skipped: NaN in that row."""
    target = dg.AdaptiveTargetDistribution(1.0, 2.0, per_example=per_example)
    before = state(target)
    theta = torch.randn(3, 12, requires_grad=True)
    dy = weights(theta, 2)
    dy[1, 0, 4] = value
    got = gradient(theta, decorated(path, target, samples=2)(theta), dy)
    assert got[1].isnan().all()
    assert got[[0, 2]].isfinite().all()
    assert state(target) == before
    gradient(theta, decorated(path, target, samples=2)(theta), weights(theta, 2))
    assert state(target) != before


@paths
def test_an_invalid_row_is_alone(backend, path):
    """A row of NaN logits: NaN in that row, the norms and the counts are those of the others."""
    theta = torch.randn(3, 12)
    theta[1, 3] = torch.nan
    theta.requires_grad_()
    target = dg.AdaptiveTargetDistribution(1.0, 4.0)
    z = decorated(path, target)(theta)
    got = gradient(theta, z, weights(theta, 1))
    assert z[1].isnan().all()
    assert got[1].isnan().all()
    assert got[[0, 2]].isfinite().all()
    count = got[[0, 2]].count_nonzero().item()
    assert count > 0
    assert state(target)[1] == 0.9 + (1 - 0.9) * (count / 3)


@paths
def test_untouched_without_a_backward_pass_and_in_eval(backend, path):
    target = dg.AdaptiveTargetDistribution(1.0, 2.0)
    before = state(target)
    theta = torch.randn(4, 12, requires_grad=True)
    solve = decorated(path, target)
    with torch.no_grad():
        solve(theta)
    solve(theta)
    target.eval()
    expected = one_step(path, target)
    assert state(target) == before
    target.train()
    assert_close(one_step(path, target), expected)
    assert state(target) != before


@paths
def test_gradient_accumulation(backend, path):
    """Each backward pass is one step of the rule, in their order, whenever the forward passes
    were.
    """
    apart, together = (dg.AdaptiveTargetDistribution(1.0, 2.0, beta_update_step=0.5) for _ in "ab")
    thetas = [torch.randn(4, 12, requires_grad=True) for _ in range(2)]
    dys = [weights(theta, 1) for theta in thetas]
    expected = [
        gradient(theta, decorated(path, apart)(theta), dy)
        for theta, dy in zip(thetas, dys, strict=True)
    ]
    outputs = [decorated(path, together)(theta) for theta in thetas]
    got = [gradient(theta, z, dy) for theta, z, dy in zip(thetas, outputs, dys, strict=True)]
    assert_close(got, expected)
    assert state(together) == state(apart)


@paths
def test_a_kept_graph_steps_each_time(backend, path):
    target = dg.AdaptiveTargetDistribution(1.0, 2.0)
    theta = torch.randn(4, 12, requires_grad=True)
    z = decorated(path, target)(theta)
    for _ in range(2):
        torch.autograd.grad(z.sum(), theta, retain_graph=True)
    assert state(target)[0] == 2.0 + 1e-4 + 1e-4


@paths
def test_state_dict(backend, path):
    """A restored run goes on as the one that was saved; strict loading finds every name."""
    target = dg.AdaptiveTargetDistribution(1.0, 2.0, beta_update_momentum=0.5)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), target)
    for _ in range(3):
        one_step(path, target)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = torch.nn.Sequential(
        torch.nn.Linear(2, 2), dg.AdaptiveTargetDistribution(1.0, beta_update_momentum=0.5)
    )
    other.load_state_dict(torch.load(file))
    assert set(target.state_dict()) == set(STATE)
    assert state(other[1]) == state(target)
    assert_close(one_step(path, other[1]), one_step(path, target))
    assert state(other[1]) == state(target)


def test_precision_of_the_state_survives_casts_of_the_model():
    """In 16 bits a step of 1e-4 from beta = 1 would be lost."""
    target = dg.AdaptiveTargetDistribution()
    target.beta.fill_(1.0001)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), target)
    for cast in ("half", "bfloat16", "float", "double"):
        getattr(model, cast)()
        assert target.beta.dtype == torch.float64
        assert target.beta.item() == 1.0001
    assert model[0].weight.dtype == torch.float64
    assert copy.deepcopy(target).state_dict() == target.state_dict()


def test_the_state_follows_theta():
    target = dg.AdaptiveTargetDistribution()
    target.prepare(torch.device("meta"))
    assert all(getattr(target, name).device.type == "meta" for name in STATE)
    assert target.beta.dtype == torch.float64


@paths
def test_autocast(backend, path):
    """Under autocast the selections are made in float32, in both passes."""
    theta = torch.randn(4, 12, requires_grad=True)
    dy = weights(theta, 1)
    results = []
    for enabled in (False, True):
        target = dg.AdaptiveTargetDistribution(1.0, 2.0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            z = decorated(path, target)(theta)
        results.append((z.detach(), gradient(theta, z, dy), *state(target)))
    assert_close(*results)


def test_by_hand_as_in_the_published_package():
    """params and process with a step of the rule, without any decorator."""
    target = dg.AdaptiveTargetDistribution(1.0, 2.0)
    theta, dy = torch.randn(6, 5), torch.randn(6, 5)
    step = 2.0 * theta.norm() / dy.norm()
    assert_close(target.params(theta, dy), theta - step * dy)
    assert_close(target.params(theta, dy, _is_minimization=True), theta + step * dy)
    assert_close(target.params(theta, None), theta)
    difference = torch.zeros(6, 1, 5)
    difference[0, 0, :2] = torch.tensor([1.0, -1.0])
    assert_close(target.process(theta, dy, difference), difference / step)
    assert state(target) == [2.0 + 1e-4, 0.9 + (1 - 0.9) * (2 / 6), 1e-4]


def test_by_hand_fixed():
    target = dg.TargetDistribution(0.5, 3.0, do_gradient_scaling=True)
    theta, dy, difference = torch.randn(6, 5), torch.randn(6, 5), torch.randn(6, 1, 5)
    assert_close(target.params(theta, dy), 0.5 * theta - 3 * dy)
    assert_close(target.params(theta, dy, _is_minimization=True), 0.5 * theta + 3 * dy)
    assert_close(target.params(theta, None), 0.5 * theta)
    assert_close(target.process(theta, dy, difference), difference / 3)
    assert_close(dg.TargetDistribution().process(theta, dy, difference), difference)
    tiny = dg.TargetDistribution(1.0, 0.0, do_gradient_scaling=True, eps=0.25)
    assert_close(tiny.process(theta, dy, difference), difference * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_alpha": torch.inf}, "initial_alpha must be finite"),
        ({"initial_beta": -1.0}, "initial_beta must be finite and at least 0, got -1.0"),
        ({"initial_grad_norm": -1.0}, "initial_grad_norm must be"),
        ({"beta_update_step": -1.0}, "beta_update_step must be"),
        ({"beta_update_momentum": 1.0}, "beta_update_momentum must be .* less than 1"),
        ({"grad_norm_decay_rate": 1.5}, "grad_norm_decay_rate must be .* at most 1"),
        ({"target_norm": float("nan")}, "target_norm must be finite"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        dg.AdaptiveTargetDistribution(**arguments)


def test_bad_types():
    with pytest.raises(TypeError, match="initial_beta must be a float, got str '1'"):
        dg.AdaptiveTargetDistribution(1.0, "1")
    with pytest.raises(TypeError, match="process_group must be None, a process group or its name"):
        dg.AdaptiveTargetDistribution(process_group=3)
    with pytest.raises(TypeError, match="alpha must be a float, got bool True"):
        dg.TargetDistribution(True)
    with pytest.raises(ValueError, match="beta must be finite, got inf"):
        dg.TargetDistribution(1.0, torch.inf)
    with pytest.raises(ValueError, match="eps must be greater than 0, got 0"):
        dg.TargetDistribution(eps=0.0)


def test_resolved_noise_is_the_one_of_the_decorator(backend):
    """A name given to dg.imle_topk and the object given to a decorator are one law."""
    theta = torch.randn(2, 9)
    by_name = dg.imle_topk(theta, 2, 3, noise="sum_of_gamma", generator=generator())
    solve = dg.imle(
        dg.solvers.topk(2),
        noise_distribution=resolve("sum_of_gamma", 2),
        nb_samples=3,
        generator=generator(),
    )
    assert_close(solve(theta).reshape(2, 3, 9).movedim(1, 0), by_name)
