# SPDX-License-Identifier: Apache-2.0
"""A linear layer with a learnable N:M mask."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from discrete_grad import checks, subset
from discrete_grad.estimators.simple import simple


class NMSparseLinear(nn.Module):
    """A linear layer that keeps n of every m weights along the input dimension.

    Each group of m weights has m logits, and its mask is a draw of the k-subset law (k = n of m) of
    logits / temperature, with SIMPLE's gradient: one mask per forward pass in training. In
    evaluation the mask is the mode; after ``harden`` it is fixed in training too.

    As the temperature falls the draws settle on the mode (``TemperatureSchedule``).

    Args:
        in_features, out_features: as in ``nn.Linear``; in_features a multiple of m.
        n: weights kept of each group, from 1 to m - 1.
        m: size of the groups.
        bias: as in ``nn.Linear``.
        strength: of the initial logits, strength * |w| / (mean of |w| over the layer), >= 0: the
            mode starts as the mask of the largest magnitudes; 0 starts from all masks alike.
        temperature: of the law, > 0; a buffer.

    Attributes:
        weight: [out_features, in_features], dense.
        mask_logits: [out_features, in_features / m, m].
        hardened: whether the mask is fixed.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Sources:
        Learning N:M masks with frozen weights, by a Gumbel-softmax over all masks of a group: Fang
        et al., "MaskLLM", NeurIPS 2024, arXiv:2409.17481. The gradient: Ahmed, Zeng, Niepert, Van
        den Broeck, "SIMPLE", ICLR 2023, arXiv:2210.01941.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    temperature: Tensor
    mask: Tensor
    initial_mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        n: int = 2,
        m: int = 4,
        *,
        bias: bool = True,
        strength: float = 4.0,
        temperature: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_pattern(n, m)
        if checks.at_least_one("in_features", in_features) % m:
            raise ValueError(f"in_features must be a multiple of m = {m}, got {in_features}")
        self.in_features, self.out_features, self.n, self.m = in_features, out_features, n, m
        self.strength = checks.finite("strength", strength, least=0)
        start = torch.tensor(checks.positive("temperature", temperature), device=device)
        groups = (out_features, in_features // m, m)
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device=device, dtype=dtype)
        )
        empty = torch.zeros(out_features, device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(empty) if bias else None)
        self.mask_logits = nn.Parameter(torch.zeros(groups, device=device, dtype=dtype))
        self.register_buffer("temperature", start)
        self.register_buffer("mask", torch.zeros(groups, device=device, dtype=torch.bool))
        self.register_buffer("initial_mask", torch.zeros_like(self.mask))
        self.hardened = False
        self.reset_parameters()

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        n: int = 2,
        m: int = 4,
        *,
        strength: float = 4.0,
        temperature: float = 1.0,
    ) -> NMSparseLinear:
        """The same layer, with the same parameter objects, under a mask."""
        checks.instance("linear", linear, nn.Linear)
        layer = cls(
            linear.in_features,
            linear.out_features,
            n,
            m,
            bias=False,
            strength=strength,
            temperature=temperature,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        for name in ("weight", "bias"):
            setattr(layer, name, getattr(linear, name))
        layer.reset_mask()
        return layer.train(linear.training)

    def reset_parameters(self) -> None:
        """Draws weight and bias as ``nn.Linear`` does, and starts the mask from them."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound)
        self.reset_mask()

    @torch.no_grad()
    def reset_mask(self) -> None:
        """Starts the mask from the magnitudes of the weights."""
        size = self.weight.abs()
        size = (size / size.mean().clamp_min(torch.finfo(size.dtype).tiny)).view_as(self.mask)
        self.mask_logits.copy_(self.strength * size)
        # Not of the logits: at strength 0 they would not know the magnitudes.
        self.initial_mask.copy_(subset.mode(size, self.n))
        self.mask.copy_(self.initial_mask)
        self.hardened = False

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.masked_weight(), self.bias)

    def masked_weight(self) -> Tensor:
        """weight * mask, [out_features, in_features]: with a new draw of the mask in training."""
        if self.hardened:
            groups = self.mask.to(self.weight.dtype)
        elif self.training:
            groups = simple(self.mask_logits / self.temperature, self.n)
        else:
            groups = subset.mode(self.mask_logits, self.n)
        return self.weight * groups.reshape(self.weight.shape)

    @torch.no_grad()
    def current_mask(self) -> Tensor:
        """The fixed mask, or the mode as it stands: bool, [out_features, in_features / m, m]."""
        return self.mask if self.hardened else subset.mode(self.mask_logits, self.n) > 0

    def harden(self) -> None:
        """Fixes the mask to the mode, in training too; ``mask_logits`` then have no gradient."""
        self.mask.copy_(self.current_mask())
        self.hardened = True

    def flipped_groups(self) -> Tensor:
        """How many groups have another mask than that of the magnitudes at the start: int64 []."""
        return (self.current_mask() != self.initial_mask).any(-1).sum()

    def regularizer(self) -> Tensor:
        """The share of the weights' squares that the mask takes away in expectation, [], in [0, 1].

        sum_i (1 - mu_i) w_i^2 / sum_i w_i^2, differentiable in ``mask_logits`` (not in the
        weights): added to the loss it favours masks that keep large weights.
        """
        squares = self.weight.detach().square().view_as(self.mask)
        kept = subset.marginals(self.mask_logits / self.temperature, self.n)
        return ((1 - kept) * squares).sum() / squares.sum()

    def to_linear(self) -> nn.Linear:
        """An ``nn.Linear`` of its own with the current mask's zeros in its weight."""
        linear = nn.Linear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        with torch.no_grad():
            keep = self.current_mask().view_as(self.weight)
            linear.weight.copy_(self.weight.masked_fill(~keep, 0.0))
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear.train(self.training)

    def get_extra_state(self) -> Tensor:
        """Whether the mask is fixed, for ``state_dict``."""
        return torch.tensor(self.hardened)

    def set_extra_state(self, state: Any) -> None:
        self.hardened = bool(state)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, n={self.n}, "
            f"m={self.m}, bias={self.bias is not None}, hardened={self.hardened}"
        )


def check_pattern(n: int, m: int) -> None:
    """n must be an int from 1 to m - 1."""
    checks.at_least_one("m", m)
    if not 1 <= checks.count("n", n) < m:
        raise ValueError(f"n must be from 1 to m - 1 = {m - 1}, got {n}")
