# SPDX-License-Identifier: Apache-2.0
"""Every op has a kernel for CUDA tensors and a Triton launcher with the op's own signature."""

from __future__ import annotations

import inspect

import pytest
import torch

import discrete_grad.ops  # noqa: F401  (declares the ops)
from discrete_grad.ops import gpu
from discrete_grad.ops.library import schemas
from discrete_grad.triton_kernels import LAUNCHERS

OPS = [schema.partition("(")[0] for schema in schemas()]


def test_the_launchers_are_those_of_all_ops():
    assert sorted(LAUNCHERS) == sorted(OPS)


@pytest.mark.parametrize("name", OPS)
def test_op(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"discrete_grad::{name}", "CUDA")
    schema = getattr(torch.ops.discrete_grad, name).default._schema
    names = list(inspect.signature(LAUNCHERS[name]).parameters)
    assert names == [argument.name for argument in schema.arguments]


@pytest.mark.parametrize("name", OPS)
def test_a_call_reaches_the_launcher_of_the_op(monkeypatch, name):
    calls = []
    table = {op: lambda *args, op=op: calls.append((op, args)) for op in OPS}
    monkeypatch.setattr(gpu, "_launchers", lambda: table)
    gpu._serve(name, 1, 2)
    assert calls == [(name, (1, 2))]
