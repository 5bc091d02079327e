# SPDX-License-Identifier: Apache-2.0
"""Sparse autoencoder: k of many latents, as values and indices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from discrete_grad import checks
from discrete_grad.nn import choice


class SparseCode(NamedTuple):
    """k active latents of every input."""

    values: Tensor  # [..., k], >= 0
    indices: Tensor  # int64 [..., k], ascending


class SubsetSAE(nn.Module):
    """Codes x [..., d_model] by k of many latents: x^ = b + sum_{i in S} relu(a_i) W_i.

    a = E (x - b) + c are the activations, W_i the i-th row of the decoder. S is drawn by the
    k-subset law of a / temperature in training, so latents that would lose every top-k are tried,
    at a rate that falls with the temperature (``TemperatureSchedule``); ``selection="mode"`` is the
    TopK autoencoder of Gao et al. The values of a draw carry the gradient of log mu_i as well.

    The code is values and indices: no mask and no dense code is made; the decoder gathers k rows.

    Args:
        d_model: size of the inputs.
        num_latents: n.
        k: latents per input.
        temperature: of the law, > 0; a buffer.
        selection: in training, "sample", or "mode" for the k largest activations.
        evaluation: the same in evaluation.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Gao et al., "Scaling and evaluating sparse autoencoders", arXiv:2406.04093, section 2.3
        (k largest activations; the encoder starts as the decoder's transpose).
    """

    temperature: Tensor

    def __init__(
        self,
        d_model: int,
        num_latents: int,
        k: int,
        *,
        temperature: float = 0.1,
        selection: str = "sample",
        evaluation: str = "mode",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = checks.at_least_one("d_model", d_model)
        self.num_latents = checks.at_least_one("num_latents", num_latents)
        self.k = checks.at_least_one("k", k)
        if self.k > self.num_latents:
            raise ValueError(f"k must be at most num_latents = {self.num_latents}, got {self.k}")
        checks.one_of("selection", selection, choice.SELECTIONS)
        checks.one_of("evaluation", evaluation, choice.SELECTIONS)
        self.selection, self.evaluation = selection, evaluation
        start = torch.tensor(checks.positive("temperature", temperature), device=device)
        self.register_buffer("temperature", start)
        rows = torch.randn(num_latents, d_model, device=device, dtype=dtype)
        self.decoder = nn.Parameter(functional.normalize(rows, dim=-1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.latent_bias = nn.Parameter(torch.zeros(num_latents, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d_model, device=device, dtype=dtype))

    def forward(
        self, x: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, SparseCode]:
        """The reconstruction of ``x``, of its shape, and its code."""
        code = self.encode(x, generator=generator)
        return self.decode(code), code

    def encode(self, x: Tensor, *, generator: torch.Generator | None = None) -> SparseCode:
        """The code of ``x`` [..., d_model]."""
        activations = functional.linear(x - self.bias, self.encoder, self.latent_bias)
        sampled = (self.selection if self.training else self.evaluation) == "sample"
        logits = activations / self.temperature if sampled else activations
        chosen = choice.choose(logits, self.k, sampled=sampled, generator=generator)
        values = choice.at(activations, chosen.indices).relu() * chosen.gates
        return SparseCode(values.to(activations.dtype), chosen.indices)

    def decode(self, code: SparseCode) -> Tensor:
        """The reconstruction [..., d_model] of a code."""
        values, indices = code
        total = functional.embedding_bag(
            indices.reshape(-1, indices.size(-1)),
            self.decoder,
            mode="sum",
            per_sample_weights=values.reshape(-1, values.size(-1)).to(self.decoder.dtype),
        )
        return total.reshape(*indices.shape[:-1], self.d_model) + self.bias

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Brings the decoder's rows to length 1 (after an optimizer's step)."""
        self.decoder.copy_(functional.normalize(self.decoder, dim=-1))

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, num_latents={self.num_latents}, k={self.k}, "
            f"selection={self.selection!r}, evaluation={self.evaluation!r}"
        )
