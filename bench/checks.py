# SPDX-License-Identifier: Apache-2.0
"""A provider is held to the float64 reference before it is timed: no time of a wrong result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import relaxed
import torch
from cases import Case, Inputs, make_inputs
from providers import BASELINES, DFT, RELAXED, Provider
from torch import Tensor

from discrete_grad import reference
from discrete_grad.estimators.gumbel_softmax import relaxed_topk

# The library's promise: absolute, whatever the shape. The dynamic programme loses digits over its
# n steps, and a baseline is not refused for that: its error is reported, and only another quantity
# than the one asked for is refused.
_PROMISED = {torch.float32: 1e-6, torch.float64: 1e-13}
SAME_QUANTITY = {torch.float32: 1e-3, torch.float64: 1e-10}
# What is promised of method="recursion", whose strength is the relative accuracy of the smallest.
_PROMISED_RECURSION = {torch.float32: 1e-5, torch.float64: 1e-13}
# 1 - a of an item that a round of the relaxed subset all but takes has few digits left.
_RELAXED = {torch.float32: 1e-2, torch.float64: 1e-8}
_ALLOWED = {
    "recursion": _PROMISED_RECURSION,
    RELAXED: _RELAXED,
    **dict.fromkeys(BASELINES, SAME_QUANTITY),
}
# Published, and rounding alone where k is far from sum sigmoid(theta): its error is what there is
# to report of it, so it is timed all the same, and never counted as the fastest that is right.
_ANY_ERROR = {DFT}

# Numbers drawn to check a sampler, and how many draws of a row that makes at least and at most.
_DRAWN = 2**24
_LEAST_DRAWS, _MOST_DRAWS = 16, 256
_SAMPLER_DEVIATIONS = 5.0


class WrongResult(AssertionError):
    """A provider does not compute what it is timed for."""


@dataclass(frozen=True)
class Targets:
    """What the providers of a case must give, in float64; each computed when first asked for."""

    case: Case
    inputs: Inputs

    @cached_property
    def marginals(self) -> Tensor:
        return reference.marginals(self.inputs.logits.detach().double(), self.case.k)[0]

    @cached_property
    def vjp(self) -> Tensor:
        """Draws add up in a gradient: all of them have the same upstream gradient here."""
        grad = self.inputs.grad.double()
        product = reference.vjp(self.inputs.logits.detach().double(), self.case.k, grad)
        return product * self.case.samples

    @cached_property
    def softmax(self) -> Tensor:
        return torch.softmax(self.inputs.logits.detach().double(), -1)

    @cached_property
    def softmax_vjp(self) -> Tensor:
        grad = self.inputs.grad.double()
        return self.softmax * (grad - (self.softmax * grad).sum(-1, keepdim=True))

    @cached_property
    def topk(self) -> Tensor:
        return self.copy.sort(dim=-1, descending=True).values[:, : self.case.k]

    @cached_property
    def copy(self) -> Tensor:
        return self.inputs.logits.detach().double()

    @cached_property
    def relaxed_vjp(self) -> Tensor:
        """Of the library's relaxed subset, on the baseline's noise."""
        noise = relaxed.gumbel(self.inputs.logits.detach(), self.case.n)
        leaf = self.copy.clone().requires_grad_()
        soft = relaxed_topk(leaf + noise.double(), self.case.k, relaxed.TEMPERATURE)
        return torch.autograd.grad(soft, leaf, self.inputs.grad.double())[0]


def check(provider: Provider, targets: Targets) -> float:
    """The provider's error: largest absolute deviation, or for a sampler its distance in law.

    Raises:
        WrongResult: the error is above what is allowed, or the shape or dtype is another.
    """
    case = targets.case
    if provider.quantity == "sample":
        return _check_sampler(provider, targets)
    result = provider.run(case, targets.inputs)
    target = getattr(targets, provider.quantity)
    _require_like(provider, case, result, target.shape)
    error = float((result.double() - target).abs().max())
    plain = provider.name.removesuffix(", compiled")
    allowed = _ALLOWED.get(plain, _PROMISED)[case.dtype]
    if plain not in _ANY_ERROR and not error <= allowed:
        raise WrongResult(f"{provider.name}, {case.id}: error {error:.2e}, allowed {allowed:.0e}")
    return error


def _require_like(provider: Provider, case: Case, result: Tensor, shape: torch.Size) -> None:
    if result.shape != shape or result.dtype != case.dtype:
        raise WrongResult(
            f"{provider.name}, {case.id}: {result.dtype} {tuple(result.shape)}, "
            f"expected {case.dtype} {tuple(shape)}"
        )


def _check_sampler(provider: Provider, targets: Targets) -> float:
    """k ones in each draw, and a direction h in which mean and variance of <z, h> are exact.

    h = logits + upstream gradient: the logits' part sees draws of a law that is too sharp or too
    flat (Gumbel top-k's, for one), the random part draws that favour some items. The squared
    z-scores of the rows' mean <z, h> add up to a chi-square of ``rows`` degrees of freedom;
    returned is its distance from its mean in standard deviations (Wilson and Hilferty's normal
    form).
    """
    case, inputs = targets.case, targets.inputs
    draws = max(_LEAST_DRAWS, min(_MOST_DRAWS, _DRAWN // (case.rows * case.n)))
    torch.manual_seed(0)
    hot = provider.run(replace(case, samples=draws), inputs)
    _require_like(provider, case, hot, torch.Size((draws, case.rows, case.n)))
    if not bool(((hot == 0) | (hot == 1)).all()) or not bool((hot.sum(-1) == case.k).all()):
        raise WrongResult(f"{provider.name}, {case.id}: a draw is no {case.k}-hot vector")

    logits = inputs.logits.detach().double()
    h = logits + inputs.grad.double()
    variance = (h * reference.vjp(logits, case.k, h)).sum(-1) / draws
    shift = (hot.double().mean(0) - targets.marginals).mul(h).sum(-1)
    mean_square = float((shift.square() / variance).mean())
    spread = 2 / (9 * case.rows)
    deviations = abs(math.pow(mean_square, 1 / 3) - (1 - spread)) / math.sqrt(spread)
    if not deviations <= _SAMPLER_DEVIATIONS:
        raise WrongResult(
            f"{provider.name}, {case.id}: the draws are {deviations:.1f} standard deviations from "
            f"the k-subset law, allowed {_SAMPLER_DEVIATIONS:.0f}"
        )
    return deviations


def targets_of(case: Case) -> Targets:
    return Targets(case, make_inputs(case))
