# SPDX-License-Identifier: Apache-2.0
"""Checks of tensors by shape, dtype and device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_grad.checks.kinds import FLOATING, INTEGER, kind_of
from discrete_grad.checks.numbers import integer


def floating(name: str, value: Tensor) -> None:
    """``value`` must be a real floating tensor [..., n] of a dtype the ops compute in."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {kind_of(value)}")
    if value.dtype not in FLOATING:
        raise TypeError(
            f"{name} must have dtype float64, float32, bfloat16 or float16, got {value.dtype}"
        )
    if value.dim() == 0:
        raise ValueError(
            f"{name} must have at least one dimension (the last one holds the n items), "
            "got a tensor of shape ()"
        )


def row_counts(k: int | Tensor, logits: Tensor) -> int | Tensor:
    """``k`` for ``logits`` [..., n]: an int from 0 to n, or an integer tensor that fits [...].

    Returns ``k``, as an int wherever it is one (NumPy's integers too); a tensor must broadcast to
    the batch shape [...].
    """
    floating("logits", logits)
    if type(k) is not int:
        if isinstance(k, Tensor):
            return _count_tensor(k, logits)
        k = integer("k", k, "an int or an integer tensor")
    if 0 <= k <= logits.size(-1):
        return k
    raise ValueError(
        f"k must be from 0 to n = {logits.size(-1)} (the last dimension of logits), got {k}"
    )


def single_count(k: Any, logits: Tensor, function: str) -> int:
    """``k`` as in ``row_counts``, for a function whose result has k entries: an int only."""
    if isinstance(k, Tensor):
        raise TypeError(
            f"k must be an int for {function} (its result has k entries per row), got {kind_of(k)}"
        )
    count = row_counts(k, logits)
    assert not isinstance(count, Tensor)
    return count


def _count_tensor(k: Tensor, logits: Tensor) -> Tensor:
    if k.dtype not in INTEGER:
        raise TypeError(f"k must be an int or an integer tensor, got a tensor of dtype {k.dtype}")
    if k.device != logits.device:
        raise ValueError(f"k must be on the device of logits, {logits.device}, got {k.device}")
    batch = logits.shape[:-1]
    offset = len(batch) - k.dim()
    if offset < 0 or any(
        size != 1 and size != batch[offset + axis] for axis, size in enumerate(k.shape)
    ):
        raise ValueError(
            f"k must broadcast to the batch shape {tuple(batch)} of logits, "
            f"got a tensor of shape {tuple(k.shape)}"
        )
    return k


def generator(value: torch.Generator | None, device: torch.device) -> None:
    """``value`` must be None or a generator that lives on ``device``."""
    if value is None:
        return
    if not isinstance(value, torch.Generator):
        raise TypeError(f"generator must be None or a torch.Generator, got {kind_of(value)}")
    theirs = value.device
    # A device without an index is the current one of its type.
    same_index = theirs.index == device.index or None in (theirs.index, device.index)
    if theirs.type != device.type or not same_index:
        raise ValueError(
            f"generator must be on the device of logits, {device}, got a generator on {theirs}; "
            f"make it with torch.Generator({str(device)!r})"
        )


def subset(value: Tensor, logits: Tensor) -> None:
    """``value`` must be a k-hot tensor [..., n] that broadcasts with ``logits`` [..., n]."""
    if not isinstance(value, Tensor):
        raise TypeError(f"subset must be a torch.Tensor, got {kind_of(value)}")
    if value.dtype.is_complex or value.is_quantized:
        raise TypeError(f"subset must be a boolean, integer or floating tensor, got {value.dtype}")
    if value.dim() == 0 or value.size(-1) != logits.size(-1):
        raise ValueError(
            f"subset must be k-hot over the n = {logits.size(-1)} items of logits in its last "
            f"dimension, got shape {tuple(value.shape)}"
        )
    broadcasts("subset", value, "logits", logits)


def paired(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Two logits tensors over the same n items, of one dtype, whose batch shapes broadcast."""
    floating(name, value)
    floating(other_name, other)
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} and {other_name} must have the same dtype, got {value.dtype} and {other.dtype}"
        )
    if value.size(-1) != other.size(-1):
        raise ValueError(
            f"{name} and {other_name} must have the same number of items (last dimension), "
            f"got {value.size(-1)} and {other.size(-1)}"
        )
    broadcasts(name, value, other_name, other)


def batch(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """``value`` [...] must broadcast with the batch shape of ``other`` [..., n]."""
    _same_device(name, value, other_name, other)
    _broadcasts(name, value.shape, f"the batch shape of {other_name},", other.shape[:-1])


def broadcasts(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """The two tensors must broadcast, and be on one device."""
    _same_device(name, value, other_name, other)
    _broadcasts(name, value.shape, f"{other_name} of shape", other.shape)


def _same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}, got {value.device}"
        )


def _broadcasts(name: str, shape: torch.Size, what: str, other: torch.Size) -> None:
    for mine, theirs in zip(reversed(shape), reversed(other), strict=False):
        if mine != theirs and mine != 1 and theirs != 1:
            raise ValueError(
                f"{name} must broadcast with {what} {tuple(other)}, got shape {tuple(shape)}"
            )
