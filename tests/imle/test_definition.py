# SPDX-License-Identifier: Apache-2.0
"""Gradients are those of the published formulas, computed step by step with the noise stored.

Fused and unfused, over random shapes, k, numbers of samples and lambda from 0 to 10^4.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.estimators.imle_topk import aimle_topk, imle_topk
from discrete_grad.noise import resolve
from tests.imle import formulas
from tests.imle.problems import generator, gradient, stored_noise, topk_gradient, weights

# (B, n, k, samples, alpha, lambda, tau, target tau, noise): lambda over nine decades and 0.
PROBLEMS = [
    (1, 1, 1, 1, 1.0, 1.0, 1.0, 1.0, "gumbel"),
    (3, 7, 2, 1, 1.0, 0.0, 1.0, 1.0, "gumbel"),
    (2, 16, 5, 3, 0.9, 1e-4, 1.0, 1.0, "gumbel"),
    (4, 33, 8, 10, 1.0, 0.1, 0.5, 0.5, "sum_of_gamma"),
    (5, 20, 19, 2, 1.1, 2.0, 1.0, 0.3, "normal"),
    (2, 65, 1, 4, 1.0, 30.0, 0.1, 1.0, "logistic"),
    (7, 12, 6, 5, 0.0, 1e2, 2.0, 1.0, "laplace"),
    (2, 40, 10, 7, 1.0, 1e3, 0.0, 0.0, "gumbel"),
    (3, 129, 31, 6, 1.0, 1e4, 1.0, 1.0, "sum_of_gamma"),
    (1, 5, 0, 2, 1.0, 1.0, 1.0, 1.0, "gumbel"),
    (2, 5, 5, 2, 1.0, 1.0, 1.0, 1.0, "gumbel"),
]


def _random_problem(seed):
    draw = np.random.RandomState(seed)
    n = int(draw.randint(2, 70))
    return (
        int(draw.randint(1, 6)),
        n,
        int(draw.randint(1, n)),
        int(draw.randint(1, 11)),
        float(draw.uniform(0.5, 1.5)),
        float(10 ** draw.uniform(-4, 4)),
        float(draw.uniform(0, 2)),
        float(draw.uniform(0, 2)),
        ("gumbel", "normal", "logistic", "laplace")[draw.randint(4)],
    )


PROBLEMS += [_random_problem(seed) for seed in range(12)]
problems = pytest.mark.parametrize(
    "problem",
    PROBLEMS,
    ids=lambda p: "-".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in p),
)
paths = pytest.mark.parametrize("path", ["op", "fused", "unfused"])
both = pytest.mark.parametrize("symmetric", [False, True], ids=["forward", "central"])


def _drawn(problem):
    b, n, _, samples = problem[:4]
    theta = torch.randn(b, n, dtype=torch.float64, requires_grad=True)
    return theta, weights(theta, samples)


def _mode(k):
    """topk as a solver of the user's own: the unfused path."""
    return lambda values: dg.subset.mode(values, k)


def _gradient(path, name, theta, dy, problem, target, symmetric):
    """By ``dg.imle_topk`` and its like, or by a decorator over the fused or the unfused path."""
    _, _, k, samples, _, _, tau, target_tau, noise = problem
    if path == "op":
        function = {"imle": imle_topk, "aimle": aimle_topk}[name]
        z = function(
            theta,
            k,
            samples,
            target=target,
            noise=noise,
            temperature=tau,
            target_temperature=target_tau,
            symmetric=symmetric,
            generator=generator(),
        )
        return topk_gradient(theta, z, dy)
    decorator = {"imle": dg.imle, "aimle": dg.aimle}[name]
    solve = decorator(
        dg.solvers.topk(k) if path == "fused" else _mode(k),
        target_distribution=target,
        noise_distribution=resolve(noise, k),
        nb_samples=samples,
        theta_noise_temperature=tau,
        target_noise_temperature=target_tau,
        symmetric_perturbation=symmetric,
        generator=generator(),
    )
    return gradient(theta, solve(theta), dy)


def _arrays(theta, dy, problem):
    noise = stored_noise(resolve(problem[8], problem[2]), theta, problem[3])
    return theta.detach().numpy(), noise.numpy(), dy.numpy()


@problems
@paths
@both
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_imle(backend, path, problem, symmetric, scaled):
    theta, dy = _drawn(problem)
    alpha, step, tau, target_tau = problem[4:8]
    target = dg.TargetDistribution(alpha, step, do_gradient_scaling=scaled, eps=1e-3)
    got = _gradient(path, "imle", theta, dy, problem, target, symmetric)
    expected = formulas.imle(
        *_arrays(theta, dy, problem),
        problem[2],
        alpha=alpha,
        step=step,
        tau=tau,
        target_tau=target_tau,
        symmetric=symmetric,
    )
    expected = expected / (max(step, 1e-3) if scaled else 1)
    assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


