# SPDX-License-Identifier: Apache-2.0
"""Cost per call of the op machinery: dg.subset.marginals on a (1, 8) tensor, k = 2.

    python bench/dispatch_cost.py

A row of 8 items costs the kernel next to nothing, so what is left is argument checks, choice of
backend and method, dispatch and autograd. To stay under: 25 microseconds forward with autograd.
torch.softmax on the same tensor shows what torch's own ops cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from measure import time_in_turns

import discrete_grad as dg
from discrete_grad import ops

SHAPE = (1, 8)
ITEMS_TAKEN = 2
FORWARD_LIMIT = 25e-6
LIMITED = "public function, forward with autograd"


def calls() -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    plain = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    leaf = plain.clone().requires_grad_()
    grad = torch.ones(SHAPE)
    op = torch.ops.discrete_grad.subset_marginals.default
    method = ops.choose_method(*SHAPE, ITEMS_TAKEN, "cpu")
    softmax = torch.softmax
    return {
        "op alone": lambda: op(plain, ITEMS_TAKEN, None, method),
        "public function, input without gradient": lambda: dg.subset.marginals(plain, ITEMS_TAKEN),
        LIMITED: lambda: dg.subset.marginals(leaf, ITEMS_TAKEN),
        "public function, forward + backward": lambda: torch.autograd.grad(
            dg.subset.marginals(leaf, ITEMS_TAKEN), leaf, grad
        ),
        "torch.softmax, forward with autograd": lambda: softmax(leaf, -1),
        "torch.softmax, forward + backward": lambda: torch.autograd.grad(
            softmax(leaf, -1), leaf, grad
        ),
    }


def measure(seconds: float = 1.0) -> dict[str, dict[str, float]]:
    """Percentiles of the seconds per call, by what was called."""
    timings = time_in_turns(calls(), seconds=seconds, most_rounds=200)
    return {name: asdict(timing) for name, timing in timings.items()}


def main() -> None:
    for name, timing in measure().items():
        spread = f"(p20 {timing['p20'] * 1e6:.1f}, p80 {timing['p80'] * 1e6:.1f})"
        limit = f", limit {FORWARD_LIMIT * 1e6:.0f}" if name == LIMITED else ""
        print(f"{name}: {timing['p50'] * 1e6:.1f} us {spread}{limit}")


if __name__ == "__main__":
    main()
