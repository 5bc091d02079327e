# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels in Triton's interpreter, on CPU tensors, in a process of their own:

    TRITON_INTERPRET=1 pytest tests/interpreter

Triton reads the variable when a kernel is decorated, and a process that has it cannot compile
kernels. Here the launchers take the place of the C++ kernels of CPU tensors, so that the public
functions, their autograd and the tables of cases are the very ones that the other backends face.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETED:
    collect_ignore_glob = ["test_*.py"]


def _patch_interpreter() -> None:
    """Loop bounds that NumPy 2.4 accepts, scalars of bool that broadcast, and quick reductions.

    The interpreter's own reduction with a combine function of ours visits element by element, in
    seconds per row; a GPU combines halves too.
    """
    from triton.runtime import interpreter

    def splat(_: Any, block: Any, scalar: Any) -> Any:
        data = np.full(block.shape, scalar.data.item(), dtype=scalar.data.dtype)
        return interpreter.TensorHandle(data, scalar.dtype.scalar)

    interpreter.InterpreterBuilder.create_splat = splat

    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched

    def reduce_by_halves(self: Any, blocks: Any) -> Any:
        blocks, axis = self.unravel(blocks, self.axis)
        data = [block.handle.data for block in blocks]
        dtypes = [block.dtype for block in blocks]
        while data[0].shape[axis] > 1:
            halves = zip(*(np.split(d, 2, axis) for d in data), strict=True)
            first, second = (
                [self.to_tensor(d, t) for d, t in zip(half, dtypes, strict=True)] for half in halves
            )
            combined = self.combine_fn.fn(*first, *second)
            combined = combined if isinstance(combined, tuple) else (combined,)
            data = [value.handle.data for value in combined]
        if not self.keep_dims:
            data = [d.squeeze(axis) if d.ndim > 1 else d.item() for d in data]
        return [self.to_tensor(d, t) for d, t in zip(data, dtypes, strict=True)]

    interpreter.ReduceOps.generic_reduce = reduce_by_halves


if INTERPRETED:
    _patch_interpreter()


def pytest_configure(config: pytest.Config) -> None:
    # A kernel computes both sides of a `where`: NumPy warns of what a GPU does in silence.
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton.runtime.interpreter")


@pytest.fixture(autouse=True, scope="session")
def _triton_serves_the_cpu() -> Iterator[None]:
    import discrete_grad.ops  # noqa: F401  (declares the ops)
    from discrete_grad.triton_kernels import LAUNCHERS

    library = torch.library.Library("discrete_grad", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        for name, launcher in LAUNCHERS.items():
            library.impl(name, launcher, "CPU", allow_override=True)
    yield
    library._destroy()
