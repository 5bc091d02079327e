# SPDX-License-Identifier: Apache-2.0
"""I-MLE and AIMLE for the k largest by the reference: plain functions under torch's transforms."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from discrete_grad import reference
from discrete_grad.ops import routing
from discrete_grad.ops.imle_rule import (
    AdaptiveStep,
    FixedStep,
    refuse_second_derivative,
    topk_gradient,
)
from discrete_grad.ops.randomness import vmap_draws


def by_reference(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int,
    quantiles: Tensor | None,
    seed: Tensor,
    settings: FixedStep | AdaptiveStep,
) -> Tensor:
    rule = _ReferenceTopk if routing.transformed() else _MappedReferenceTopk
    if isinstance(k, Tensor):
        k = k.expand(logits.shape[:-1])
    hot: Tensor = routing.call_reference(
        rule.apply, logits, k, num_samples, quantiles, seed, settings
    )
    return hot


class _ReferenceTopk(torch.autograd.Function):
    """The ops' autograd rule over the reference's functions; torch.func differentiates it too."""

    # Each slice draws from its own seed, in both passes.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        k: int | Tensor,
        num_samples: int,
        quantiles: Tensor | None,
        seed: Tensor,
        settings: FixedStep | AdaptiveStep,
    ) -> Tensor:
        return reference.perturbed_topk(
            logits, k, num_samples, quantiles, settings.temperature, seed
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        logits, k, _, quantiles, seed, ctx.settings = inputs
        per_row = isinstance(k, Tensor)
        ctx.k = None if per_row else k
        ctx.save_for_backward(logits, k if per_row else None, quantiles, seed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        logits, row_k, quantiles, seed = ctx.saved_tensors
        k = ctx.k if row_k is None else row_k
        gradient = _ReferenceGradient.apply(  # type: ignore[no-untyped-call]
            logits, grad, k, quantiles, seed, ctx.settings
        )
        return gradient, None, None, None, None, None


class _MappedReferenceTopk(_ReferenceTopk):
    """Where vmap is the only transform: one call for all slices, as the ops have it, so that the
    backward pass is one too and can adapt the state.
    """

    generate_vmap_rule = False

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        logits, k, num_samples, quantiles, seed, settings = args

        def call(rows: Tensor, counts: Tensor | None, seed: Tensor) -> Tensor:
            sizes = k if counts is None else counts
            hot: Tensor = _MappedReferenceTopk.apply(  # type: ignore[no-untyped-call]
                rows, sizes, num_samples, quantiles, seed, settings
            )
            return hot

        row_k = (k, in_dims[1]) if isinstance(k, Tensor) else (None, None)
        return vmap_draws(call, info.batch_size, (logits, in_dims[0]), row_k, (seed, in_dims[4]))


class _ReferenceGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        grad: Tensor,
        k: int | Tensor,
        quantiles: Tensor | None,
        seed: Tensor,
        settings: FixedStep | AdaptiveStep,
    ) -> Tensor:
        def difference(
            grad: Tensor,
            step: Tensor,
            left_alpha: float,
            left_temperature: float,
            right_alpha: float,
            right_temperature: float,
            symmetric: bool,
        ) -> tuple[Tensor, Tensor]:
            return reference.topk_difference(
                logits,
                grad,
                k,
                quantiles,
                step,
                left_alpha,
                left_temperature,
                right_alpha,
                right_temperature,
                symmetric,
                seed,
            )

        return topk_gradient(logits, grad, settings, difference)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> NoReturn:
        refuse_second_derivative()
