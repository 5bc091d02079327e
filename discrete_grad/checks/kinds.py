# SPDX-License-Identifier: Apache-2.0
"""How messages name what was given, and the dtypes that the ops know."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
INTEGER = frozenset(
    {
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)


def kind_of(value: object) -> str:
    """``value`` in words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r}"
