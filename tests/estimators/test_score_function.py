# SPDX-License-Identifier: Apache-2.0
"""dg.score_function: its expectation over all draws, by enumeration; losses, parameters, state."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.estimators.score_function import (
    MovingAverageBaseline,
    mean_loss,
    score_function,
)
from tests.api import enumeration

EXACT = {"rtol": 1e-12, "atol": 1e-12}
N, K = 6, 3
LOGITS = torch.tensor([0.3, -1.2, 0.8, 1.6, -0.4, 0.1], dtype=torch.float64)
MATRIX = torch.linspace(-1, 2, N * N, dtype=torch.float64).reshape(N, N).sin()


def quartic(z):
    """Coupled to order four in z, [..., n] -> [...]."""
    return ((z @ MATRIX).square().sum(-1) - z[..., 0] * 2).square() / 10 + z.cumsum(-1).prod(-1)


def true_gradient(logits, k, loss):
    logits = logits.clone().requires_grad_()
    hot, log_p = enumeration.law(logits, k)
    (gradient,) = torch.autograd.grad((log_p.exp() * loss(hot)).sum(), logits)
    return gradient


def expected_gradient(loss, control_variate, draws):
    """Over all tuples of ``draws`` subsets, each tuple one row of the batch."""
    hot, log_p = enumeration.law(LOGITS, K)
    tuples = torch.tensor(list(itertools.product(range(len(hot)), repeat=draws)))
    probability = log_p.exp()[tuples].prod(-1)
    logits = LOGITS.expand(len(tuples), N).clone().requires_grad_()
    value = mean_loss(logits, K, loss, hot[tuples].movedim(1, 0), control_variate)
    assert value.shape == (len(tuples),)
    (gradients,) = torch.autograd.grad(value.sum(), logits)
    return (probability.unsqueeze(-1) * gradients).sum(0), gradients, probability


@pytest.mark.parametrize(
    ("control_variate", "draws"),
    [(None, 1), (None, 2), ("leave_one_out", 2), ("simple", 2), ("simple", 3)],
)
def test_unbiased_for_any_loss(backend, control_variate, draws):
    expected, _, _ = expected_gradient(quartic, control_variate, draws)
    assert_close(expected, true_gradient(LOGITS, K, quartic), **EXACT)


def test_unbiased_with_a_baseline_of_earlier_calls():
    average = MovingAverageBaseline().double().eval()
    average.total.fill_(3.0)
    average.weight.fill_(0.5)
    expected, gradients, _ = expected_gradient(quartic, average, 1)
    assert_close(expected, true_gradient(LOGITS, K, quartic), **EXACT)
    hot, _ = enumeration.law(LOGITS, K)
    mu = enumeration.marginals(LOGITS, K)
    assert_close(gradients, (quartic(hot) - 6.0).unsqueeze(-1) * (hot - mu), **EXACT)


def formula(control_variate, logits, hot, loss):
    """The estimate of one row from its draws [S, n], as the docstring writes it."""
    z = hot.clone().requires_grad_()
    losses = loss(z)
    (g,) = torch.autograd.grad(losses.sum(), z)
    losses = losses.detach()
    mu, sigma = enumeration.marginals(logits, K), enumeration.covariance(logits, K)
    draws = len(hot)
    terms = []
    for i in range(draws):
        others = [j for j in range(draws) if j != i]
        if control_variate is None:
            terms.append(losses[i] * (hot[i] - mu))
        elif control_variate == "leave_one_out":
            baseline = sum(losses[j] for j in others) / len(others)
            terms.append((losses[i] - baseline) * (hot[i] - mu))
        else:
            mean_g = [sum(g[j] for j in range(draws) if j != a) / (draws - 1) for a in range(draws)]
            level = [losses[a] - mean_g[a] @ (hot[a] - mu) for a in range(draws)]
            baseline = sum(level[j] for j in others) / len(others)
            terms.append((level[i] - baseline) * (hot[i] - mu) + sigma @ mean_g[i])
    return sum(terms) / draws


@pytest.mark.parametrize("control_variate", [None, "leave_one_out", "simple"])
def test_backward_is_the_formula(backend, control_variate):
    logits = LOGITS.expand(2, N).clone().requires_grad_()
    seen = []

    def loss(z):
        seen.append(z.detach())
        return quartic(z)

    value = score_function(logits, K, loss, 4, control_variate=control_variate)
    (hot,) = seen
    assert hot.shape == (4, 2, N)
    assert_close(value, quartic(hot).mean(0), **EXACT)
    weights = torch.tensor([1.0, -3.0], dtype=torch.float64)
    (ours,) = torch.autograd.grad(value, logits, weights)
    for row in range(2):
        theirs = formula(control_variate, LOGITS, hot[:, row], quartic)
        assert_close(ours[row], weights[row] * theirs, **EXACT)


def test_the_simple_control_variate_leaves_no_noise_in_a_linear_loss():
    weight = torch.randn(N, dtype=torch.float64)
    _, gradients, _ = expected_gradient(lambda z: z @ weight, "simple", 2)
    exact = true_gradient(LOGITS, K, lambda z: z @ weight)
    assert_close(gradients, exact.expand_as(gradients), **EXACT)


def coupled(z):
    """Of two rows, [..., 2, 4] -> [...]."""
    return (z.flatten(-2) @ MATRIX.flatten()[:8]).square() + z[..., 0, 0] * z[..., 1, 1]


TWO_ROWS = torch.stack([LOGITS[:4], LOGITS[2:] * 0.5])


@pytest.mark.parametrize("control_variate", [None, "leave_one_out", "simple"])
def test_unbiased_for_a_loss_of_two_rows(backend, control_variate):
    """Over all pairs of draws of the two rows' joint law."""

    def joint_law(logits):
        hot, log_p = enumeration.law(logits, 2)  # [6, 4], [2, 6]
        pairs = list(itertools.product(range(6), repeat=2))
        both = torch.stack([hot[list(pair)] for pair in pairs])
        return both, torch.stack([log_p[0, a] + log_p[1, b] for a, b in pairs]).exp()

    theta = TWO_ROWS.clone().requires_grad_()
    hot, probability = joint_law(theta)
    (exact,) = torch.autograd.grad((probability * coupled(hot)).sum(), theta)

    chosen = torch.tensor(list(itertools.product(range(36), repeat=2)))
    weight = probability.detach()[chosen].prod(-1)
    rows = TWO_ROWS.expand(len(chosen), 2, 4).clone().requires_grad_()
    value = mean_loss(rows, 2, coupled, hot[chosen].movedim(1, 0), control_variate)
    assert value.shape == (len(chosen),)
    (gradients,) = torch.autograd.grad(value.sum(), rows)
    assert_close((weight[:, None, None] * gradients).sum(0), exact, **EXACT)


