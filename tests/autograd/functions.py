# SPDX-License-Identifier: Apache-2.0
"""The differentiable functions and the rows at which their derivatives are tested."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import discrete_grad as dg

INF = float("inf")


def _normal(n: int, scale: float, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(n) * scale)


def _masked() -> Tensor:
    logits = _normal(8, 1.0, 1)
    logits[[1, 6]], logits[3] = -INF, INF
    return logits


# id -> (logits, k): every regime of the mathematics, in float64.
ROWS: dict[str, tuple[Tensor, int]] = {
    "normal": (_normal(7, 1.0), 3),
    "k0": (_normal(5, 1.0), 0),
    "k1": (_normal(6, 2.0), 1),
    "all-but-one": (_normal(6, 2.0), 5),
    "kn": (_normal(4, 1.0), 4),
    "ties": (torch.zeros(6, dtype=torch.float64), 2),
    "wide": (_normal(7, 6.0, 3), 3),
    "gap": (torch.tensor([30.0, 29.5, -30.0, -29.0, -30.5], dtype=torch.float64), 2),
    "boundary-of-gap": (torch.tensor([30.0, 29.5, 30.5, -29.0, -30.5], dtype=torch.float64), 2),
    "shifted": (_normal(6, 1.0, 4) + 1000.0, 2),
    "masked": (_masked(), 4),
    "one-item": (torch.tensor([0.5], dtype=torch.float64), 1),
}


def batch() -> tuple[Tensor, Tensor]:
    """A [3, 6] batch with a k for each row, one of them masked."""
    logits = torch.stack([_normal(6, 1.0, 5), _normal(6, 3.0, 6), _normal(6, 1.0, 7)])
    logits[2, [0, 4]] = torch.tensor([-INF, INF], dtype=torch.float64)
    return logits, torch.tensor([2, 5, 3])


def khot(logits: Tensor, k: int) -> Tensor:
    """A subset that the law allows, the same for all logits nearby: ties are broken by position."""
    earlier = torch.linspace(0.1, 0.0, logits.shape[-1], dtype=logits.dtype)
    return dg.subset.mode(logits + earlier, k)


# id -> function of (logits, k) with a tensor value.
FUNCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "log_partition": lambda x, k: dg.subset.log_partition(x, k),
    "marginals": lambda x, k: dg.subset.marginals(x, k),
    "marginals-contour": lambda x, k: dg.subset.marginals(x, k, method="contour"),
    "marginals-linear": lambda x, k: dg.subset.marginals(x, k, method="linear"),
    "marginals-recursion": lambda x, k: dg.subset.marginals(x, k, method="recursion"),
    "log_partition-contour": lambda x, k: dg.subset.log_partition(x, k, method="contour"),
    "log_partition-linear": lambda x, k: dg.subset.log_partition(x, k, method="linear"),
    "log_partition-recursion": lambda x, k: dg.subset.log_partition(x, k, method="recursion"),
    "entropy": lambda x, k: dg.subset.entropy(x, k),
    "log_prob": lambda x, k: dg.subset.log_prob(x, k, khot(x.detach(), k)),
    "covariance": lambda x, k: dg.subset.covariance(x, k),
}


def kl(p: Tensor, q: Tensor, k: int) -> Tensor:
    return dg.subset.kl_divergence(p, q, k)
