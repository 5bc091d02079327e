# SPDX-License-Identifier: Apache-2.0
"""Who computes each op: this library, the baseline of the literature, and yardsticks.

A yardstick computes something else on the same tensor (torch.softmax: what a user already pays for
a row of n logits), so that a time can be read without knowing the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import baselines
import torch
from cases import Case, Inputs
from torch import Tensor

import discrete_grad as dg

OURS = "discrete_grad"
DP = "dp"
SOFTMAX = "softmax"
MARGINALS = "marginals"

DESCRIPTIONS = {
    OURS: "this library's public function",
    DP: "the log-space dynamic programme of the SIMPLE paper in plain PyTorch, by autograd",
    SOFTMAX: "torch.softmax of the same tensor (yardstick)",
    MARGINALS: "this library's marginals of the same tensor (yardstick of sampling)",
}

# Steps and numbers in the baseline's table beyond which it needs minutes or gigabytes.
_DP_STEPS = 2**14
_DP_TABLE = 2**24


@dataclass(frozen=True)
class Provider:
    """``quantity``: what the result must equal, a key of the checks in measure.py."""

    name: str
    quantity: str
    run: Callable[[Case, Inputs], Tensor]
    supports: Callable[[Case], bool] = lambda case: True


def _dp_fits(case: Case) -> bool:
    return case.n <= _DP_STEPS and case.rows * case.n * (case.k + 1) <= _DP_TABLE


@torch.no_grad()
def _marginals(case: Case, inputs: Inputs) -> Tensor:
    return dg.subset.marginals(inputs.logits, case.k)


@torch.no_grad()
def _softmax(case: Case, inputs: Inputs) -> Tensor:
    return torch.softmax(inputs.logits, -1)


def _grad(output: Tensor, inputs: Inputs) -> Tensor:
    (gradient,) = torch.autograd.grad(output, inputs.logits, inputs.grad.expand_as(output))
    return gradient


def _softmax_grad(case: Case, inputs: Inputs) -> Tensor:
    return _grad(torch.softmax(inputs.logits, -1), inputs)


_SOFTMAX_FORWARD = Provider(SOFTMAX, "softmax", _softmax)
_SOFTMAX_GRAD = Provider(SOFTMAX, "softmax_vjp", _softmax_grad)

PROVIDERS: dict[str, tuple[Provider, ...]] = {
    "marginals": (
        Provider(OURS, "marginals", _marginals),
        Provider(
            DP,
            "marginals",
            lambda case, inputs: baselines.marginals(inputs.logits, case.k),
            _dp_fits,
        ),
        _SOFTMAX_FORWARD,
    ),
    "marginals_grad": (
        Provider(
            OURS,
            "vjp",
            lambda case, inputs: _grad(dg.subset.marginals(inputs.logits, case.k), inputs),
        ),
        Provider(
            DP,
            "vjp",
            lambda case, inputs: _grad(
                baselines.marginals(inputs.logits, case.k, create_graph=True), inputs
            ),
            _dp_fits,
        ),
        _SOFTMAX_GRAD,
    ),
    "sample": (
        Provider(
            OURS,
            "sample",
            lambda case, inputs: dg.subset.sample(inputs.logits, case.k, case.samples),
        ),
        Provider(
            DP,
            "sample",
            lambda case, inputs: baselines.sample(inputs.logits.detach(), case.k, case.samples),
            _dp_fits,
        ),
        Provider(MARGINALS, "marginals", _marginals),
        _SOFTMAX_FORWARD,
    ),
    "simple_grad": (
        Provider(
            OURS,
            "vjp",
            lambda case, inputs: _grad(dg.simple(inputs.logits, case.k, case.samples), inputs),
        ),
        Provider(
            DP,
            "vjp",
            lambda case, inputs: _grad(
                baselines.simple(inputs.logits, case.k, case.samples), inputs
            ),
            _dp_fits,
        ),
        _SOFTMAX_GRAD,
    ),
}


def providers_of(case: Case) -> list[Provider]:
    """Those that can serve the case, this library first."""
    return [provider for provider in PROVIDERS[case.op] if provider.supports(case)]
