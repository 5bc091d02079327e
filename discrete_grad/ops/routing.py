# SPDX-License-Identifier: Apache-2.0
"""Which implementation serves a call: a registered op, or the reference in plain torch functions.

The reference serves where it was chosen by name, and where a transform of torch.func other than
vmap, or forward-mode AD, is active: a registered op with an autograd rule of its own has no rule
for those, and some of them would be silently zero, while the reference is differentiated by PyTorch
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C import _functorch

from discrete_grad import backends

# Side effect of the import: the ops exist from here on.
from discrete_grad.ops import library as library
from discrete_grad.ops import sharding

Result = TypeVar("Result")


def transformed() -> bool:
    """Whether a functorch level other than vmap, or a forward-mode level, is active."""
    if forward_ad._current_level >= 0:
        return True
    # Not "is None": torch.compile traces the result as an object that never is None.
    if not isinstance(_functorch.peek_interpreter_stack(), _functorch.CInterpreter):
        return False
    if torch.compiler.is_compiling():
        # A traced vmap goes to the reference too: the whole stack cannot be read while tracing.
        return True
    stack = _functorch.get_interpreter_stack() or []
    return any(level.key() != _functorch.TransformType.Vmap for level in stack)


def to_reference(logits: Tensor) -> bool:
    """True: the reference serves this call. Raises RuntimeError where no backend can."""
    return backends.select(logits.device.type) == "reference" or transformed()


def call_reference(function: Callable[..., Result], logits: Tensor, *args: Any) -> Result:
    """``function(logits, *args)``; under autocast in float32 at least, as the registered ops do."""
    device = logits.device.type
    if not torch.is_autocast_enabled(device):
        return function(logits, *args)
    with torch.autocast(device, enabled=False):
        return function(logits.float() if logits.dtype.itemsize == 2 else logits, *args)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the ops compute in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_counts(logits: Tensor, k: int | Tensor) -> tuple[int, Tensor | None]:
    """(k, row_k) of the schemas: an int k alone, or n as the upper bound of an int64 tensor.

    The ops' sharding rules are there from here on, if ``logits`` is a DTensor.
    """
    sharding.prepare(logits)
    if isinstance(k, Tensor):
        placed = sharding.placed(logits, k.to(torch.int64).expand(logits.shape[:-1]))
        return logits.shape[-1], placed
    return k, None


def batch_first(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """For vmap rules: the mapped dimension in front, made where the tensor has none."""
    if tensor is None:
        return None
    if dim is None:
        return tensor.unsqueeze(0).expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)
