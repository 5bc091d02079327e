# SPDX-License-Identifier: Apache-2.0
"""N:M masks for every linear layer of a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from discrete_grad import checks
from discrete_grad.nn.nm_linear import NMSparseLinear, check_pattern


def sparsify_(
    model: nn.Module,
    n: int = 2,
    m: int = 4,
    *,
    include: Callable[[str, nn.Linear], bool] | None = None,
    strength: float = 4.0,
    temperature: float = 1.0,
    freeze_weights: bool = False,
) -> dict[str, NMSparseLinear]:
    """Puts every ``nn.Linear`` of ``model`` under a learnable n:m mask, in place.

    The layers keep their parameter objects, so optimizers and tied weights stay as they are; the
    masks' logits are new parameters. A layer that appears twice gets one mask.

    Args:
        model: a module that contains the linear layers (not a linear layer itself).
        n, m, strength, temperature: as in ``NMSparseLinear``.
        include: takes the name and the layer; False leaves it dense. None takes all.
        freeze_weights: leave only the masks' logits trainable in the layers that are replaced.

    Returns:
        The new layers by name.

    Raises:
        ValueError: a layer's in_features is no multiple of m, or nothing was replaced.
        TypeError: a bad argument, named in the message.
    """
    checks.instance("model", model, nn.Module)
    check_pattern(n, m)
    found = {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if type(layer) is nn.Linear and name and (include is None or include(name, layer))
    }
    if not found:
        raise ValueError("model must contain an nn.Linear that include accepts, got none")
    for name, layer in found.items():
        if layer.in_features % m:
            raise ValueError(
                f"in_features of {name!r} must be a multiple of m = {m}, got {layer.in_features}: "
                "leave it dense by include="
            )
    masked = {
        layer: NMSparseLinear.from_linear(layer, n, m, strength=strength, temperature=temperature)
        for layer in set(found.values())
    }
    if freeze_weights:
        for sparse in masked.values():
            sparse.weight.requires_grad_(False)
            if sparse.bias is not None:
                sparse.bias.requires_grad_(False)
    for name, layer in found.items():
        _replace(model, name, masked[layer])
    return {name: masked[layer] for name, layer in found.items()}


def bake_masks_(model: nn.Module) -> None:
    """Replaces every ``NMSparseLinear`` by a plain ``nn.Linear`` with zeros in its weight."""
    found = {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, NMSparseLinear) and name
    }
    plain = {layer: layer.to_linear() for layer in set(found.values())}
    for name, layer in found.items():
        _replace(model, name, plain[layer])


def harden_masks_(model: nn.Module) -> None:
    """Fixes every mask of the model to its mode."""
    for layer in _layers(model):
        layer.harden()


def flipped_groups(model: nn.Module) -> Tensor:
    """How many groups of the model have another mask than at the start: int64 []."""
    return torch.stack([layer.flipped_groups() for layer in _layers(model)]).sum()


def mask_regularizer(model: nn.Module) -> Tensor:
    """The mean of the layers' ``regularizer``, []."""
    return torch.stack([layer.regularizer() for layer in _layers(model)]).mean()


def _layers(model: nn.Module) -> list[NMSparseLinear]:
    found = [layer for layer in model.modules() if isinstance(layer, NMSparseLinear)]
    if not found:
        raise ValueError("model must contain an NMSparseLinear, got none: call sparsify_ first")
    return found


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)
