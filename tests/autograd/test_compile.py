# SPDX-License-Identifier: Apache-2.0
"""torch.compile without a graph break, forward and backward, and what it must not do to randomness.

The graphs are compiled anew in each test: a graph cached by an earlier test would hide a failure to
trace.
"""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from tests.autograd.functions import batch

COMPILER = pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])


@pytest.fixture
def cpp():
    """For graphs that draw samples: the reference's sampler reads values on the host as it goes,
    which no compiler can trace.
    """
    with dg.backend("cpp"):
        yield


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, compiler, dynamic=None):
    return torch.compile(function, fullgraph=True, backend=compiler, dynamic=dynamic)


def model(x, weight, k):
    """The main use: a sample, an entropy and marginals in one loss; its gradient does not depend on
    the draw.
    """
    z = dg.simple(x, k)
    entropy = dg.subset.entropy(x, k)
    marginals = dg.subset.marginals(x, k)
    return (z * weight).sum() + 0.5 * entropy.sum() + (marginals.square() * weight).sum(), z


def gradient(function, x, *args):
    theta = x.clone().requires_grad_()
    loss, z = function(theta, *args)
    loss.backward()
    return theta.grad, z.detach()


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize(
    ("compiler", "n"), [("aot_eager", 9), ("aot_eager", 130), ("inductor", 130)]
)
def test_training_graph(compiler, n):
    x = torch.randn(4, n, dtype=torch.float64)
    weight = torch.linspace(-1, 1, n, dtype=torch.float64)
    k = n // 3
    want, _ = gradient(model, x, weight, k)
    got, z = gradient(compiled(model, compiler), x, weight, k)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert bool((z.sum(-1) == k).all())
    assert bool(((z == 0) | (z == 1)).all())


@COMPILER
@pytest.mark.usefixtures("cpp")
def test_two_draws_of_one_training_graph_differ(compiler):
    """Common-subexpression elimination must not merge two draws, and each call must draw anew."""

    def two(x):
        first, second = dg.simple(x, 10), dg.simple(x, 10)
        return (first * second).sum(), torch.stack([first, second])

    function = compiled(two, compiler)
    torch.manual_seed(0)
    _, a = gradient(function, torch.zeros(8, 40))
    _, b = gradient(function, torch.zeros(8, 40))
    for one, two_ in ((a[0], a[1]), (b[0], b[1]), (a[0], b[0]), (a[1], b[1]), (a[0], b[1])):
        assert bool((one != two_).any(-1).all()), "a row was drawn twice"
    torch.manual_seed(0)
    _, again = gradient(function, torch.zeros(8, 40))
    assert torch.equal(a, again)


@COMPILER
@pytest.mark.usefixtures("cpp")
def test_two_samples_without_gradient_differ(compiler):
    def two(x):
        return dg.subset.sample(x, 10), dg.subset.sample(x, 10), dg.subset.sample_indices(x, 10, 2)

    first, second, indices = compiled(two, compiler)(torch.zeros(8, 40))
    assert bool((first != second).any(-1).all())
    assert bool((indices[0] != indices[1]).any(-1).all())