@problems
@paths
@both
@pytest.mark.parametrize("per_example", [False, True], ids=["batch", "per-example"])
def test_aimle(backend, path, problem, symmetric, per_example):
    theta, dy = _drawn(problem)
    alpha, beta, _, target_tau = problem[4:8]
    target = dg.AdaptiveTargetDistribution(alpha, beta, per_example=per_example)
    got = _gradient(path, "aimle", theta, dy, problem, target, symmetric)
    rule = formulas.AdaptiveRule(beta)
    expected = rule.gradient(
        *_arrays(theta, dy, problem),
        problem[2],
        per_example=per_example,
        alpha=alpha,
        target_tau=target_tau,
        symmetric=symmetric,
    )
    assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
    assert (target.beta.item(), target.grad_norm.item()) == (rule.beta, rule.ema)
    assert target.previous_update.item() == rule.previous


def test_the_problems_have_gradients():
    """The comparisons above are not of zeros."""
    moved = 0
    for problem in PROBLEMS:
        theta, dy = _drawn(problem)
        target = dg.TargetDistribution(problem[4], problem[5])
        with dg.backend("reference"):
            moved += bool(_gradient("op", "imle", theta, dy, problem, target, False).any())
    assert moved >= 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["imle", "aimle"])
def test_narrow_dtypes_are_computed_in_float32(backend, dtype, name):
    """The selections are those of the same numbers in float32; the result is rounded once."""
    problem = (4, 50, 7, 3, 1.0, 2.0, 1.0, 1.0, "gumbel")
    theta = torch.randn(4, 50).to(dtype).requires_grad_()
    dy = weights(theta, 3)
    results = {}
    for path in ("op", "fused", "unfused"):
        target = {
            "imle": dg.TargetDistribution(1.0, 2.0),
            "aimle": dg.AdaptiveTargetDistribution(1.0, 2.0),
        }[name]
        results[path] = _gradient(path, name, theta, dy, problem, target, False)
        assert results[path].dtype == dtype
    arrays = (theta.detach().float().numpy(), None, dy.float().numpy())
    noise = stored_noise(resolve("gumbel", 7), theta, 3).float().numpy()
    if name == "imle":
        settings = {"alpha": 1.0, "step": 2.0, "tau": 1.0, "target_tau": 1.0}
        expected = formulas.imle(arrays[0], noise, arrays[2], 7, **settings)
    else:
        rule = formulas.AdaptiveRule(2.0)
        expected = rule.gradient(arrays[0], noise, arrays[2], 7, alpha=1.0, target_tau=1.0)
    tolerance = torch.finfo(dtype).eps
    for got in results.values():
        assert got.any()
        assert_close(
            got.double(), torch.from_numpy(expected).double(), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("k", [3, torch.tensor([[0, 3], [8, 1], [5, 2]])], ids=["int", "per-row"])
def test_leading_dimensions_and_a_tensor_of_counts(backend, k):
    """A batch [3, 2] is its six rows; each row has its k."""
    theta = torch.randn(3, 2, 8, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(4, 3, 2, 8, dtype=torch.float64)
    z = imle_topk(theta, k, 4, target=dg.TargetDistribution(1.0, 1.5), generator=generator())
    (got,) = torch.autograd.grad(z, theta, dy)
    noise = stored_noise(resolve("gumbel", 1), theta.detach().reshape(6, 8), 4)
    counts = torch.as_tensor(k).expand(3, 2).reshape(6).tolist()
    for row, count in enumerate(counts):
        expected = formulas.imle(
            theta.detach().reshape(6, 8)[row : row + 1].numpy(),
            noise[row : row + 1].numpy(),
            dy.reshape(4, 6, 8)[:, row].unsqueeze(0).numpy(),
            count,
            alpha=1.0,
            step=1.5,
            tau=1.0,
            target_tau=1.0,
        )
        assert_close(got.reshape(6, 8)[row], torch.from_numpy(expected)[0])


def test_one_sample_without_its_dimension(backend):
    theta = torch.randn(5, 9, requires_grad=True)
    one = imle_topk(theta, 4, generator=generator())
    many = imle_topk(theta, 4, 1, generator=generator())
    assert one.shape == (5, 9)
    assert_close(one, many[0])
    assert_close(one.detach(), dg.perturbed_topk(theta, 4, generator=generator()))


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_excluded_and_forced_items_have_no_gradient(backend, alpha):
    theta = torch.randn(4, 10, dtype=torch.float64)
    theta[:, 2], theta[:, 5] = -torch.inf, torch.inf
    theta.requires_grad_()
    targets = dg.TargetDistribution(alpha, 30.0), dg.AdaptiveTargetDistribution(alpha, 30.0)
    for target in targets:
        name = "imle" if type(target) is dg.TargetDistribution else "aimle"
        for path in ("op", "fused", "unfused"):
            problem = (4, 10, 3, 6, alpha, 30.0, 1.0, 1.0, "gumbel")
            dy = weights(theta, 6)
            got = _gradient(path, name, theta, dy, problem, target, False)
            assert got.isfinite().all()
            assert got.any()
            assert not got[:, [2, 5]].any()
