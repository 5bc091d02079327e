# SPDX-License-Identifier: Apache-2.0
"""Keeps k of n tokens, in their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from discrete_grad import checks
from discrete_grad.nn import choice


class SelectedTokens(NamedTuple):
    """What is left of the tokens."""

    tokens: Tensor  # [..., k, d]
    indices: Tensor  # int64 [..., k], ascending: which tokens they were
    gates: Tensor  # [..., k]: ones (the tokens are multiplied by them already)


class TokenSelector(nn.Module):
    """Keeps k of n tokens [..., n, d], chosen by their scores: [..., k, d], in the order they had.

    The scores are the logits of the k-subset law: exact draws in training, the k best in
    evaluation. The tokens are gathered, never masked, so what follows costs k tokens. Each is
    multiplied by a gate of value 1 whose gradient is that of log mu_i: a loss linear in the kept
    tokens gives the scores of *all* tokens its exact gradient, in expectation over the draws.

    Args:
        k: number of tokens to keep.
        scorer: a module that takes the tokens [..., n, d] to scores [..., n] or [..., n, 1], such
            as ``nn.Linear(d, 1)``; None: the scores are given to ``forward``.
        evaluation: "mode", or "sample" for draws in evaluation too.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """

    def __init__(
        self, k: int, scorer: nn.Module | None = None, *, evaluation: str = "mode"
    ) -> None:
        super().__init__()
        self.k = checks.at_least_one("k", k)
        if scorer is not None:
            checks.instance("scorer", scorer, nn.Module)
        checks.one_of("evaluation", evaluation, choice.SELECTIONS)
        self.scorer = scorer
        self.evaluation = evaluation

    def forward(
        self,
        tokens: Tensor,
        scores: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> SelectedTokens:
        """Keeps k of ``tokens`` [..., n, d].

        Args:
            scores: [..., n], where the module has no scorer.
            mask: bool, broadcasts to [..., n]: False for tokens (padding) that are never kept. A
                row with fewer than k others gives NaN.
            generator: source of the randomness; None is torch's default one.

        Raises:
            ValueError, TypeError: a bad argument, named in the message; scores with a scorer, or
                neither of them.
        """
        logits = self._scores(tokens, scores)
        if mask is not None:
            logits = logits.masked_fill(~choice.bool_mask(mask, logits.shape), -torch.inf)
        k = checks.single_count(self.k, logits, "TokenSelector")
        sampled = self.training or self.evaluation == "sample"
        chosen = choice.choose(logits, k, sampled=sampled, generator=generator)
        gates = chosen.gates.to(tokens.dtype).unsqueeze(-1)
        where = chosen.indices.unsqueeze(-1).expand(*chosen.indices.shape, tokens.size(-1))
        return SelectedTokens(tokens.gather(-2, where) * gates, chosen.indices, gates.squeeze(-1))

    def _scores(self, tokens: Tensor, scores: Tensor | None) -> Tensor:
        checks.instances("tokens", tokens, 2, "[..., n, d]")
        if (scores is None) == (self.scorer is None):
            raise ValueError(
                "scores must be given where the module has no scorer, and only there, got "
                f"{'none' if scores is None else 'scores beside a scorer'}"
            )
        if self.scorer is not None:
            scores = self.scorer(tokens)
            if scores.dim() == tokens.dim() and scores.size(-1) == 1:
                scores = scores.squeeze(-1)
        assert scores is not None
        if scores.shape != tokens.shape[:-1]:
            raise ValueError(
                f"scores must have the shape {tuple(tokens.shape[:-1])} of tokens less its last "
                f"dimension, got {tuple(scores.shape)}"
            )
        return scores

    def extra_repr(self) -> str:
        return f"k={self.k}, evaluation={self.evaluation!r}"
