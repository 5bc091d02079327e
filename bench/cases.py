# SPDX-License-Identifier: Apache-2.0
"""What is measured: op x (rows, n, k, samples, dtype), and the inputs of each case.

Speed tests and checks take their tensors from the same factory, so that what is timed is what was
checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OPS = {
    "marginals": "Marginals, forward",
    "marginals_grad": "Marginals, forward + backward",
    "sample": "Exact sampling, k-hot",
    "simple_grad": "SIMPLE: exact sample forward + gradient backward",
}


@dataclass(frozen=True)
class Case:
    """One row of the table. ``samples``: draws per row, 1 for ops that draw none."""

    op: str
    rows: int
    n: int
    k: int
    samples: int = 1
    dtype: torch.dtype = torch.float32
    quick: bool = True

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def id(self) -> str:
        return f"{self.op}-{self.rows}x{self.n}-k{self.k}-s{self.samples}-{self.dtype_name}"


@dataclass(frozen=True)
class Inputs:
    """``logits`` is a leaf that requires a gradient; ``grad`` is the gradient of the output."""

    logits: Tensor
    grad: Tensor


def make_inputs(case: Case) -> Inputs:
    """Normal logits; an upstream gradient uniform on [-1, 1]. The same for the same shape."""
    generator = torch.Generator().manual_seed(case.rows * 1_000_003 + case.n * 101 + case.k)
    shape = (case.rows, case.n)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    grad = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    return Inputs(logits.to(case.dtype).requires_grad_(), grad.to(case.dtype))


_Shape = tuple[int, int, int]

# (rows, n, k): what the k-subset law is used for, from many short rows to one row of 10^6 items.
_EVERYDAY: tuple[_Shape, ...] = (
    (65536, 4, 2),  # N:M sparsity
    (2000, 20, 10),  # a discrete autoencoder: a batch of 100, 20 groups of 20
    (1024, 64, 8),  # routing to experts
    (64, 256, 32),
    (64, 1024, 64),
    (1, 8192, 1000),
)
_LONG: tuple[_Shape, ...] = ((1, 1_000_000, 10), (1, 1_000_000, 100_000))
# Over n at k = n / 16, and over k at one n: only in full runs.
_SCALING: tuple[_Shape, ...] = tuple((16, 4**e, 4**e // 16) for e in range(5, 10)) + tuple(
    (16, 65536, k) for k in (1, 32, 1024, 32768)
)


def _cases() -> tuple[Case, ...]:
    table = []
    for op in ("marginals", "marginals_grad"):
        table += [Case(op, *shape) for shape in _EVERYDAY + _LONG]
        table += [Case(op, 64, 256, 32, dtype=torch.float64)]
        table += [Case(op, *shape, quick=False) for shape in _SCALING]
    table += [Case("sample", *shape) for shape in _EVERYDAY + _LONG[1:]]
    table += [Case("sample", 64, 256, 32, samples=10)]
    table += [Case("sample", *shape, quick=False) for shape in _LONG[:1] + _SCALING]
    table += [Case("simple_grad", *shape) for shape in _EVERYDAY[1:4]]
    return tuple(table)


CASES = _cases()
QUICK_CASES = tuple(case for case in CASES if case.quick)
