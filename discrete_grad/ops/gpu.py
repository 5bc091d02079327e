# SPDX-License-Identifier: Apache-2.0
"""Which kernels serve CUDA tensors: the one place where that is chosen.

Every op is registered for CUDA as a function that looks up the backend in force: the Triton
kernels, or the CUDA C++ kernels, which the extension offers as torch.ops.discrete_grad_cuda.
Nothing is read on the host, so the ops can be captured in a CUDA graph.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from discrete_grad import backends
from discrete_grad.ops import library


@functools.cache
def _launchers() -> Mapping[str, Callable[..., Any]]:
    """The Triton launchers; Triton is imported when the first CUDA tensor comes."""
    found: Mapping[str, Callable[..., Any]] = importlib.import_module(
        "discrete_grad.triton_kernels"
    ).LAUNCHERS
    return found


def _serve(name: str, *args: Any) -> Any:
    if backends.select("cuda") == "cuda":
        return getattr(torch.ops.discrete_grad_cuda, name)(*args)
    return _launchers()[name](*args)


for _name in library.kernel_ops():
    # The C++ library registers the forward pass of simple, the sampler, for every device.
    if not (backends.extension_loaded and _name == "simple"):
        torch.library.impl(f"discrete_grad::{_name}", "CUDA", functools.partial(_serve, _name))
