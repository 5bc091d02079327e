# SPDX-License-Identifier: Apache-2.0
"""The circuit layer that SFESS and PR-MPNN share: log marginals and samples of padded rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_grad.compat import law
from discrete_grad.compat.columns import integer


class Layer:
    """Log marginals and samples of k-subsets, with the published layer's methods.

    The published layer compiles a logical circuit for n (a power of two) and k, and keeps it in a
    file of the folder ``root``. There is no circuit here: nothing is compiled, read or written, and
    rows of any length are served. Callers pad their rows with scores of -1e10: those items are
    never chosen, also where fewer than k others are left.

    Args:
        n: number of items; rows may be padded to the next power of two.
        k: size of the subsets.
        device: kept as an attribute for the callers; everything is done on the device of the
            scores.
        root: the published layer's folder; not used.
        mode: "exact" or "compat", see ``discrete_grad.compat.law``.

    Raises:
        TypeError, ValueError: a bad argument, named in the message.
    """

    def __init__(
        self,
        n: int,
        k: int,
        device: torch.device | str,
        root: str = "./simple_configs",
        *,
        mode: str = law.EXACT,
    ) -> None:
        self.n = integer("n", n, 1)
        self.k = integer("k", k, 0)
        if self.k > self.n:
            raise ValueError(f"k must be from 0 to n = {self.n}, got {self.k}")
        self.device = device
        self.mode = law.check_mode(mode)

    def log_pr(self, x: Tensor) -> Tensor:
        """Log inclusion probabilities of subsets of ``k`` items, [N, R] (items first).

        Computed in log space, so small ones keep their digits down to the least number of the
        dtype, below which they are -inf with a zero gradient. Time O(N k) per row.

        Args:
            x: scores, [R, N], of a floating dtype.

        Raises:
            TypeError, ValueError: ``x`` is no such tensor.
        """
        rows, k = law.without_fakes(self._checked(x), self.k)
        mu = law.marginals(rows, k, self.mode, method="recursion")
        positive = ~(mu <= 0)  # NaN, of a row without a subset, stays
        log_mu = torch.where(positive, mu, 1.0).log()
        return torch.where(positive, log_mu, -torch.inf).T

    def sample(self, x: Tensor, k: int, times: int) -> Tensor:
        """``times`` k-hot samples of each row, [times, R, N], without a gradient.

        Args:
            x: scores, [R, N], of a floating dtype.
            k: size of the subsets.
            times: number of samples.

        Raises:
            TypeError, ValueError: a bad argument, named in the message.
        """
        checked = self._checked(x)
        rows, counts = law.without_fakes(checked, min(integer("k", k, 0), self.n))
        return law.draw(rows, counts, integer("times", times, 1), self.mode)

    def _checked(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
        padded = 1 << (self.n - 1).bit_length()
        if x.dim() != 2 or x.shape[1] not in (self.n, padded):
            raise ValueError(
                f"x must have shape [rows, {self.n}] or, padded, [rows, {padded}], "
                f"got {tuple(x.shape)}"
            )
        return x
