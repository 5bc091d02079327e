# SPDX-License-Identifier: Apache-2.0
"""Argument checks: the single source of the package's error messages.

Every message names the argument, says what it was and what it must be. The checks of this module
read shapes, dtypes and Python numbers only, so they cost no host synchronisation and are traced
away by ``torch.compile``; the ones that read values (``k_subset_values``, ``probabilities``) say so
and are called only where reading values is part of the contract.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

_FLOATING = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
_INTEGER = frozenset(
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
METHODS = ("auto", "contour", "linear", "recursion")


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r}"


def floating(name: str, value: Tensor) -> None:
    """``value`` must be a real floating tensor [..., n] of a dtype the ops compute in."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {_kind(value)}")
    if value.dtype not in _FLOATING:
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
        k = _integer("k", k, "an int or an integer tensor")
    if 0 <= k <= logits.size(-1):
        return k
    raise ValueError(
        f"k must be from 0 to n = {logits.size(-1)} (the last dimension of logits), got {k}"
    )


def single_count(k: Any, logits: Tensor, function: str) -> int:
    """``k`` as in ``row_counts``, for a function whose result has k entries: an int only."""
    if isinstance(k, Tensor):
        raise TypeError(
            f"k must be an int for {function} (its result has k entries per row), got {_kind(k)}"
        )
    count = row_counts(k, logits)
    assert not isinstance(count, Tensor)
    return count


def _count_tensor(k: Tensor, logits: Tensor) -> Tensor:
    if k.dtype not in _INTEGER:
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


def _integer(name: str, value: Any, what: str = "an int") -> int:
    # bool is an int to Python, and True items of n is never what was meant.
    if not isinstance(value, bool):
        if isinstance(value, (int, torch.SymInt)):
            return value  # type: ignore[return-value]  # a SymInt stays symbolic
        if not isinstance(value, Tensor):
            try:
                return operator.index(value)
            except TypeError:
                pass
    raise TypeError(f"{name} must be {what}, got {_kind(value)}")


def count(name: str, value: Any, what: str = "an int") -> int:
    """``value`` must be an int >= 0."""
    number = value if type(value) is int else _integer(name, value, what)
    if number < 0:
        raise ValueError(f"{name} must be at least 0, got {number}")
    return number


def num_samples(value: Any) -> int:
    """Number of draws to make: an int >= 0, or None for one draw (whose dimension is dropped)."""
    return 1 if value is None else count("num_samples", value, "None or an int")


def method(value: str) -> None:
    """How the marginals are computed: one of ``METHODS``."""
    if value not in METHODS:
        raise ValueError(f"method must be one of {_names(METHODS)}, got {value!r}")


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """``value`` must be one of ``choices`` (True is not taken for 1)."""
    if value not in choices or isinstance(value, bool):
        raise ValueError(f"{name} must be one of {_names(choices)}, got {value!r}")


def _names(choices: tuple[object, ...]) -> str:
    return ", ".join(repr(choice) for choice in choices)


def generator(value: torch.Generator | None, device: torch.device) -> None:
    """``value`` must be None or a generator that lives on ``device``."""
    if value is None:
        return
    if not isinstance(value, torch.Generator):
        raise TypeError(f"generator must be None or a torch.Generator, got {_kind(value)}")
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
        raise TypeError(f"subset must be a torch.Tensor, got {_kind(value)}")
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


def k_subset_values(k: int | Tensor, logits: Tensor) -> None:
    """Every row must have a k-subset: no NaN, and forced items <= k <= items that are not excluded.

    Reads values on the host.
    """
    if isinstance(k, Tensor):
        n = logits.size(-1)
        _no_row("k", (k < 0) | (k > n), k, f"must be from 0 to n = {n} in every row")
    _no_row("logits", logits.isnan().any(-1), None, "must not be NaN")
    counts = torch.as_tensor(k, device=logits.device).expand(logits.shape[:-1])
    forced = (logits == torch.inf).sum(-1)
    _no_row("logits", forced > counts, forced, "must force (+inf) at most k items", counts)
    live = (logits != -torch.inf).sum(-1)
    _no_row("logits", live < counts, live, "must leave at least k items that are not -inf", counts)


def _no_row(
    name: str, bad: Tensor, got: Tensor | None, must: str, counts: Tensor | None = None
) -> None:
    if not bool(bad.any()):
        return
    row = tuple(bad.nonzero()[0].tolist())
    where = f"row {row}" if row else "its only row"
    found = "a NaN" if got is None else str(got[row].item())
    wanted = "" if counts is None else f" (k = {counts[row].item()})"
    raise ValueError(f"{name} {must}, got {found} in {where}{wanted}")


def probabilities(name: str, value: Tensor) -> None:
    """Every entry must lie in [0, 1]. Reads values on the host."""
    bad = ~((value >= 0) & (value <= 1))  # NaN is outside
    if bool(bad.any()):
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name} must be in [0, 1], got {value[index].item()} at index {index}")


def integer_sums(name: str, sums: Tensor, allowed: Tensor) -> None:
    """Every row's sum must be within ``allowed`` of an integer. Reads values on the host."""
    off = (sums - sums.round()).abs() > allowed
    _no_row(name, off, sums, "must sum to an integer (k) in every row")


def converged(what: str, error: Tensor, accepted: float) -> None:
    """Every row's residual must be at most ``accepted``. Reads values on the host.

    Raises:
        RuntimeError: some row's is not; the message names the rows, and the largest residual.
    """
    bad = ~(error <= accepted)  # NaN is not accepted
    if bool(bad.any()):
        rows = [tuple(row) for row in bad.nonzero().tolist()]
        named = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        raise RuntimeError(
            f"{what} did not converge in {len(rows)} of {error.numel()} rows "
            f"({named}): residual up to {error[bad].max().item():.3g}, accepted {accepted:.3g}"
        )
