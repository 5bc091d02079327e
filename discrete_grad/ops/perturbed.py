# SPDX-License-Identifier: Apache-2.0
"""Perturb-and-MAP for the k largest: the noise, the selection, the difference of two selections.

The noise of a row depends on the seed, the sample and the row alone, so nothing of it is kept: the
difference makes the noise of the forward pass again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_grad import backends, reference
from discrete_grad.ops import routing, sharding
from discrete_grad.ops.randomness import vmap_draws


def noise(rows: int, n: int, quantiles: Tensor | None, seed: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, n] of the standard law, in float64 or float32, on the device of ``seed``.

    ``quantiles`` is the law's table (``discrete_grad.quantiles``), None for Gumbel noise.
    """
    if backends.select(seed.device.type) == "reference":
        return reference.perturbation_noise(rows, n, quantiles, seed, dtype)
    drawn: Tensor = torch.ops.discrete_grad.perturbation_noise.default(
        rows, n, quantiles, seed, dtype
    )
    return drawn


def perturbed_topk(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    """k-hot [num_samples, ..., n] of the k largest logits + temperature * noise; no gradient."""
    if backends.select(logits.device.type) == "reference":
        return routing.call_reference(
            reference.perturbed_topk, logits.detach(), k, num_samples, quantiles, temperature, seed
        )
    bound, row_k = routing.row_counts(logits, k)
    quantiles, seed = sharding.placed(logits, quantiles), sharding.placed_seed(logits, seed)
    hot: Tensor = torch.ops.discrete_grad.perturbed_topk.default(
        logits.detach(), bound, row_k, num_samples, quantiles, temperature, seed
    )
    return hot


def perturbed_topk_indices(
    logits: Tensor,
    k: int,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    """The indices of the same samples, ascending, int64 [num_samples, ..., k]; -1: invalid row."""
    if backends.select(logits.device.type) == "reference":
        return reference.perturbed_topk_indices(
            logits.detach(), k, num_samples, quantiles, temperature, seed
        )
    sharding.prepare(logits)
    quantiles, seed = sharding.placed(logits, quantiles), sharding.placed_seed(logits, seed)
    indices: Tensor = torch.ops.discrete_grad.perturbed_topk_indices.default(
        logits.detach(), k, num_samples, quantiles, temperature, seed
    )
    return indices


def topk_difference(
    logits: Tensor,
    grad: Tensor,
    k: int | Tensor,
    quantiles: Tensor | None,
    step: Tensor,
    left_alpha: float,
    left_temperature: float,
    right_alpha: float,
    right_temperature: float,
    symmetric: bool,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """The mean over the samples of z_L - z_R [..., n], and how many entries differ in all [...].

    With the noise eps of the forward pass, g = ``grad`` [num_samples, ..., n] and lambda = ``step``
    ([] or [...]), z_L is the selection at left_alpha theta (+ lambda g if ``symmetric``, which also
    halves the mean) + left_temperature eps, z_R the one at right_alpha theta - lambda g +
    right_temperature eps. Floats: float64 for float64 logits, else float32.
    """
    settings = (
        step,
        left_alpha,
        left_temperature,
        right_alpha,
        right_temperature,
        symmetric,
        seed,
    )
    if backends.select(logits.device.type) == "reference":
        return reference.topk_difference(logits, grad, k, quantiles, *settings)
    bound, row_k = routing.row_counts(logits, k)
    difference, nonzeros = torch.ops.discrete_grad.perturbed_topk_difference.default(
        logits, grad, bound, row_k, quantiles, *settings
    )
    return difference, nonzeros


@torch.library.register_fake("discrete_grad::perturbation_noise")
def _(rows: int, n: int, quantiles: Tensor | None, seed: Tensor, dtype: torch.dtype) -> Tensor:
    return seed.new_empty([rows, n], dtype=dtype)


@torch.library.register_fake("discrete_grad::perturbed_topk")
def _(
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape])


@torch.library.register_fake("discrete_grad::perturbed_topk_indices")
def _(
    logits: Tensor,
    k: int,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Tensor:
    return logits.new_empty([num_samples, *logits.shape[:-1], k], dtype=torch.int64)


@torch.library.register_fake("discrete_grad::perturbed_topk_difference")
def _(logits: Tensor, grad: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    dtype = routing.compute_dtype(logits.dtype)
    return (
        logits.new_empty(logits.shape, dtype=dtype),
        logits.new_empty(logits.shape[:-1], dtype=torch.int64),
    )


@torch.library.register_vmap("discrete_grad::perturbation_noise")
def _(
    info: Any,
    in_dims: Any,
    rows: int,
    n: int,
    quantiles: Tensor | None,
    seed: Tensor,
    dtype: torch.dtype,
) -> Any:
    op = torch.ops.discrete_grad.perturbation_noise.default
    seeds = seed.movedim(in_dims[3], 0)
    return torch.stack([op(rows, n, quantiles, each, dtype) for each in seeds]), 0


@torch.library.register_vmap("discrete_grad::perturbed_topk")
def _(
    info: Any,
    in_dims: Any,
    logits: Tensor,
    k: int,
    row_k: Tensor | None,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Any:
    op = torch.ops.discrete_grad.perturbed_topk.default
    drawn = (seed, in_dims[6])
    if temperature == 0 and drawn[1] is None:
        drawn = (seed.unsqueeze(0), 0)  # without noise the slices need not be told apart
    return vmap_draws(
        lambda rows, counts, one: op(rows, k, counts, num_samples, quantiles, temperature, one),
        info.batch_size,
        (logits, in_dims[0]),
        (row_k, in_dims[2]),
        drawn,
    )


@torch.library.register_vmap("discrete_grad::perturbed_topk_indices")
def _(
    info: Any,
    in_dims: Any,
    logits: Tensor,
    k: int,
    num_samples: int,
    quantiles: Tensor | None,
    temperature: float,
    seed: Tensor,
) -> Any:
    op = torch.ops.discrete_grad.perturbed_topk_indices.default
    return vmap_draws(
        lambda rows, _, one: op(rows, k, num_samples, quantiles, temperature, one),
        info.batch_size,
        (logits, in_dims[0]),
        (None, None),
        (seed, in_dims[5]),
    )


@torch.library.register_vmap("discrete_grad::perturbed_topk_difference")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    # Slice by slice: only so does each make again the noise of the forward pass, whose row indices
    # know nothing of the mapped dimension (a batch of gradients of one forward pass).
    op = torch.ops.discrete_grad.perturbed_topk_difference.default
    slices = [
        op(
            *(
                arg if dim is None else arg.select(dim, b)
                for arg, dim in zip(args, in_dims, strict=True)
            )
        )
        for b in range(info.batch_size)
    ]
    differences, nonzeros = zip(*slices, strict=True)
    return (torch.stack(differences), torch.stack(nonzeros)), (0, 0)


for _device in ("cpu", "cuda"):
    torch.library.register_autocast("discrete_grad::perturbed_topk", _device, torch.float32)
