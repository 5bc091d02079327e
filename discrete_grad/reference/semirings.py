# SPDX-License-Identifier: Apache-2.0
"""The algebras in which one recursion over the items computes different things.

Source: Goodman, "Semiring parsing", 1999; Li and Eisner, "First- and second-order expectation
semirings", 2009.

========== =========================== ====================================================
semiring   plus, times                 the recursion gives
========== =========================== ====================================================
REAL       +, x                        P(S = j) from the Bernoulli probabilities of the items
LOG        logsumexp, +                log P(S = j), whatever the range of the probabilities
MAX        max, +                      the score of the best j items
EXPECTATION (p, r): (p + p', r + r'),  P(S = j) and the sum of P log-weights, so the entropy
           (p p', p r' + p' r)
========== =========================== ====================================================
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["EXPECTATION", "LOG", "MAX", "REAL", "Semiring"]


class Semiring(Protocol):
    """A commutative semiring; the elements of EXPECTATION are pairs along dimension 0."""

    @property
    def zero(self) -> float:
        """The neutral element of plus (every component of it)."""
        ...

    def unit(self, like: Tensor) -> Tensor:
        """The polynomial 1, of degree at most 1, in the shape of the leaf ``like`` [..., 2]."""
        ...

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Product, element by element."""
        ...

    def plus(self, values: Tensor, dim: int) -> Tensor:
        """Sum over the dimension ``dim`` (negative)."""
        ...


class _Real:
    zero = 0.0

    def unit(self, like: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(like[..., 0]), torch.zeros_like(like[..., 0])], dim=-1)

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def plus(self, values: Tensor, dim: int) -> Tensor:
        return values.sum(dim)


class _Log:
    zero = -torch.inf

    def unit(self, like: Tensor) -> Tensor:
        one = torch.zeros_like(like[..., 0])
        return torch.stack([one, torch.full_like(one, self.zero)], dim=-1)

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def plus(self, values: Tensor, dim: int) -> Tensor:
        """logsumexp whose derivative is 0, not NaN, where every term is -inf."""
        largest = values.detach().amax(dim, keepdim=True)
        nothing = largest == -torch.inf
        largest = torch.where(nothing, torch.zeros_like(largest), largest)
        total = (values - largest).exp().sum(dim)
        nothing, largest = nothing.squeeze(dim), largest.squeeze(dim)
        logarithm = torch.where(nothing, torch.ones_like(total), total).log() + largest
        return torch.where(nothing, torch.full_like(total, -torch.inf), logarithm)


class _Max(_Log):
    def plus(self, values: Tensor, dim: int) -> Tensor:
        return values.amax(dim)


class _Expectation:
    zero = 0.0

    def unit(self, like: Tensor) -> Tensor:
        probability = REAL.unit(like[0])
        return torch.stack([probability, torch.zeros_like(probability)])

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([a[0] * b[0], a[0] * b[1] + a[1] * b[0]])

    def plus(self, values: Tensor, dim: int) -> Tensor:
        return values.sum(dim)


REAL: Semiring = _Real()
LOG: Semiring = _Log()
MAX: Semiring = _Max()
EXPECTATION: Semiring = _Expectation()
