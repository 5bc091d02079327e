# SPDX-License-Identifier: Apache-2.0
"""Every op has a kernel for CUDA tensors, and the backend in force is the one that it calls."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch

import discrete_grad as dg
from discrete_grad import backends
from discrete_grad.ops import gpu
from discrete_grad.ops.library import kernel_ops
from discrete_grad.triton_kernels import LAUNCHERS

OPS = kernel_ops()


def test_the_launchers_are_those_of_all_ops():
    assert sorted(LAUNCHERS) == sorted(OPS)


@pytest.mark.parametrize("name", OPS)
def test_op(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"discrete_grad::{name}", "CUDA")
    schema = getattr(torch.ops.discrete_grad, name).default._schema
    names = list(inspect.signature(LAUNCHERS[name]).parameters)
    assert names == [argument.name for argument in schema.arguments]


@pytest.mark.parametrize("name", OPS)
def test_a_call_reaches_the_backend_in_force(monkeypatch, name):
    calls = []
    launchers = {op: lambda *args, op=op: calls.append(("triton", op, args)) for op in OPS}
    kernels = SimpleNamespace(
        **{op: lambda *args, op=op: calls.append(("cuda", op, args)) for op in OPS}
    )
    monkeypatch.setattr(gpu, "_launchers", lambda: launchers)
    monkeypatch.setattr(torch.ops, "discrete_grad_cuda", kernels, raising=False)
    monkeypatch.setattr(backends, "_cuda_built", True)
    gpu._serve(name, 1, 2)
    with dg.backend("cuda"):
        gpu._serve(name, 3)
    with dg.backend("triton"):
        gpu._serve(name, 4)
    assert calls == [("triton", name, (1, 2)), ("cuda", name, (3,)), ("triton", name, (4,))]
