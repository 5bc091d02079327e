# SPDX-License-Identifier: Apache-2.0
"""Checks of Python numbers, and of choices among names."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from discrete_grad.checks.kinds import kind_of

METHODS = ("auto", "contour", "linear", "recursion")


def integer(name: str, value: Any, what: str = "an int") -> int:
    """``value`` must be an integer of any kind; ``what`` is what the message asks for."""
    # bool is an int to Python, and True items of n is never what was meant.
    if not isinstance(value, bool):
        if isinstance(value, (int, torch.SymInt)):
            return value  # type: ignore[return-value]  # a SymInt stays symbolic
        if not isinstance(value, Tensor):
            try:
                return operator.index(value)
            except TypeError:
                pass
    raise TypeError(f"{name} must be {what}, got {kind_of(value)}")


def count(name: str, value: Any, what: str = "an int") -> int:
    """``value`` must be an int >= 0."""
    number = value if type(value) is int else integer(name, value, what)
    if number < 0:
        raise ValueError(f"{name} must be at least 0, got {number}")
    return number


def num_samples(value: Any) -> int:
    """Number of draws to make: an int >= 0, or None for one draw (whose dimension is dropped)."""
    return 1 if value is None else count("num_samples", value, "None or an int")


def draws_at_least(value: Any, least: int, why: str) -> int:
    """Number of draws to average over: an int of at least ``least``."""
    number = count("num_samples", value)
    if number < least:
        raise ValueError(f"num_samples must be at least {least} {why}, got {number}")
    return number


def at_least_one(name: str, value: Any) -> int:
    """``value`` must be an int >= 1."""
    number = count(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def temperature(name: str, value: Any) -> float:
    """``value`` must be a finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat)):
        raise TypeError(f"{name} must be a float, got {kind_of(value)}")
    if not 0 <= value < float("inf"):  # NaN is outside
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return value  # type: ignore[return-value]  # a SymFloat stays symbolic


def positive(name: str, value: Any) -> float:
    """``value`` must be a finite number > 0."""
    if temperature(name, value) == 0:
        raise ValueError(f"{name} must be greater than 0, got {value}")
    return float(value)


def finite(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """``value`` must be a finite number in the bounds that are given, ``below`` excluded."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a float, got {kind_of(value)}")
    bounds = [
        text
        for bound, text in (
            (least, f"at least {least}"),
            (most, f"at most {most}"),
            (below, f"less than {below}"),
        )
        if bound is not None
    ]
    inside = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not inside:
        raise ValueError(f"{name} must be {' and '.join(['finite', *bounds])}, got {value}")
    return float(value)


def _names(choices: tuple[object, ...]) -> str:
    return ", ".join(repr(choice) for choice in choices)


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """``value`` must be one of ``choices`` (True is not taken for 1)."""
    if value not in choices or isinstance(value, bool):
        raise ValueError(f"{name} must be one of {_names(choices)}, got {value!r}")


def method(value: str) -> None:
    """How the marginals are computed: one of ``METHODS``."""
    if value not in METHODS:
        raise ValueError(f"method must be one of {_names(METHODS)}, got {value!r}")
