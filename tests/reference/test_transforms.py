# SPDX-License-Identifier: Apache-2.0
"""The reference is ordinary differentiable torch code: autograd, torch.func and torch.compile."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from discrete_grad import reference
from tests.api import enumeration

# PyTorch's own forward-mode decompositions are still torch.jit scripts.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)
METHODS = ("contour", "linear", "recursion")


def _log_partition(method):
    return lambda t: reference.marginals(t, 3, method)[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_row", [False, True], ids=["k-int", "k-tensor"])
def test_gradcheck(method, per_row):
    """Rows with masks: reverse, forward, batched, and the second derivative."""
    theta = torch.randn(3, 6, dtype=torch.float64)
    k = torch.tensor([3, 1, 4]) if per_row else 3
    mask = torch.zeros_like(theta)
    mask[0, 1], mask[1, 4] = math.inf, -math.inf

    def f(t):
        return reference.marginals(t + mask, k, method)

    theta.requires_grad_()
    assert torch.autograd.gradcheck(f, (theta,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, (theta,))


def test_gradcheck_of_the_others():
    theta = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    vector = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    for f, inputs in (
        (lambda t: reference.entropy(t, 2), (theta,)),
        (lambda t: reference.count_log_prob(t, 3), (theta,)),
        (lambda t, g: reference.vjp(t, 2, g), (theta, vector)),
    ):
        assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_the_covariance(method):
    theta = torch.randn(6, dtype=torch.float64)
    exact = enumeration.covariance(theta, 3)
    log_partition = _log_partition(method)
    for jacobian in (
        hessian(log_partition)(theta),
        jacrev(jacrev(log_partition))(theta),
        jacfwd(jacfwd(log_partition))(theta),
        jacrev(lambda t: reference.marginals(t, 3, method)[0])(theta),
        jacfwd(lambda t: reference.marginals(t, 3, method)[0])(theta),
    ):
        torch.testing.assert_close(jacobian, exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_third_derivatives_agree(method):
    theta = torch.randn(5, dtype=torch.float64)
    exact = jacrev(lambda t: enumeration.covariance(t, 3))(theta)
    for tensor in (
        jacfwd(hessian(_log_partition(method)))(theta),
        jacrev(jacrev(lambda t: reference.marginals(t, 3, method)[0]))(theta),
    ):
        torch.testing.assert_close(tensor, exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_vmap(method):
    theta, k = torch.randn(4, 6, dtype=torch.float64), torch.tensor([1, 3, 0, 6])
    marginals, log_partition = reference.marginals(theta, k, method)
    rows = vmap(lambda t, j: reference.marginals(t, j, method))(theta, k)
    torch.testing.assert_close(rows[0], marginals, rtol=0, atol=1e-15)
    torch.testing.assert_close(rows[1], log_partition, rtol=0, atol=1e-14)
    per_row = vmap(grad(_log_partition(method)))(theta)
    torch.testing.assert_close(
        per_row, reference.marginals(theta, 3, method)[0], rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("method", METHODS)
def test_traces_without_a_graph_break(method):
    """torch.compile(fullgraph=True) forward and backward, with n dynamic, and of torch.func.grad.

    Traced by aot_eager: whether the graph is whole and right is the question, not what the code
    generator makes of it.
    """
    theta = torch.randn(3, 9, dtype=torch.float64)
    k = torch.tensor([2, 3, 4])

    def loss(t):
        marginals, log_partition = reference.marginals(t, k, method)
        return (marginals.square()).sum() + log_partition.sum()

    def both(t):
        return reference.marginals(t, 3, method)

    for f, options in (
        (both, {"dynamic": True}),
        (vmap(grad(_log_partition(method))), {}),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager", **options)
        torch.testing.assert_close(compiled(theta), f(theta), rtol=0, atol=1e-13)
    torch._dynamo.reset()
    leaf = theta.clone().requires_grad_()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf).backward()
    torch.testing.assert_close(leaf.grad, grad(loss)(theta), rtol=0, atol=1e-13)


def test_the_other_functions_trace():
    theta = torch.randn(3, 9, dtype=torch.float64)
    for f in (
        lambda t: reference.vjp(t, 3, t),
        lambda t: reference.entropy(t, 3),
        lambda t: reference.count_log_prob(t, 4),
        lambda t: reference.mode(t, 4),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(theta), f(theta), rtol=0, atol=1e-13)
