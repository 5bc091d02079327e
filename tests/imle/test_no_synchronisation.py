# SPDX-License-Identifier: Apache-2.0
"""A training step reads no value on the host: by its sources, by fake tensors, by a profile."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

import discrete_grad as dg
from discrete_grad.ops import step_size

PACKAGE = Path(dg.__file__).parent
TRAINING_PATH = [
    "estimators/imle.py",
    "estimators/imle_topk.py",
    "estimators/map_difference.py",
    "estimators/targets.py",
    "noise.py",
    "ops/imle.py",
    "ops/imle_reference.py",
    "ops/imle_rule.py",
    "ops/perturbed.py",
    "ops/randomness.py",
    "ops/routing.py",
    "ops/step_size.py",
    "reference/noise.py",
    "reference/philox.py",
    "reference/topk.py",
    "rng.py",
]
# Tensor methods, and functions of a tensor, that wait for its values.
SYNCHRONISING = {"item", "cpu", "tolist", "numpy", "nonzero", "masked_select", "unique", "equal"}


@pytest.mark.parametrize("name", TRAINING_PATH)
def test_sources(name):
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & SYNCHRONISING
    # float(tensor) and int(tensor) wait too: they may only take plain names of Python numbers.
    casts = [
        ast.unparse(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("float", "int", "bool")
        and node.args
    ]
    assert set(casts) <= {"grad.shape[0]", "max(num_samples, 1)", "k"}


def estimators():
    law = dg.SumOfGammaNoiseDistribution(3)
    for per_example in (False, True):
        target = dg.AdaptiveTargetDistribution(1.0, 2.0, per_example=per_example)
        yield lambda x, t=target: dg.aimle_topk(x, 3, 2, target=t, noise=law), target
        yield lambda x, t=target: dg.aimle_topk(x, 3, 2, target=t, symmetric=True), target
        yield dg.aimle(dg.solvers.topk(3), target, law, nb_samples=2), target
        yield dg.aimle(lambda x: dg.subset.mode(x, 3), target, law, nb_samples=2), target
    fixed = dg.TargetDistribution(1.0, 2.0)
    yield lambda x: dg.imle_topk(x, 3, 2, target=fixed, noise=law), None
    yield dg.imle(lambda x: dg.subset.mode(x, 3), fixed, law, nb_samples=2), None


@pytest.mark.parametrize("case", range(10))
def test_a_step_without_values(backend, case):
    """Fake tensors have none: whatever asks for one raises."""
    function, target = list(estimators())[case]
    function(torch.randn(4, 12))  # the table of the noise is made once, from numbers
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        if target is not None:
            for name, buffer in list(target.named_buffers()):
                target.register_buffer(name, mode.from_tensor(buffer))
        theta = torch.randn(4, 12, requires_grad=True)
        z = function(theta)
        (got,) = torch.autograd.grad(z, theta, torch.randn_like(z))
        assert got.shape == theta.shape


def test_the_steps_without_values_would_notice():
    with FakeTensorMode(), pytest.raises(Exception, match="_local_scalar_dense"):
        torch.randn(3).sum().item()


def test_a_profiled_update_of_the_state():
    """lambda, the division and the rule by themselves: no _local_scalar_dense, which item() is."""
    target = dg.AdaptiveTargetDistribution(1.0, 2.0)
    theta, grad = torch.randn(4, 12), torch.randn(2, 4, 12)
    nonzeros = torch.tensor([3, 0, 2, 4])
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        lengths = step_size.norms(theta, grad, False, "")
        step = step_size.step_length(target.beta, *lengths, theta.dtype)
        step_size.divisor(step, 2, True)
        step_size.adapt_(target.state, target.rule, nonzeros, 8, lengths[1].isfinite(), "")
    assert target.beta != 2.0
    _assert_no_scalar_read(trace)


def test_a_profiled_step_by_the_reference():
    """The whole forward and backward pass in PyTorch's own ops."""
    target = dg.AdaptiveTargetDistribution(1.0, 2.0)
    theta = torch.randn(4, 12, requires_grad=True)
    dy = torch.randn(2, 4, 12)
    with dg.backend("reference"), profile(activities=[ProfilerActivity.CPU]) as trace:
        z = dg.aimle_topk(theta, 3, 2, target=target)
        torch.autograd.grad(z, theta, dy)
    assert target.beta != 2.0
    _assert_no_scalar_read(trace)


def _assert_no_scalar_read(trace):
    names = {event.key for event in trace.key_averages()}
    assert "aten::copy_" in names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}
