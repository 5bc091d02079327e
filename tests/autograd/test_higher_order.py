# SPDX-License-Identifier: Apache-2.0
"""Derivatives of every order and by every transform against the reference under plain autograd:
never silently zero.
"""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import discrete_grad as dg
from tests.autograd.functions import FUNCTIONS, ROWS, batch

SMOOTH = ["normal", "k1", "all-but-one", "ties", "wide", "masked"]
NAMES = [
    "log_partition",
    "marginals",
    "marginals-linear",
    "marginals-recursion",
    "entropy",
    "log_prob",
]
# Equal logits maximise the entropy: its gradient is 0 there, and a comparison would say nothing.
POINTS = [(name, row) for name in NAMES for row in SMOOTH if (name, row) != ("entropy", "ties")]
POINT = pytest.mark.parametrize(("name", "row"), POINTS)


def scalar(name, k):
    """A scalar with a full Hessian: each entry of the value weighs differently."""

    def function(x):
        value = FUNCTIONS[name](x, k)
        weight = torch.linspace(0.5, 1.5, value.numel(), dtype=x.dtype).reshape(value.shape)
        return (weight * value).sum() + value.square().sum()

    return function


def by_reference(function, *args):
    with dg.backend("reference"):
        return function(*args)


def close(got, want):
    assert bool(want.abs().max() > 1e-8), (
        "the expected derivative is all zero: the comparison says nothing"
    )
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def autograd_hessian(function, x):
    """Row by row with torch.autograd.grad: no functorch."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x), x, create_graph=True)
    rows = [torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in first]
    return first.detach(), torch.stack(rows)


@POINT
def test_gradient_and_hessian(backend, name, row):
    logits, k = ROWS[row]
    function = scalar(name, k)
    first, second = by_reference(autograd_hessian, function, logits)
    got_first, got_second = autograd_hessian(function, logits)
    close(got_first, first)
    close(got_second, second)
    close(grad(function)(logits), first)
    close(hessian(function)(logits), second)
    close(jacrev(jacrev(function))(logits), second)
    close(jacfwd(jacfwd(function))(logits), second)
    close(jacfwd(grad(function))(logits), second)


@POINT
def test_jvp_and_jacobians(backend, name, row):
    logits, k = ROWS[row]

    def function(x):
        return FUNCTIONS[name](x, k)

    jacobian = by_reference(torch.autograd.functional.jacobian, function, logits)
    tangent = torch.linspace(-1, 2, len(logits), dtype=torch.float64)
    value, directional = jvp(function, (logits,), (tangent,))
    torch.testing.assert_close(value, function(logits), rtol=1e-12, atol=1e-12)
    close(directional, jacobian @ tangent)
    close(jacfwd(function)(logits), jacobian)
    close(jacrev(function)(logits), jacobian)
    identity = torch.eye(len(logits), dtype=torch.float64)
    columns = vmap(lambda v: jvp(function, (logits,), (v,))[1])(identity)
    close(columns.movedim(0, -1), jacobian)
    _, pull = vjp(function, logits)
    cotangent = torch.ones_like(value).cumsum(0) if value.dim() else torch.ones_like(value)
    expected = cotangent @ jacobian if value.dim() else jacobian
    close(pull(cotangent)[0], expected)


def test_dual_numbers_outside_functorch(backend):
    """torch.autograd.forward_ad: the tangent is there, and is not None."""
    import torch.autograd.forward_ad as fa

    logits, k = ROWS["normal"]
    tangent = torch.linspace(-1, 1, 7, dtype=torch.float64)
    cov = by_reference(dg.subset.covariance, logits, k)
    with fa.dual_level():
        out = fa.unpack_dual(dg.subset.marginals(fa.make_dual(logits, tangent), k))
        assert out.tangent is not None
        close(out.tangent, cov @ tangent)


@pytest.mark.parametrize("name", NAMES)
def test_vmap(backend, name):
    """vmap of the value and of its derivatives equals the batch, in any position of the mapped
    dimension.
    """
    k = 3
    logits = torch.stack([ROWS["normal"][0], ROWS["wide"][0], ROWS["normal"][0].flip(0)])
    function = scalar(name, k)
    rows = [by_reference(autograd_hessian, function, row) for row in logits]
    value = torch.stack([FUNCTIONS[name](row, k) for row in logits])
    torch.testing.assert_close(
        vmap(lambda x: FUNCTIONS[name](x, k))(logits), value, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        vmap(lambda x: FUNCTIONS[name](x, k), in_dims=1)(logits.T.contiguous()),
        value,
        rtol=1e-12,
        atol=1e-12,
    )
    close(vmap(grad(function))(logits), torch.stack([first for first, _ in rows]))
    close(vmap(hessian(function))(logits), torch.stack([second for _, second in rows]))
    close(vmap(jacfwd(grad(function)))(logits), torch.stack([second for _, second in rows]))
    nested = vmap(vmap(grad(function)))(logits.view(3, 1, 7))
    close(nested[:, 0], torch.stack([first for first, _ in rows]))


def test_vmap_over_k(backend):
    logits, _ = ROWS["normal"]
    sizes = torch.tensor([0, 1, 3, 7])
    got = vmap(lambda k: dg.subset.marginals(logits, k))(sizes)
    want = torch.stack([dg.subset.marginals(logits, int(k)) for k in sizes])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    both = vmap(lambda x, k: dg.subset.log_partition(x, k))(logits.expand(4, 7), sizes)
    torch.testing.assert_close(
        both, dg.subset.log_partition(logits.expand(4, 7), sizes), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("max_count", [2, 7])
def test_count_log_prob(backend, max_count):
    logits, _ = ROWS["normal"]

    def function(x):
        value = dg.subset.count_log_prob(x, max_count)
        return (
            value * torch.linspace(-1, 1, max_count + 1, dtype=x.dtype)
        ).sum() + value.exp().square().sum()

    first, second = by_reference(autograd_hessian, function, logits)
    got_first, got_second = autograd_hessian(function, logits)
    close(got_first, first)
    close(got_second, second)
    close(grad(function)(logits), first)
    close(hessian(function)(logits), second)
    close(vmap(grad(function))(logits.expand(2, 7))[1], first)
    tangent = torch.linspace(-1, 1, 7, dtype=torch.float64)
    close(jvp(function, (logits,), (tangent,))[1], first @ tangent)


@pytest.mark.parametrize("method", ["contour", "linear", "recursion"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_double_backward(backend, method, dtype):
    """d/d theta and d/d g of Cov(theta) g, with a k for each row and masks, against the reference
    in float64.
    """
    logits, sizes = batch()
    g = torch.linspace(-1, 1, 18, dtype=torch.float64).view(3, 6)
    h = torch.linspace(1, -0.5, 18, dtype=torch.float64).view(3, 6).sin()

    def second(x, cotangent, direction):
        x, cotangent = x.clone().requires_grad_(), cotangent.clone().requires_grad_()
        mu = dg.subset.marginals(x, sizes, method=method)
        (product,) = torch.autograd.grad(mu, x, cotangent, create_graph=True)
        return torch.autograd.grad(product, (x, cotangent), direction)

    want = by_reference(second, logits, g, h)
    got = second(logits.to(dtype), g.to(dtype), h.to(dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5 if method == "recursion" else 2e-6
    for label, a, b in zip(("d theta", "d g"), got, want, strict=True):
        assert bool(b.any())
        torch.testing.assert_close(
            a.double(), b, rtol=0, atol=tolerance, msg=lambda m, label=label: f"{label}: {m}"
        )


@pytest.mark.parametrize("large", ["g", "v"])
def test_a_constant_beside_either_vector_of_the_third_cumulant(large):
    """d/d theta <v, Cov g> does not change with a constant added to g or v: the kernel takes it off
    first. The entries lie on a grid, so that the sum with 2^20 is exact; without centring, 1e-10.
    """
    logits = torch.randn(60, dtype=torch.float64)
    g, v = torch.randint(-1024, 1025, (2, 60)).double() / 1024

    def third(a, b):
        theta = logits.clone().requires_grad_()
        mu = dg.subset.marginals(theta, 20)
        (product,) = torch.autograd.grad(mu, theta, a, create_graph=True)
        return torch.autograd.grad(product, theta, b)[0]

    shift = 2.0**20
    with dg.backend("cpp"):
        want = third(g, v)
        got = third(g + shift, v) if large == "g" else third(g, v + shift)
    assert want.abs().max() > 0.01
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)


def test_fourth_derivative_of_log_partition(backend):
    """One order beyond what has a kernel: the reference has it, the kernels refuse it by name; it
    is never zero. What they refuse, they still do inside torch.func, where the reference serves.
    """
    logits, k = ROWS["normal"]
    weights = torch.arange(7, dtype=torch.float64)

    def third(x):
        mu = dg.subset.marginals(x, k)
        (b,) = torch.autograd.grad(mu, x, weights, create_graph=True)
        return torch.autograd.grad(b, x, weights.flip(0), create_graph=True)[0]

    def fourth(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(third(x), x, weights.square())[0]

    want = by_reference(fourth, logits)
    if backend == "reference":
        eps = 1e-5
        step = eps * torch.eye(7, dtype=torch.float64)
        values = [
            [
                third(x.requires_grad_()).detach() @ weights.square()
                for x in (logits + s, logits - s)
            ]
            for s in step
        ]
        differences = torch.stack([(up - down) / (2 * eps) for up, down in values])
        torch.testing.assert_close(want, differences, rtol=1e-6, atol=1e-6)
    else:
        with pytest.raises(NotImplementedError, match="reference"):
            fourth(logits)

    def by_func(x):
        mu = lambda t: (dg.subset.marginals(t, k) * weights).sum()  # noqa: E731
        second = lambda t: (grad(mu)(t) * weights.flip(0)).sum()  # noqa: E731
        return (grad(second)(x) * weights.square()).sum()

    close(grad(by_func)(logits), want)
