# SPDX-License-Identifier: Apache-2.0
"""Sparse regression with many more columns than rows, and a truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from experiments.session import JSON


@dataclass(frozen=True)
class Problem:
    """y = sum over the support of coefficient * column, plus noise.

    Args:
        columns: of length 1, one per row, float32 [n, rows].
        target: float32 [rows].
        support: the true columns, [k].
        coefficients: theirs, [k].
    """

    columns: Tensor
    target: Tensor
    support: Tensor
    coefficients: Tensor

    def fit(self, support: Sequence[int]) -> tuple[Tensor, float]:
        """Least squares on ``support``: coefficients, and the part of |y|^2 that is left."""
        chosen = self.columns[list(support)].double()
        y = self.target.double()
        found = torch.linalg.lstsq(chosen.T, y[:, None]).solution[:, 0]
        return found, float((y - found @ chosen).square().sum() / y.square().sum())

    def judge(self, support: Sequence[int]) -> dict[str, JSON]:
        """Recall and precision of a support, its residual, and the error on new rows.

        The rows are independent with (nearly) uncorrelated entries of equal variance, so the error
        of the signal on new rows, over its variance, is |found - true|^2 / |true|^2.
        """
        true = torch.zeros(len(self.columns), dtype=torch.float64)
        true[self.support] = self.coefficients.double()
        hits = len(set(support) & set(self.support.tolist()))
        found = torch.zeros_like(true)
        found[list(support)], residual = self.fit(support)
        error = (found - true).square().sum() / true.square().sum()
        return {
            "recall": hits / len(self.support),
            "precision": hits / len(support) if support else 0.0,
            "residual": round(residual, 5),
            "error": round(float(error), 5),
        }


@lru_cache(maxsize=1)  # the methods take turns on one problem; it is large, and takes seconds
def make(n: int, rows: int, k: int, snr: float, seed: int) -> Problem:
    """Gaussian columns, k of them with coefficients +1 or -1, noise of 1 / snr the signal's power.

    Coefficients of equal size are the hardest for methods that choose columns one by one.
    """
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(n, rows, generator=generator)
    columns /= columns.norm(dim=1, keepdim=True)
    support = torch.randperm(n, generator=generator)[:k].sort().values
    coefficients = 2.0 * torch.randint(2, (k,), generator=generator) - 1
    signal = coefficients @ columns[support]
    noise = torch.randn(rows, generator=generator)
    target = signal + noise * (signal.norm() / noise.norm() / snr**0.5)
    return Problem(columns, target, support, coefficients)
