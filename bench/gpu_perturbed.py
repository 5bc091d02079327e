# SPDX-License-Identifier: Apache-2.0
"""Perturbed top-k on a GPU beside torch.topk of logits plus noise and a scatter.

Both draw their noise within the call. The difference is that of I-MLE's backward pass: two
selections of the same noise, averaged over the samples; ours makes the noise anew from the seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

import discrete_grad  # noqa: F401 - registers the ops

KHOT, DIFFERENCE = "perturbed", "perturbed_difference"
TORCH = "torch.topk"
# (rows, n, k, samples): routing, several samples of layers, long rows, one huge row.
SHAPES = ((4096, 64, 8, 1), (256, 1024, 16, 10), (64, 8192, 64, 1), (1, 10**6, 1000, 1))
TEMPERATURE, STEP = 1.0, 2.0
# Rows that may differ: where two items part by less than their rounding.
_ALLOWED = 1e-3

_OPS = torch.ops.discrete_grad


def _seed(logits: Tensor) -> Tensor:
    return torch.ones(1, dtype=torch.int64, device=logits.device)


def _khot(values: Tensor, k: int) -> Tensor:
    chosen = values.topk(k, dim=-1).indices
    return torch.zeros_like(values).scatter_(-1, chosen, 1.0)


def _two_sides(logits: Tensor, grad: Tensor, noise: Tensor, k: int) -> Tensor:
    moved = (logits - STEP * grad) + noise
    return (_khot(logits + noise, k) - _khot(moved, k)).mean(0)


def _gumbel(logits: Tensor, samples: int) -> Tensor:
    return -torch.empty(samples, *logits.shape, device=logits.device).exponential_().log()


@torch.no_grad()
def ours(op: str, logits: Tensor, grad: Tensor, k: int, samples: int) -> Tensor:
    """The op itself: k-hot [samples, rows, n], or the difference [rows, n]."""
    seed = _seed(logits)
    if op == KHOT:
        result: Tensor = _OPS.perturbed_topk(logits, k, None, samples, None, TEMPERATURE, seed)
        return result
    grads = grad.expand(samples, *grad.shape)
    step = torch.full((), STEP, device=logits.device)
    scales = (1.0, TEMPERATURE, 1.0, TEMPERATURE)
    difference: Tensor = _OPS.perturbed_topk_difference(
        logits, grads, k, None, None, step, *scales, False, seed
    )[0]
    return difference


@torch.no_grad()
def by_torch(op: str, logits: Tensor, grad: Tensor, k: int, samples: int) -> Tensor:
    """The same in PyTorch's own operations, with noise of its own."""
    noise = _gumbel(logits, samples)
    return _khot(logits + noise, k) if op == KHOT else _two_sides(logits, grad, noise, k)


@torch.no_grad()
def check(op: str, logits: Tensor, grad: Tensor, k: int, samples: int) -> float:
    """The share of rows in which ours is not torch.topk of the same noise.

    Raises:
        AssertionError: more than rounding explains, or a sample that is no k-hot vector.
    """
    got = ours(op, logits, grad, k, samples)
    rows, n = logits.shape
    noise = _OPS.perturbation_noise(samples * rows, n, None, _seed(logits), torch.float32)
    noise = noise.view(samples, rows, n)
    if op == KHOT:
        assert bool((got.sum(-1) == k).all()), f"a draw has not {k} ones"
        want = _khot(logits + noise, k)
    else:
        want = _two_sides(logits, grad, noise, k)
    different = float(((got - want).abs() > 1e-6).any(-1).float().mean())
    assert different <= _ALLOWED, f"{different:.2%} of the rows are not those of torch.topk"
    return different
