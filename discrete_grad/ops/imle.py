# SPDX-License-Identifier: Apache-2.0
"""I-MLE and AIMLE for the k largest: perturb-and-MAP forward, a difference of selections backward.

Both passes make the noise from the seed; kept between them are the logits and the seed. AIMLE's
state is changed in place by the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from discrete_grad.ops import routing, sharding
from discrete_grad.ops.imle_reference import by_reference
from discrete_grad.ops.imle_rule import AdaptiveStep, FixedStep, topk_gradient
from discrete_grad.ops.randomness import vmap_draws
from discrete_grad.ops.step_size import Rule, State


def imle_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int,
    quantiles: Tensor | None,
    seed: Tensor,
    settings: FixedStep,
) -> Tensor:
    """k-hot [num_samples, ..., n] of ``perturbed_topk``, with the gradient of I-MLE."""
    if routing.to_reference(logits):
        return by_reference(logits, k, num_samples, quantiles, seed, settings)
    bound, row_k = routing.row_counts(logits, k)
    quantiles, seed = sharding.placed(logits, quantiles), sharding.placed_seed(logits, seed)
    hot: Tensor = torch.ops.discrete_grad.imle_topk.default(
        logits, bound, row_k, num_samples, quantiles, *settings, seed
    )
    return hot


def aimle_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int,
    quantiles: Tensor | None,
    seed: Tensor,
    settings: AdaptiveStep,
) -> Tensor:
    """The same with the step size of ``settings.state``, which each backward pass adapts.

    The ranks of DTensor logits share the state.
    """
    if sharding.is_dtensor(logits):
        local = sharding.local_seed(logits, seed)
        return sharding.draws_of_parts(
            lambda rows, counts, group: aimle_topk(
                rows, counts, num_samples, quantiles, local, settings._replace(group=group)
            ),
            logits,
            k,
            settings.group,
        )
    if routing.to_reference(logits):
        return by_reference(logits, k, num_samples, quantiles, seed, settings)
    bound, row_k = routing.row_counts(logits, k)
    hot: Tensor = torch.ops.discrete_grad.aimle_topk.default(
        logits,
        bound,
        row_k,
        num_samples,
        quantiles,
        *settings[:4],
        seed,
        *settings.state,
        *settings.rule,
        *settings[6:],
    )
    return hot


# The dispatcher's arguments, in the schemas' order: logits, k, row_k, num_samples, quantiles, then
# imle_topk's seven settings and the seed, or aimle_topk's four, the seed, state, rule and switches.
def _imle_settings(args: Sequence[Any]) -> tuple[FixedStep, Tensor]:
    return FixedStep(*args[5:12]), args[12]


def _aimle_settings(args: Sequence[Any]) -> tuple[AdaptiveStep, Tensor]:
    temperature, target_temperature, alpha, symmetric, seed = args[5:10]
    state, rule = State(*args[10:13]), Rule(*args[13:17])
    adapt, per_example, published_scale, group = args[17:]
    settings = AdaptiveStep(
        temperature,
        target_temperature,
        alpha,
        symmetric,
        state,
        rule,
        adapt,
        per_example,
        published_scale,
        group,
    )
    return settings, seed


def _register(name: str, split: Callable[[Sequence[Any]], tuple[Any, Tensor]]) -> None:
    """The op ``name``, for every device: its parts are ops."""
    qualified = f"discrete_grad::{name}"
    op = getattr(torch.ops.discrete_grad, name).default

    def forward(*args: Any) -> Tensor:
        settings, seed = split(args)
        hot: Tensor = torch.ops.discrete_grad.perturbed_topk.default(
            *args[:5], settings.temperature, seed
        )
        return hot

    def fake(*args: Any) -> Tensor:
        logits, num_samples = args[0], args[3]
        empty: Tensor = logits.new_empty([num_samples, *logits.shape])
        return empty

    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        logits, ctx.k, row_k, _, quantiles = inputs[:5]
        # The state stays out of save_for_backward: a second forward pass before this one's backward
        # pass would make the first backward pass fail, its saved state having been changed.
        ctx.settings, seed = split(inputs)
        ctx.inputs = len(inputs)
        ctx.save_for_backward(logits, row_k, quantiles, seed)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, row_k, quantiles, seed = ctx.saved_tensors

        def difference(grad: Tensor, *sides: Any) -> tuple[Tensor, Tensor]:
            mean, nonzeros = torch.ops.discrete_grad.perturbed_topk_difference.default(
                logits, grad, ctx.k, row_k, quantiles, *sides, seed
            )
            return mean, nonzeros

        gradient = topk_gradient(logits, grad, ctx.settings, difference)
        return (gradient, *[None] * (ctx.inputs - 1))

    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        at = next(index for index, arg in enumerate(args) if arg is split(args)[1])

        def call(rows: Tensor, counts: Tensor | None, seed: Tensor) -> Tensor:
            hot: Tensor = op(rows, args[1], counts, *args[3:at], seed, *args[at + 1 :])
            return hot

        mapped = [(args[index], in_dims[index]) for index in (0, 2, at)]
        return vmap_draws(call, info.batch_size, *mapped)

    torch.library.impl(qualified, "CompositeExplicitAutograd", forward)
    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context)
    torch.library.register_vmap(qualified, vmap)
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(qualified, device, torch.float32)


_register("imle_topk", _imle_settings)
_register("aimle_topk", _aimle_settings)
