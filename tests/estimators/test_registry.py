# SPDX-License-Identifier: Apache-2.0
"""discrete_grad.estimators: every name, one call."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.estimators import registry
from discrete_grad.estimators.imle_topk import aimle_topk
from discrete_grad.estimators.perturb_and_map import perturbed_topk
from discrete_grad.estimators.score_function import MovingAverageBaseline, score_function
from discrete_grad.estimators.targets import AdaptiveTargetDistribution, TargetDistribution
from discrete_grad.noise import GumbelNoiseDistribution
from discrete_grad.rng import seed_for
from tests.api import enumeration

EXACT = {"rtol": 1e-12, "atol": 1e-12}
NAMES = (
    "exact",
    "simple",
    "simple_second_order",
    "simple_unbiased",
    "simple_f",
    "simple_b",
    "score_function",
    "score_function_moving_average",
    "score_function_loo",
    "straight_through",
    "gumbel_softmax",
    "gumbel_softmax_hard",
    "imle",
    "aimle",
    "aimle_central",
    "perturbed_optimizer",
    "blackbox",
    "identity",
)
RELAXED = ("gumbel_softmax", "perturbed_optimizer")
LOGITS = torch.tensor([0.3, -1.2, 0.8, 1.6, -0.4, 0.1], dtype=torch.float64)
WEIGHT = torch.linspace(-2, 3, 6, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_names():
    assert registry.names() == NAMES
    for name in NAMES:
        assert registry.get(name).name == name
        assert name in repr(registry.get(name))
        assert registry.get(name).summary
    with pytest.raises(ValueError, match=r"name must be one of 'exact', .*'identity', got 'sfess'"):
        registry.get("sfess")


@pytest.mark.parametrize("name", NAMES)
def test_one_call_for_all(backend, name):
    """The value is the mean loss of what fn was given; parameters get its gradient, theta one of
    its own.
    """
    logits = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    seen = []

    def unscaled(z):
        return (z @ WEIGHT - 1.0).square()

    def fn(z):
        seen.append(z.detach())
        return scale * unscaled(z)

    value = registry.get(name)(logits, 3, fn, 5, generator=seeded())
    (z,) = seen
    draws = {"exact": 20, "perturbed_optimizer": 1}.get(name, 5)
    assert z.shape == (draws, 4, 3, 6)
    assert_close(z.sum(-1), torch.full(z.shape[:-1], 3.0).double(), **EXACT)
    assert name in RELAXED or ((z == 0) | (z == 1)).all()
    assert value.shape == (4, 3)
    if name == "exact":
        _, log_p = enumeration.law(logits.detach(), 3)
        expected = (log_p.exp().movedim(-1, 0) * unscaled(z)).sum(0)
    else:
        expected = unscaled(z).mean(0)
    assert_close(value, 3 * expected, **EXACT)
    (value * 0.5).sum().backward()
    assert_close(scale.grad, expected.sum() * 0.5, **EXACT)
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    again = registry.get(name)(logits, 3, fn, 5, generator=seeded())
    assert torch.equal(again, value)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_row_in_float32(backend, name):
    logits = LOGITS.float().requires_grad_()
    value = registry.get(name)(logits, 2, lambda z: (z @ WEIGHT.float()).square(), 4)
    assert value.shape == ()
    assert value.dtype == torch.float32
    value.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "exact"])
def test_a_loss_of_several_rows(backend, name):
    logits = torch.randn(4, 3, 6, requires_grad=True)
    value = registry.get(name)(
        logits, 2, lambda z: (z @ WEIGHT.float()).prod(-1).square(), 4, generator=seeded()
    )
    assert value.shape == (4,)
    value.sum().backward()
    assert logits.grad.isfinite().all()


def test_exact_is_the_expectation(backend):
    logits = torch.stack([LOGITS, LOGITS.flip(0) * 2, LOGITS])
    logits[2, 1], logits[2, 4] = float("inf"), -float("inf")
    logits.requires_grad_()

    def fn(z):
        # Not even finite where item 4 of the last row is chosen, which never is.
        hidden = torch.zeros(3, dtype=torch.float64)
        hidden[2] = float("inf")
        return (z @ WEIGHT).square() + torch.where(z[..., 4] == 1, hidden, 0.0)

    value = registry.get("exact")(logits, 3, fn, 1)
    hot, log_p = enumeration.law(logits, 3)
    true = (log_p.exp() * (hot @ WEIGHT).square()).sum(-1)
    assert_close(value, true, **EXACT)
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (ours,) = torch.autograd.grad(value, logits, g)
    free = logits.detach()[:2].clone().requires_grad_()
    hot, log_p = enumeration.law(free, 3)
    (theirs,) = torch.autograd.grad((log_p.exp() * (hot @ WEIGHT).square()).sum(-1), free, g[:2])
    assert_close(ours[:2], theirs, **EXACT)
    assert ours[2].isfinite().all()
    assert not ours[2, [1, 4]].any()


def test_exact_has_limits():
    exact = registry.get("exact")
    with pytest.raises(ValueError, match="there are 184756 of k = 10 items out of n = 20"):
        exact(torch.zeros(20), 10, lambda z: z.sum(-1), 1)
    assert exact(torch.zeros(20), 3, lambda z: z.sum(-1), 1, max_subsets=1140) == pytest.approx(3)
    with pytest.raises(ValueError, match="more than max_subsets = 1139"):
        exact(torch.zeros(20), 3, lambda z: z.sum(-1), 1, max_subsets=1139)
    with pytest.raises(ValueError, match="fn must return one loss per row"):
        exact(torch.zeros(2, 4), 2, lambda z: z.sum((-1, -2)), 1)
    with pytest.raises(TypeError, match="k must be an int"):
        exact(torch.zeros(2, 4), torch.tensor(2), lambda z: z.sum(-1), 1)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_averaging_estimators_see_the_gradient_of_each_loss(backend, weight):
    """A step is taken along w g of a draw's own loss (w the gradient of the mean loss), not along
    the w g / S that reaches it in the mean; the results are averaged.
    """

    def run(name, **options):
        theta = LOGITS.clone().requires_grad_()
        value = registry.get(name)(theta, 3, lambda z: z @ WEIGHT, 7, generator=seeded(), **options)
        return torch.autograd.grad(weight * value, theta)[0]

    g = weight * WEIGHT  # of every draw, since the loss is linear
    marginals = enumeration.marginals(LOGITS, 3) - enumeration.marginals(LOGITS - 1.5 * g, 3)
    assert_close(run("simple_b", step=1.5), marginals, **EXACT)

    eps = GumbelNoiseDistribution().draw(
        torch.Size([7, 6]), seed_for(LOGITS, seeded()), torch.float64
    )
    points = LOGITS + 0.8 * eps
    moved = (dg.subset.mode(points, 3) - dg.subset.mode(points - 2.0 * g, 3)).mean(0)
    assert moved.abs().sum() > 0
    assert_close(run("blackbox", lambda_=2.0, temperature=0.8), moved / 2.0, **EXACT)
    imle = run("imle", target=TargetDistribution(1.0, 2.0), noise="gumbel", temperature=0.8)
    assert_close(imle, moved, **EXACT)


def test_linear_estimators_average_over_the_draws(backend):
    """Of a linear loss, whatever the number of draws: Sigma g, or g itself, projected."""
    sigma = enumeration.covariance(LOGITS, 3)

    def run(name, **options):
        theta = LOGITS.clone().requires_grad_()
        value = registry.get(name)(theta, 3, lambda z: z @ WEIGHT, 7, **options)
        return torch.autograd.grad(2 * value, theta)[0]

    assert_close(run("simple"), 2 * sigma @ WEIGHT, **EXACT)
    assert_close(run("simple_unbiased"), 2 * sigma @ WEIGHT, **EXACT)
    assert_close(run("straight_through"), 2 * WEIGHT, **EXACT)
    assert_close(run("straight_through", noise="gumbel"), 2 * WEIGHT, **EXACT)
    assert_close(run("identity", projection=None), 2 * WEIGHT, **EXACT)
    assert_close(run("identity", projection="mean"), 2 * (WEIGHT - WEIGHT.mean()), **EXACT)


@pytest.mark.parametrize(
    "name",
    ["score_function", "score_function_loo", "simple_second_order", "aimle", "aimle_central"],
)
def test_draws_and_options_reach_the_function(backend, name):
    """By its draws and its gradient, the estimator is the one its name says."""

    def adaptive(theta, fn, generator, symmetric):
        target = AdaptiveTargetDistribution(initial_beta=2.0)
        z = aimle_topk(theta, 3, 4, target=target, symmetric=symmetric, generator=generator)
        return fn(z).sum(0)

    options = {}
    if name.startswith("aimle"):
        options["target"] = AdaptiveTargetDistribution(initial_beta=2.0)
    functions = {
        "aimle": lambda theta, fn, generator: adaptive(theta, fn, generator, False),
        "aimle_central": lambda theta, fn, generator: adaptive(theta, fn, generator, True),
        "score_function": lambda theta, fn, generator: score_function(
            theta, 3, fn, 4, control_variate=None, generator=generator
        ),
        "score_function_loo": lambda theta, fn, generator: score_function(
            theta, 3, fn, 4, generator=generator
        ),
        "simple_second_order": lambda theta, fn, generator: fn(
            dg.simple(theta, 3, 4, order=2, generator=generator)
        ).mean(0),
    }
    gradients = []
    for call in (
        lambda theta, fn, generator: registry.get(name)(
            theta, 3, fn, 4, generator=generator, **options
        ),
        functions[name],
    ):
        theta = LOGITS.clone().requires_grad_()
        value = call(theta, lambda z: (z @ WEIGHT).square(), seeded(5))
        gradients.append(torch.autograd.grad(value, theta)[0])
    assert gradients[0].abs().sum() > 0
    assert_close(*gradients, **EXACT)


def test_hard_and_perturbed_draws_are_plackett_luce(backend):
    wanted = perturbed_topk(LOGITS, 3, 4, generator=seeded())
    for name in ("gumbel_softmax_hard", "blackbox", "identity"):
        seen = []

        def fn(z, seen=seen):
            seen.append(z.detach())
            return z.sum(-1)

        registry.get(name)(LOGITS, 3, fn, 4, generator=seeded())
        assert torch.equal(seen[0], wanted)
    mean = registry.get("perturbed_optimizer")(
        LOGITS, 3, lambda z: z @ WEIGHT, 4, generator=seeded()
    )
    assert_close(mean, wanted.mean(0) @ WEIGHT, **EXACT)


def test_each_estimator_with_a_state_has_its_own(backend):
    states = {
        "aimle": ("target", AdaptiveTargetDistribution, "beta"),
        "aimle_central": ("target", AdaptiveTargetDistribution, "beta"),
        "score_function_moving_average": ("control_variate", MovingAverageBaseline, "weight"),
    }
    for name, (option, kind, buffer) in states.items():
        estimator, other = registry.get(name), registry.get(name)
        state, untouched = estimator.options[option], other.options[option]
        assert type(state) is kind
        for _ in range(3):
            theta = LOGITS.clone().requires_grad_()
            estimator(theta, 3, lambda z: z @ WEIGHT, 4).backward()
        assert getattr(state, buffer) != getattr(kind(), buffer)
        assert getattr(untouched, buffer) == getattr(kind(), buffer)
        theta = LOGITS.clone().requires_grad_()
        estimator(theta, 3, lambda z: z @ WEIGHT, 4, **{option: untouched}).backward()
        assert getattr(untouched, buffer) != getattr(kind(), buffer)


@pytest.mark.parametrize("name", NAMES)
def test_errors(name):
    estimator = registry.get(name)
    with pytest.raises(ValueError, match="num_samples must be at least"):
        estimator(LOGITS, 3, lambda z: z.sum(-1), 0)
    with pytest.raises(TypeError, match="num_samples must be an int"):
        estimator(LOGITS, 3, lambda z: z.sum(-1), None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        estimator(LOGITS, 3, lambda z: z.sum(-1), 4, colour="red")
    with pytest.raises(ValueError, match="k must be from 0 to n"):
        estimator(LOGITS, 7, lambda z: z.sum(-1), 4)
    with dg.backend("reference"), pytest.raises(ValueError, match="fn must return one loss"):
        estimator(LOGITS, 3, lambda z: z, 4)