@COMPILER
def test_grad_transform_inside_the_graph(backend, compiler):
    """torch.compile of torch.func.grad drops custom backward rules of some patterns: here it must
    not.
    """
    x = torch.randn(7, dtype=torch.float64)
    weight = torch.linspace(-1, 1, 7, dtype=torch.float64)

    def loss(t):
        return (dg.subset.marginals(t, 3).square() * weight).sum() + dg.subset.log_partition(
            t, 3
        ).sin()

    theta = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(theta), theta)
    assert bool(want.any())
    got = compiled(torch.func.grad(loss), compiler)(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", ["vmap", "vmap-grad", "jacfwd", "hessian", "jvp"])
def test_other_transforms_inside_the_graph(backend, transform):
    x = torch.randn(3, 6, dtype=torch.float64)

    def loss(t):
        return (dg.subset.marginals(t, 2) * torch.arange(6)).sum().sin()

    functions = {
        "vmap": torch.func.vmap(loss),
        "vmap-grad": torch.func.vmap(torch.func.grad(loss)),
        "jacfwd": torch.func.jacfwd(lambda t: dg.subset.marginals(t, 2)),
        "hessian": lambda t: torch.func.hessian(loss)(t[0]),
        "jvp": lambda t: torch.func.jvp(lambda s: dg.subset.marginals(s, 2), (t,), (t.cos(),))[1],
    }
    want = functions[transform](x)
    assert bool(want.any())
    got = compiled(functions[transform], "aot_eager")(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@COMPILER
@pytest.mark.usefixtures("cpp")
def test_dynamic_shapes(compiler):
    """One graph for many batch sizes and lengths; k as a Python int and as a tensor."""
    counter = torch._dynamo.testing.CompileCounterWithBackend(compiler)
    function = compiled(model, counter, dynamic=True)
    for rows, n, k in ((4, 9, 3), (5, 12, 4), (7, 70, 20), (3, 33, 5)):
        x = torch.randn(rows, n, dtype=torch.float64)
        weight = torch.linspace(-1, 1, n, dtype=torch.float64)
        want, _ = gradient(model, x, weight, k)
        got, z = gradient(function, x, weight, k)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        assert bool((z.sum(-1) == k).all())
    assert counter.frame_count <= 2, f"{counter.frame_count} compilations for four shapes"


@pytest.mark.usefixtures("cpp")
def test_k_for_each_row():
    logits, sizes = batch()
    weight = torch.linspace(-1, 1, 6, dtype=torch.float64)
    want, _ = gradient(model, logits, weight, sizes)
    got, z = gradient(compiled(model, "aot_eager"), logits, weight, sizes)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert torch.equal(z.sum(-1).long(), sizes)


def _entropy_and_mean(x):
    law = dg.KSubset(3, logits=x, validate_args=False)
    return law.entropy().unsqueeze(-1) * law.mean


@pytest.mark.parametrize(
    "function",
    [
        lambda x: dg.subset.log_partition(x, 3),
        lambda x: dg.subset.marginals(x, 3, method="linear"),
        lambda x: dg.subset.marginals(x, 3, method="recursion"),
        lambda x: dg.subset.log_prob(x, 3, torch.eye(8, dtype=x.dtype)[:3].sum(0)),
        lambda x: dg.subset.kl_divergence(x, x.flip(-1), 3),
        lambda x: dg.subset.count_log_prob(x, 4),
        lambda x: dg.subset.covariance(x, 3),
        lambda x: dg.subset.mode(x, 3) * x,
        _entropy_and_mean,
    ],
    ids=[
        "log_partition",
        "linear",
        "recursion",
        "log_prob",
        "kl",
        "count_log_prob",
        "covariance",
        "mode",
        "KSubset",
    ],
)
def test_each_function_traces(backend, function):
    x = torch.randn(2, 8, dtype=torch.float64)

    def run(f):
        theta = x.clone().requires_grad_()
        value = f(theta)
        (slope,) = torch.autograd.grad(value.sin().sum(), theta)
        return value.detach(), slope

    for got, want in zip(run(compiled(function, "aot_eager")), run(function), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_second_order_of_a_compiled_forward(backend):
    """A compiled graph may not be differentiated twice; PyTorch says so rather than return a wrong
    number.
    """
    theta = torch.randn(6, dtype=torch.float64).requires_grad_()
    function = compiled(lambda x: dg.subset.log_partition(x, 2), "aot_eager")
    (slope,) = torch.autograd.grad(function(theta), theta, create_graph=True)
    with pytest.raises(RuntimeError, match=r"double backward|not have been used"):
        torch.autograd.grad(slope.square().sum(), theta)


def test_backend_choice_is_part_of_the_graph():
    """A graph compiled under one backend is not reused under another."""
    function = compiled(lambda x: dg.subset.marginals(x, 2), "aot_eager")
    x = torch.randn(5, dtype=torch.float64)
    for name in ("reference", "cpp", "reference"):
        with dg.backend(name):
            torch.testing.assert_close(function(x), dg.subset.marginals(x, 2), rtol=0, atol=1e-14)
    with dg.backend("cuda"), pytest.raises(RuntimeError, match="cuda"):
        function(x)


def test_inference_mode_and_no_grad(backend):
    x = torch.randn(3, 8, dtype=torch.float64)
    want = dg.subset.marginals(x, 3)
    with torch.inference_mode():
        assert torch.equal(dg.subset.marginals(x, 3), want)
    with torch.no_grad():
        assert not dg.subset.marginals(x.requires_grad_(), 3).requires_grad
