# SPDX-License-Identifier: Apache-2.0
"""Who computes each op: this library, the baselines of the literature, and yardsticks.

A baseline computes the same thing by what is published, written here in plain PyTorch from the
papers. A yardstick computes something else on the same tensor (torch.softmax: what a user already
pays for a row of n logits), so that a time can be read without knowing the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import baselines
import circuit
import dft
import product_tree
import relaxed
import torch
from cases import Case, Inputs
from torch import Tensor

import discrete_grad as dg

OURS = "discrete_grad"
DP = "dp"
CIRCUIT = "circuit"
TREE = "fft tree"
DFT = "dft"
DFT_TILTED = "dft, tilted"
RELAXED = "relaxed"
SOFTMAX = "softmax"
TOPK = "topk"
COPY = "copy"
MARGINALS = "marginals"

BASELINES = {
    DP: "the log-space dynamic programme of the SIMPLE paper in plain PyTorch, by autograd",
    CIRCUIT: "its power-of-two circuit, all nodes of a level at once, by autograd",
    TREE: "a tree of polynomial products with FFTs, O(n log² n), in float64, the mean of the "
    "counts moved to k first, which is not published",
    DFT: "the discrete Fourier transform at n + 1 nodes in complex64, as in SFESS (its error is "
    "reported, not bounded)",
    DFT_TILTED: "the same with the mean of the counts moved to k first, which is not published",
}
# What there is published code of; the others are as good as they were made here.
PUBLISHED = (DP, CIRCUIT, DFT)
DESCRIPTIONS = {
    OURS: "this library's public function",
    **BASELINES,
    RELAXED: "the relaxed subset, k rounds of a softmax: another quantity (yardstick of SIMPLE)",
    SOFTMAX: "torch.softmax of the same tensor (yardstick)",
    TOPK: "torch.topk of the same tensor (yardstick)",
    COPY: "a copy of the same tensor (yardstick)",
    MARGINALS: "this library's marginals of the same tensor (yardstick of sampling)",
}

# Numbers in a baseline's largest tensor, or steps, beyond which it needs minutes or gigabytes.
_DP_STEPS = 2**14
_DP_TABLE = 2**24
_CIRCUIT_TERMS = 2**23
_DFT_FACTORS = 2**23
_TREE_LEAVES = 2**18


@dataclass(frozen=True)
class Provider:
    """``quantity``: what the result must equal, an attribute of the targets in checks.py."""

    name: str
    quantity: str
    run: Callable[[Case, Inputs], Tensor]
    supports: Callable[[Case], bool] = lambda case: True


def _dp_fits(case: Case) -> bool:
    return case.n <= _DP_STEPS and case.rows * case.n * (case.k + 1) <= _DP_TABLE


# log Z_k of each baseline but the dynamic programme, and where it is of use.
_LOG_PARTITIONS: dict[str, tuple[Callable[[Tensor, int], Tensor], Callable[[Case], bool]]] = {
    CIRCUIT: (circuit.log_partition, lambda c: c.rows * c.n * c.k <= _CIRCUIT_TERMS),
    TREE: (product_tree.log_partition, lambda c: c.rows * c.n <= _TREE_LEAVES),
    DFT: (dft.log_partition, lambda c: c.rows * c.n * (c.n + 1) <= _DFT_FACTORS),
    DFT_TILTED: (dft.tilted, lambda c: c.rows * c.n * (c.n + 1) <= _DFT_FACTORS),
}


@torch.no_grad()
def _marginals(case: Case, inputs: Inputs) -> Tensor:
    return dg.subset.marginals(inputs.logits, case.k)


@torch.no_grad()
def _softmax(case: Case, inputs: Inputs) -> Tensor:
    return torch.softmax(inputs.logits, -1)


@torch.no_grad()
def _topk(case: Case, inputs: Inputs) -> Tensor:
    return inputs.logits.topk(case.k, dim=-1).values


@torch.no_grad()
def _copy(case: Case, inputs: Inputs) -> Tensor:
    return inputs.logits.clone()


def _grad(output: Tensor, inputs: Inputs) -> Tensor:
    (gradient,) = torch.autograd.grad(output, inputs.logits, inputs.grad.expand_as(output))
    return gradient


def _softmax_grad(case: Case, inputs: Inputs) -> Tensor:
    return _grad(torch.softmax(inputs.logits, -1), inputs)


def _relaxed_grad(case: Case, inputs: Inputs) -> Tensor:
    noise = relaxed.gumbel(inputs.logits, case.n)
    return _grad(relaxed.subset(inputs.logits + noise, case.k), inputs)


def _by_autograd(backward: bool) -> tuple[Provider, ...]:
    """The baselines that are a log-partition: marginals are its gradient, SIMPLE's a second one."""

    def of(name: str) -> Provider:
        log_partition, supports = _LOG_PARTITIONS[name]

        def run(case: Case, inputs: Inputs) -> Tensor:
            log_z = log_partition(inputs.logits, case.k).sum()
            (mu,) = torch.autograd.grad(log_z, inputs.logits, create_graph=backward)
            return _grad(mu, inputs) if backward else mu

        return Provider(name, "vjp" if backward else "marginals", run, supports)

    return tuple(of(name) for name in _LOG_PARTITIONS)


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
        *_by_autograd(backward=False),
        _SOFTMAX_FORWARD,
        Provider(TOPK, "topk", _topk),
        Provider(COPY, "copy", _copy),
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
        *_by_autograd(backward=True),
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
        Provider(RELAXED, "relaxed_vjp", _relaxed_grad, _dp_fits),
        _SOFTMAX_GRAD,
    ),
}


def providers_of(case: Case) -> list[Provider]:
    """Those that can serve the case, this library first."""
    return [provider for provider in PROVIDERS[case.op] if provider.supports(case)]
