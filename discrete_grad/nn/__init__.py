# SPDX-License-Identifier: Apache-2.0
"""Modules that choose k of n: a layer, a router of experts, N:M masks, tokens, sparse codes.

Each draws exact k-subsets (or takes the most probable one, as in evaluation), keeps its
state in ``state_dict``, reads no value on the host, and is one graph for ``torch.compile``.
Randomness comes from PyTorch's default generator of the device (or from ``generator=``, which
``torch.compile`` does not take), so activation checkpointing draws the same subsets again.
"""

from discrete_grad.nn.nm_linear import NMSparseLinear
from discrete_grad.nn.nm_model import (
    bake_masks_,
    flipped_groups,
    harden_masks_,
    mask_regularizer,
    sparsify_,
)
from discrete_grad.nn.router import RouterStatistics, Routing, SubsetRouter
from discrete_grad.nn.schedule import TemperatureSchedule
from discrete_grad.nn.sparse_autoencoder import SparseCode, SubsetSAE
from discrete_grad.nn.subset_layer import SubsetIndices, SubsetLayer
from discrete_grad.nn.token_selector import SelectedTokens, TokenSelector

__all__ = [
    "NMSparseLinear",
    "RouterStatistics",
    "Routing",
    "SelectedTokens",
    "SparseCode",
    "SubsetIndices",
    "SubsetLayer",
    "SubsetRouter",
    "SubsetSAE",
    "TemperatureSchedule",
    "TokenSelector",
    "bake_masks_",
    "flipped_groups",
    "harden_masks_",
    "mask_regularizer",
    "sparsify_",
]
