# SPDX-License-Identifier: Apache-2.0
"""Routing of tokens to k of E experts by the k-subset law."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from discrete_grad import checks, subset
from discrete_grad.likelihood import working
from discrete_grad.nn import choice

_GATES = ("inclusion", "normalized", "uniform")


class RouterStatistics(NamedTuple):
    """What a router knows of a batch of T tokens (those that ``mask`` leaves)."""

    balance_loss: Tensor  # [], from 1 (balanced) to E/k; differentiable
    tokens_per_expert: Tensor  # int64 [E]; sums to T k
    expected_tokens: Tensor  # [E]: the same in expectation over the draws; differentiable
    marginals: Tensor  # [..., E]: P(the token goes to the expert)
    logits: Tensor  # [..., E], over the temperature

    def overflow(self, capacity_factor: float) -> Tensor:
        """The share of the T k assignments, [], beyond capacity_factor T k / E of an expert.

        Raises:
            ValueError, TypeError: ``capacity_factor`` is no number greater than 0.
        """
        factor = checks.positive("capacity_factor", capacity_factor)
        counts = self.tokens_per_expert.to(self.expected_tokens.dtype)
        return (counts - factor * counts.mean()).clamp_min(0).sum() / counts.sum()


class Routing(NamedTuple):
    """Where the tokens go."""

    weights: Tensor  # [..., k], in the dtype of the hidden states
    indices: Tensor  # int64 [..., k], ascending
    aux: RouterStatistics


class Decision(NamedTuple):
    """What the law says of every row of logits, in its dtype."""

    weights: Tensor  # [..., k]
    indices: Tensor  # int64 [..., k], ascending
    marginals: Tensor  # [..., E]
    logits: Tensor  # [..., E], over the temperature


class RoutingLaw(nn.Module):
    """The k-subset law as a router of given logits: ``SubsetRouter`` without its linear map.

    For modules that have a linear map of their own. The temperature is its one entry in
    ``state_dict``.

    Args:
        num_experts, k, gates, temperature, selection, evaluation: as in ``SubsetRouter``.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """

    temperature: Tensor

    def __init__(
        self,
        num_experts: int,
        k: int,
        *,
        gates: str = "inclusion",
        temperature: float = 1.0,
        selection: str = "mode",
        evaluation: str = "mode",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        checks.one_of("gates", gates, _GATES)
        checks.one_of("selection", selection, choice.SELECTIONS)
        checks.one_of("evaluation", evaluation, choice.SELECTIONS)
        self.num_experts = checks.at_least_one("num_experts", num_experts)
        self.k = checks.at_least_one("k", k)
        if self.k > self.num_experts:
            raise ValueError(f"k must be at most num_experts = {self.num_experts}, got {self.k}")
        if gates == "uniform" and selection == "mode":
            raise ValueError(
                "gates must not be 'uniform' with selection='mode': no gradient would be left"
            )
        self.gates, self.selection, self.evaluation = gates, selection, evaluation
        start = torch.tensor(checks.positive("temperature", temperature), device=device)
        self.register_buffer("temperature", start)

    def decide(self, scores: Tensor, generator: torch.Generator | None = None) -> Decision:
        """The experts of every row of ``scores`` [..., E], which the temperature divides."""
        logits = working(scores) / self.temperature
        marginals = subset.marginals(logits, self.k)
        if (self.selection if self.training else self.evaluation) == "sample":
            chosen = choice.draw(logits, marginals, self.k, None, generator)
        else:
            chosen = choice.most_probable(logits, self.k)
        weights = self._weights(choice.at(marginals, chosen.indices)) * chosen.gates
        return Decision(weights, chosen.indices, marginals, logits)

    def _weights(self, inclusion: Tensor) -> Tensor:
        if self.gates == "inclusion":
            return inclusion
        if self.gates == "normalized":
            return inclusion / inclusion.sum(-1, keepdim=True)
        return torch.full_like(inclusion, 1 / self.k)

    def extra_repr(self) -> str:
        names: tuple[str, ...] = ("num_experts", "k", "gates", "selection", "evaluation")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


class SubsetRouter(RoutingLaw):
    """Sends each token to k of E experts: the mode S of the k-subset law of its logits, or a draw.

    In place of softmax and top-k: hidden states [..., d_model] in; weights and indices of the
    experts [..., k], and statistics out. The law's logits are a linear map of the hidden states
    over a temperature; mu_e = P(e in S) are its exact marginals. They enter three times:

    - *gates*, the weight of expert e in S: "inclusion": mu_e; "normalized": mu_e over the sum of
      those chosen; "uniform": 1 / k. Each mu_e depends on all logits: those of experts that were
      not chosen have a gradient too.
    - *the draw*, if S is one: each gate carries the gradient of log mu_e as well, which is that of
      the expert's being chosen. For a loss linear in the weighted experts' outputs, "inclusion" and
      "uniform" so have the exact gradient of the expected loss, in expectation over S.
    - *load balancing*: with m_e the mean of mu_e over the tokens, balance_loss = E sum_e (m_e/k)^2,
      the usual auxiliary loss with the expected load in place of the counted one: differentiable in
      both factors. Add 0.01 times it to the loss.

    The law is computed in float32 at least. Time and memory O(E) per token. A token whose hidden
    state is NaN has NaN weights, and leaves all statistics but the counts NaN.

    Args:
        d_model: size of the hidden states.
        num_experts: E.
        k: experts per token, from 1 to E.
        gates: "inclusion", "normalized", or "uniform" (with selection="sample").
        temperature: of the law, > 0; a buffer (see ``TemperatureSchedule``). The lower, the more
            certain the draws, and the more alike the gates.
        selection: in training, "mode", the k most probable experts, or "sample", a draw.
        evaluation: the same in evaluation.
        bias: give the linear map a bias.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Sources:
        The routing that it replaces: Shazeer et al., "Outrageously Large Neural Networks", ICLR
        2017, arXiv:1701.06538; its auxiliary loss: Fedus, Zoph, Shazeer, "Switch Transformers",
        JMLR 2022, arXiv:2101.03961, section 2.2. The gradient through the marginals: Ahmed, Zeng,
        Niepert, Van den Broeck, "SIMPLE", ICLR 2023, arXiv:2210.01941.
    """

    def __init__(
        self,
        d_model: int,
        num_experts: int,
        k: int,
        *,
        gates: str = "inclusion",
        temperature: float = 1.0,
        selection: str = "mode",
        evaluation: str = "mode",
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_experts,
            k,
            gates=gates,
            temperature=temperature,
            selection=selection,
            evaluation=evaluation,
            device=device,
        )
        self.d_model = checks.at_least_one("d_model", d_model)
        self.linear = nn.Linear(d_model, num_experts, bias=bias, device=device, dtype=dtype)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Routing:
        """Routes ``hidden`` [..., d_model].

        Args:
            mask: bool, broadcasts to [...]: False for tokens (padding) that the statistics leave
                out. They are routed all the same.
            generator: source of the randomness; None is torch's default one.

        Raises:
            ValueError, TypeError: ``mask`` is no bool tensor that broadcasts to [...].
        """
        scores = functional.linear(hidden, self.linear.weight, self.linear.bias)
        weights, indices, marginals, logits = self.decide(scores, generator)
        aux = self._statistics(logits, marginals, indices, mask)
        return Routing(weights.to(hidden.dtype), indices, aux)

    def _statistics(
        self, logits: Tensor, marginals: Tensor, indices: Tensor, mask: Tensor | None
    ) -> RouterStatistics:
        experts = self.num_experts
        if mask is None:
            mask = torch.ones((), device=logits.device, dtype=torch.bool)
        kept = choice.bool_mask(mask, logits.shape[:-1])
        counts = torch.zeros(experts, dtype=torch.int64, device=logits.device)
        ones = kept.unsqueeze(-1).expand(indices.shape).reshape(-1).to(torch.int64)
        counts = counts.scatter_add(0, indices.reshape(-1), ones)
        rows = marginals.reshape(-1, experts)
        expected = rows.masked_fill(~kept.reshape(-1, 1), 0.0).sum(0)
        share = expected / (self.k * kept.sum())
        return RouterStatistics(experts * share.square().sum(), counts, expected, marginals, logits)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, {super().extra_repr()}"
