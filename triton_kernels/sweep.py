# SPDX-License-Identifier: Apache-2.0
"""Every kernel variant that the launchers choose, found by running them on meta tensors.

The shapes are on both sides of every block rule: n and k over powers of two and their successors,
few rows and many, every dtype, method and optional argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from .launch import Specialisation, recording
from .rows import compute_dtype

__all__ = ["arithmetic", "covering", "describe", "heaviest", "label", "record"]

Launchers = Mapping[str, Callable[..., Any]]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_METHODS = ("contour", "linear", "recursion")
_LONGEST = 2**22
_ROWS = (1, 48, 2**16)
_MORE_ROWS_THAN_INT32 = 2**32  # of a few items
# rows n k for the methods that take O(n k): more is more launches of the same variants.
_MOST_WORK = 2**23


def _lengths() -> list[int]:
    powers = [2**e for e in range(_LONGEST.bit_length())]
    return sorted({*powers, *(n + 1 for n in powers if n <= 2**14)})


def _sizes(n: int) -> list[int]:
    """k from 0 to n: the ends, powers of two, and a half."""
    powers = [2**e for e in range(n.bit_length() - 1)]
    return sorted({0, *powers, n // 2, n - 1, n})


def _meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _problems() -> Iterator[tuple[Tensor, list[int]]]:
    """Logits, and the k to try with them; 16-bit dtypes differ from float32 by a conversion."""
    for n in _lengths():
        for rows in (*_ROWS, _MORE_ROWS_THAN_INT32) if n == 4 else _ROWS:
            for dtype in _DTYPES:
                sizes = _sizes(n) if dtype.itemsize > 2 else [n // 2]
                fitting = [k for k in sizes if rows * n * (k + 1) <= _MOST_WORK]
                yield _meta(rows, n, dtype=dtype), fitting


def _marginals(launchers: Launchers, logits: Tensor, sizes: list[int]) -> None:
    forward, vjp = launchers["subset_marginals"], launchers["subset_marginals_vjp"]
    rows, n = logits.shape
    per_item, per_row = torch.empty_like(logits), torch.empty_like(logits[:, 0])
    row_k = _meta(rows, dtype=torch.int64)
    for method in _METHODS:
        some = [n // 2] if method == "contour" else sizes
        counts = [(k, None) for k in some]
        if some:
            counts.append((n, row_k))
        for k, of_row in counts:
            _, _, saved = forward(logits, k, of_row, method)
            for state in (saved, None) if method == "contour" else (saved,):
                vjp(logits, k, of_row, method, state, per_item, None)
                vjp(logits, k, of_row, method, state, None, per_row)
                vjp(logits, k, of_row, method, state, per_item, per_row)
    for of_row in (None, row_k):
        launchers["subset_third_cumulant"](logits, n // 2, of_row, per_item, per_item)


def _samples(launchers: Launchers, logits: Tensor) -> None:
    rows, n = logits.shape
    row_k, seed = _meta(rows, dtype=torch.int64), _meta(1, dtype=torch.int64)
    for draws in (1, 4):
        for k in sorted({1, n // 2, n - 1}):
            launchers["subset_sample"](logits, k, None, draws, seed)
            launchers["simple"](logits, k, None, draws, "contour", seed)
            launchers["subset_sample_indices"](logits, k, draws, seed)
        launchers["subset_sample"](logits, n, row_k, draws, seed)
        launchers["simple"](logits, n, row_k, draws, "contour", seed)


def _counts(launchers: Launchers, logits: Tensor, sizes: list[int]) -> None:
    rows, _ = logits.shape
    for most in sizes:
        grad = _meta(rows, most + 1, dtype=logits.dtype)
        launchers["count_log_prob"](logits, most)
        launchers["count_log_prob_vjp"](logits, most, grad)
        launchers["count_log_prob_vjp_backward"](logits, most, grad, torch.empty_like(logits))


def _perturbed(launchers: Launchers, logits: Tensor) -> None:
    rows, n = logits.shape
    dtype = compute_dtype(logits.dtype)
    row_k, seed = _meta(rows, dtype=torch.int64), _meta(1, dtype=torch.int64)
    step, grad = _meta(rows, dtype=dtype), _meta(2, rows, n, dtype=logits.dtype)
    k = max(1, n // 2)
    for quantiles in (None, _meta(881, 4, dtype=dtype)):
        launchers["perturbation_noise"](rows, n, quantiles, seed, dtype)
        launchers["perturbed_topk_indices"](logits, k, 2, quantiles, 1.0, seed)
        for of_row in (None, row_k):
            launchers["perturbed_topk"](logits, k, of_row, 2, quantiles, 1.0, seed)
            for symmetric in (False, True):
                launchers["perturbed_topk_difference"](
                    logits, grad, k, of_row, quantiles, step, *[1.0] * 4, symmetric, seed
                )


def record(launchers: Launchers) -> list[Specialisation]:
    """The distinct variants, in the order of their first launch.

    Args:
        launchers: a function with the op's schema for each op of schemas.def.
    """
    found: dict[Specialisation, None] = {}
    for logits, sizes in _problems():
        with recording() as launches:
            _marginals(launchers, logits, sizes)
            _samples(launchers, logits)
            _counts(launchers, logits, sizes)
            _perturbed(launchers, logits)
        found.update(dict.fromkeys(launches))
    return list(found)


def label(kernel: Any) -> str:
    """A kernel's name with its file's."""
    return f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"


def arithmetic(variant: Specialisation) -> str:
    """The type a variant computes in: fp32 or fp64, or "" where it has none."""
    found = dict(variant.constants).get("DTYPE")
    return str(found) if isinstance(found, tl.dtype) else ""


def describe(variant: Specialisation) -> str:
    """One line: kernel, argument types, constants, warps."""
    types = ", ".join(f"{name}: {kind}" for name, kind in variant.types)
    constants = ", ".join(f"{name}={value}" for name, value in variant.constants)
    return f"{label(variant.kernel)}({types}; {constants}; num_warps={variant.num_warps})"


def _load(variant: Specialisation) -> tuple[float, int]:
    """Items per warp, then items: both grow with the registers that a variant needs."""
    sizes = (v for _, v in variant.constants if isinstance(v, int) and not isinstance(v, bool))
    items = prod(max(size, 1) for size in sizes)
    absent = sum(value is None for _, value in variant.constants)
    return items / variant.num_warps, items - absent


def heaviest(variants: Iterable[Specialisation]) -> list[Specialisation]:
    """The variant with most items per warp of each kernel and arithmetic, of 32 bits or more."""
    found: dict[tuple[Any, str], Specialisation] = {}
    for variant in variants:
        if not any(kind in ("*bf16", "*fp16") for _, kind in variant.types):
            key = (variant.kernel, arithmetic(variant))
            if key not in found or _load(variant) > _load(found[key]):
                found[key] = variant
    return list(found.values())


def _features(variant: Specialisation) -> set[tuple[str, str]]:
    parts = [*variant.types, *variant.constants, ("num_warps", variant.num_warps)]
    return {(name, str(value)) for name, value in parts}


def covering(variants: Iterable[Specialisation]) -> list[Specialisation]:
    """A few variants of each kernel that together have every argument type and every constant.

    Of those that add as much, the heaviest is taken.
    """
    of_kernel: dict[Any, dict[Specialisation, set[tuple[str, str]]]] = {}
    for variant in variants:
        of_kernel.setdefault(variant.kernel, {})[variant] = _features(variant)
    chosen = []
    for rest in of_kernel.values():
        left = set().union(*rest.values())
        for variant in heaviest(rest):
            left -= rest.pop(variant)
            chosen.append(variant)
        while left:
            best = max(rest, key=lambda variant: (len(rest[variant] & left), _load(variant)))
            left -= rest.pop(best)
            chosen.append(best)
    return chosen
