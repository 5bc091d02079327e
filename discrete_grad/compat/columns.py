# SPDX-License-Identifier: Apache-2.0
"""The clients' layout, [batch, items, ensemble] with the items in the middle; argument checks."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor


def as_rows(scores: Tensor) -> Tensor:
    """[batch, ensemble, items] of ``scores`` [batch, items, ensemble]."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores must be a torch.Tensor, got {type(scores).__name__}")
    if scores.dim() != 3:
        raise ValueError(
            "scores must have three dimensions, [batch, items, ensemble], "
            f"got shape {tuple(scores.shape)}"
        )
    return scores.transpose(1, 2)


def as_columns(rows: Tensor) -> Tensor:
    """[..., items, ensemble] of ``rows`` [..., ensemble, items]."""
    return rows.transpose(-1, -2)


def integer(name: str, value: Any, least: int) -> int:
    """``value`` as an int, which must be at least ``least``."""
    if isinstance(value, (bool, Tensor)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
