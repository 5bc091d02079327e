# SPDX-License-Identifier: Apache-2.0
"""The public layer under torch.compile, autocast and torch.func: traced away, never in the way."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from tests.api import enumeration as exact

WEIGHTS = torch.linspace(-1, 1, 6, dtype=torch.float64)

FUNCTIONS = {
    "log_partition": lambda x, k: dg.subset.log_partition(x, k),
    "marginals": lambda x, k: dg.subset.marginals(x, k) @ WEIGHTS,
    "entropy": lambda x, k: dg.subset.entropy(x, k),
    "kl_divergence": lambda x, k: dg.subset.kl_divergence(x, x.flip(-1), k),
    "log_prob": lambda x, k: dg.subset.log_prob(x, k, dg.subset.mode(x, k)),
    "KSubset": lambda x, k: dg.KSubset(k, logits=x, validate_args=False).variance @ WEIGHTS,
}
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def value_and_gradient(function, x, k):
    x = x.clone().requires_grad_()
    value = function(x, k)
    return value, torch.autograd.grad(value.sum(), x)[0]


def compiled(function, graphs=None, **options):
    torch._dynamo.reset()

    def backend(graph, inputs):
        if graphs is not None:
            graphs.append(graph)
        return graph

    return torch.compile(function, fullgraph=True, backend=backend, **options)


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@functions
def test_compiled_whole_and_by_the_registered_op(function):
    x = torch.randn(3, 6, dtype=torch.float64)
    graphs = []
    traced = compiled(function, graphs)
    assert_close(value_and_gradient(traced, x, 2), value_and_gradient(function, x, 2))
    assert len(graphs) == 1
    names = targets(graphs[0])
    assert any("discrete_grad.subset_marginals" in name for name in names)
    # The reference would be correct too, hundreds of nodes long, and slow.
    assert len(names) < 150


def test_one_graph_serves_every_n_and_k():
    graphs = []
    traced = compiled(FUNCTIONS["entropy"], graphs, dynamic=True)
    for n, k in ((8, 2), (9, 3), (12, 5)):
        x = torch.randn(2, n, dtype=torch.float64)
        assert_close(traced(x, k), exact.entropy(x, k), rtol=1e-10, atol=1e-10)
    assert len(graphs) == 1


def test_a_tensor_of_counts_in_a_graph():
    x, k = torch.randn(3, 6, dtype=torch.float64), torch.tensor([1, 2, 5])
    for function in FUNCTIONS.values():
        assert_close(compiled(function)(x, k), function(x, k))


@pytest.mark.parametrize("order", [1, 2])
def test_two_draws_in_one_graph_differ(order):
    def draws(x):
        return dg.simple(x, 20, order=order), dg.simple(x, 20, order=order)

    x = torch.zeros(40, requires_grad=True)
    traced = torch.compile(draws, fullgraph=True, backend="aot_eager")
    first, second = traced(x)
    assert not torch.equal(first, second)
    assert not torch.equal(first, traced(x)[0])
    (gradient,) = torch.autograd.grad(first[:5].sum(), x)
    assert gradient.abs().sum() > 0


def test_a_compiled_function_follows_the_backend():
    graphs = []
    traced = compiled(FUNCTIONS["marginals"], graphs)
    x = torch.randn(6, dtype=torch.float64)
    one = traced(x, 2)
    with dg.backend("reference"):
        assert_close(traced(x, 2), one)
    assert ["discrete_grad.subset_marginals" in " ".join(targets(g)) for g in graphs] == [
        True,
        False,
    ]
    with dg.backend("triton"), pytest.raises(Exception, match="cannot serve tensors on device"):
        traced(x, 2)


@functions
def test_functorch(backend, function):
    x = torch.randn(3, 6, dtype=torch.float64)
    value, gradient = value_and_gradient(function, x, 2)
    assert_close(torch.func.vmap(lambda row: function(row, 2))(x), value)
    each = torch.func.vmap(torch.func.grad(lambda row: function(row, 2)))(x)
    assert_close(each, gradient)
    tangent = torch.randn_like(x)
    _, pushed = torch.func.jvp(lambda x: function(x, 2), (x,), (tangent,))
    assert_close(pushed, (gradient * tangent).sum(-1))


def test_hessian_of_the_entropy(backend):
    x = torch.randn(5, dtype=torch.float64)
    ours = torch.func.hessian(lambda x: dg.subset.entropy(x, 2))(x)
    assert_close(ours, torch.func.hessian(lambda x: exact.entropy(x, 2))(x), rtol=1e-10, atol=1e-10)


AUTOCAST = {
    "log_partition": lambda x: dg.subset.log_partition(x, 2),
    "marginals": lambda x: dg.subset.marginals(x, 2),
    "sample": lambda x: dg.subset.sample(x, 2),
    "log_prob": lambda x: dg.subset.log_prob(x, 2, dg.subset.mode(x, 2)),
    "entropy": lambda x: dg.subset.entropy(x, 2),
    "kl_divergence": lambda x: dg.subset.kl_divergence(x, x.flip(-1), 2),
    "covariance": lambda x: dg.subset.covariance(x, 2),
    "count_log_prob": lambda x: dg.subset.count_log_prob(x, 3),
    "simple": lambda x: dg.simple(x, 2),
    "simple, order 2": lambda x: dg.simple(x, 2, order=2),
}


@pytest.mark.parametrize("function", AUTOCAST.values(), ids=AUTOCAST)
def test_float32_inside_autocast(backend, function):
    x = torch.randn(3, 6).bfloat16()
    torch.manual_seed(0)
    wide = function(x.float())
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        value = function(x)
    assert value.dtype == torch.float32
    assert_close(value, wide)


def test_the_inverse_keeps_its_precision_inside_autocast(backend):
    wanted = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = dg.subset.logits_from_marginals(wanted)
    assert_close(dg.subset.marginals(logits, 1), wanted, rtol=0, atol=1e-10)