def test_the_simple_control_variate_is_joint_over_the_rows_of_a_loss():
    """Linear in both rows: no noise is left in either, so each row's part knows the other's."""
    weight = torch.randn(2, 4, dtype=torch.float64)
    logits = TWO_ROWS.clone().requires_grad_()
    value = score_function(
        logits, 2, lambda z: (z * weight).sum((-1, -2)), 3, control_variate="simple"
    )
    assert value.shape == ()
    (ours,) = torch.autograd.grad(value, logits)
    for row in range(2):
        exact = enumeration.covariance(TWO_ROWS[row], 2) @ weight[row]
        assert_close(ours[row], exact, **EXACT)


@pytest.mark.parametrize("control_variate", [None, "leave_one_out", "simple"])
def test_parameters_get_the_gradient_of_the_mean_loss(backend, control_variate):
    network = torch.nn.Sequential(torch.nn.Linear(N, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    network.double()
    calls = []

    def loss(z):
        calls.append(z.detach())
        return network(z).squeeze(-1)

    logits = LOGITS.expand(3, N).clone().requires_grad_()
    value = score_function(logits, K, loss, 4, control_variate=control_variate)
    (3 * value).sum().backward()
    (hot,) = calls  # fn ran once
    assert logits.grad.abs().sum() > 0
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    (3 * network(hot).squeeze(-1).mean(0)).sum().backward()
    for ours, theirs in zip(found, network.parameters(), strict=True):
        assert_close(ours, theirs.grad, **EXACT)


def test_draws_are_the_exact_ones(backend):
    seen = []

    def loss(z):
        seen.append(z)
        return z.sum(-1)

    logits = LOGITS.expand(3, N)
    sizes = torch.tensor([1, 3, 5])
    score_function(logits, sizes, loss, 5, generator=torch.Generator().manual_seed(7))
    draws = dg.subset.sample(logits, sizes, 5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(seen[0], draws)
    assert not seen[0].requires_grad


@pytest.mark.parametrize("control_variate", ["leave_one_out", "simple"])
def test_masked_items_sizes_per_row_and_rows_without_a_subset(backend, control_variate):
    logits = LOGITS.expand(3, N).clone()
    logits[0, 1], logits[0, 4] = float("inf"), -float("inf")
    logits[1, 2] = float("nan")
    logits.requires_grad_()
    value = score_function(
        logits, torch.tensor([3, 2, 4]), quartic, 3, control_variate=control_variate
    )
    assert value.isnan().tolist() == [False, True, False]
    value.nansum().backward()
    assert logits.grad[[0, 2]].isfinite().all()
    assert not logits.grad[0, [1, 4]].any()
    assert logits.grad[2].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("control_variate", [None, "leave_one_out", "simple"])
def test_dtypes(backend, dtype, control_variate):
    logits = LOGITS.to(dtype).requires_grad_()
    weight = torch.linspace(-1, 1, N, dtype=dtype)
    value = score_function(
        logits, K, lambda z: (z @ weight).square(), 6, control_variate=control_variate
    )
    assert value.dtype == dtype
    value.backward()
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


def test_moving_average_is_that_of_the_earlier_calls():
    average = MovingAverageBaseline(decay=0.8)
    assert average() == 0
    levels = [4.0, -1.0, 2.5]
    seen = []
    for level in levels:
        logits = LOGITS.clone().requires_grad_()
        kept = []

        def loss(z, level=level, kept=kept):
            kept.append(z)
            return level + z[..., 0]

        baseline = average().double()
        value = score_function(logits, K, loss, 3, control_variate=average)
        (hot,) = kept
        seen.append(value.item())
        (ours,) = torch.autograd.grad(value, logits)
        mu = enumeration.marginals(LOGITS, K)
        weights = (level + hot[:, 0] - baseline).unsqueeze(-1)
        assert_close(ours, (weights * (hot - mu)).mean(0), rtol=1e-6, atol=1e-6)
    powers = [0.8**age for age in (2, 1, 0)]
    mean = sum(p * m for p, m in zip(powers, seen, strict=True)) / sum(powers)
    assert_close(average().item(), mean, rtol=1e-6, atol=0)


def test_moving_average_state():
    average = MovingAverageBaseline()
    logits = LOGITS.clone().requires_grad_()

    def run(loss=quartic):
        return score_function(logits, K, loss, 2, control_variate=average)

    run()
    state = {name: value.clone() for name, value in average.state_dict().items()}
    assert set(state) == {"total", "weight"}
    average.eval()
    run()
    average.train()
    with torch.no_grad():
        run()
    run(lambda z: z.sum(-1) * float("inf"))
    run(lambda z: z.sum(-1) * float("nan"))
    for name, value in average.state_dict().items():
        assert torch.equal(value, state[name])
    run()
    assert not torch.equal(average.total, state["total"])
    restored = MovingAverageBaseline()
    restored.load_state_dict(average.state_dict())
    assert restored() == average()


def test_argument_errors():
    def call(fn=quartic, num_samples=3, **options):
        score_function(LOGITS.clone().requires_grad_(), K, fn, num_samples, **options)

    with pytest.raises(ValueError, match=r"num_samples must be at least 2 .*leave_one_out.*got 1"):
        call(num_samples=1)
    with pytest.raises(ValueError, match=r"num_samples must be at least 2 .*simple.*got 1"):
        call(num_samples=1, control_variate="simple")
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        call(num_samples=0, control_variate=None)
    with pytest.raises(TypeError, match="num_samples must be an int"):
        call(num_samples=None)
    with pytest.raises(ValueError, match="control_variate must be one of"):
        call(control_variate="loo")
    with pytest.raises(ValueError, match="MovingAverageBaseline"):
        call(control_variate="moving_average")
    with pytest.raises(ValueError, match=r"fn must return one loss per draw.*\(3, 2\)"):
        call(fn=lambda z: z[..., :2])
    with pytest.raises(ValueError, match="fn must return one loss per draw"):
        call(fn=lambda z: z.sum())
    with pytest.raises(TypeError, match=r"fn must return a torch\.Tensor"):
        call(fn=lambda z: 1.0)
    with pytest.raises(TypeError, match="floating dtype"):
        call(fn=lambda z: z.sum(-1).long())
    with pytest.raises(ValueError, match="fn must be differentiable"):
        call(fn=lambda z: quartic(z.detach()), control_variate="simple")
    with pytest.raises(ValueError, match=r"decay must be .*less than 1"):
        MovingAverageBaseline(1.0)
    with pytest.raises(ValueError, match=r"decay must be finite and at least 0\.0"):
        MovingAverageBaseline(-0.1)
