# SPDX-License-Identifier: Apache-2.0
"""k of n as a layer, with any estimator whose draws carry their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from discrete_grad import checks, estimators, subset
from discrete_grad.estimators.gumbel_softmax import gumbel_softmax_topk
from discrete_grad.estimators.imle_topk import aimle_topk, imle_topk
from discrete_grad.estimators.simple import simple
from discrete_grad.estimators.straight_through import straight_through_topk
from discrete_grad.likelihood import working
from discrete_grad.nn import choice

_DRAWS: dict[str, Callable[..., Tensor]] = {
    "simple": simple,
    "simple_second_order": simple,
    "straight_through": straight_through_topk,
    "gumbel_softmax": gumbel_softmax_topk,
    "gumbel_softmax_hard": gumbel_softmax_topk,
    "imle": imle_topk,
    "aimle": aimle_topk,
    "aimle_central": aimle_topk,
}
# These average the gradients of their draws; in the layer, as for the others, they add up.
_AVERAGING = frozenset({"imle", "aimle", "aimle_central"})


class SubsetIndices(NamedTuple):
    """A subset by its items."""

    indices: Tensor  # int64 [num_samples, ..., k], ascending
    gates: Tensor  # [num_samples, ..., k]: ones that carry the gradient


class SubsetLayer(nn.Module):
    """Chooses k of n: logits [..., n] in, k-hot vectors (or indices) out, with a gradient.

    In training a draw by the estimator of that name (docs/estimators.md has the table of laws and
    gradients); in evaluation the k largest logits, without a gradient, or draws as in training.
    Gradients of several draws add up: to average over them is the loss's part.

    An estimator that learns (AIMLE's step size) has its state in the module: in ``state_dict``,
    moved and frozen with it.

    Args:
        k: size of the subsets, an int.
        estimator: "simple", "simple_second_order", "straight_through", "gumbel_softmax" (relaxed),
            "gumbel_softmax_hard", "imle", "aimle" or "aimle_central".
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        output: "hot", k-hot [num_samples, ..., n] in the dtype of the logits, or "indices", a
            ``SubsetIndices``: multiply what you gather at the indices by the gates. The gates of
            "simple" carry the gradient of log mu_i, with which a loss linear in what is gathered
            has its exact gradient in expectation; those of the others are entries of their k-hot
            vector, whose gradient is then 0 at the items left out.
        evaluation: "mode", or "sample" for draws in evaluation too.
        options: of the estimator's function: ``temperature``, ``noise``, ``target``, ...

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """

    def __init__(
        self,
        k: int,
        estimator: str = "simple",
        *,
        num_samples: int | None = None,
        output: str = "hot",
        evaluation: str = "mode",
        **options: Any,
    ) -> None:
        super().__init__()
        checks.one_of("estimator", estimator, tuple(_DRAWS))
        checks.one_of("output", output, ("hot", "indices"))
        checks.one_of("evaluation", evaluation, choice.SELECTIONS)
        if output == "indices" and estimator == "gumbel_softmax":
            raise ValueError(
                "output must be 'hot' for the estimator 'gumbel_softmax', whose draws lie between "
                "the k-hot vectors, got 'indices' ('gumbel_softmax_hard' has indices)"
            )
        self.k = checks.count("k", k)
        self.estimator = estimator
        checks.num_samples(num_samples)
        self.num_samples = num_samples
        self.output = output
        self.evaluation = evaluation
        settings = {**estimators.get(estimator).options, **options}
        self.state = nn.ModuleDict(
            {name: value for name, value in settings.items() if isinstance(value, nn.Module)}
        )
        self.options = {name: v for name, v in settings.items() if name not in self.state}

    def forward(
        self, logits: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor | SubsetIndices:
        """The subsets of ``logits`` [..., n].

        Args:
            generator: source of the randomness, on the device of ``logits``; None is torch's
                default one.
        """
        sampled = self.training or self.evaluation == "sample"
        if self.output == "indices":
            return self._indices(logits, sampled, generator)
        if sampled:
            return self._draw(logits, generator)
        return self._repeat(subset.mode(logits, self.k))

    def _draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        hot = _DRAWS[self.estimator](
            logits,
            self.k,
            self.num_samples,
            generator=generator,
            **self.options,
            **dict(self.state.items()),
        )
        count = self.num_samples or 1
        if self.estimator in _AVERAGING and count > 1:
            hot = hot.detach() + count * (hot - hot.detach())  # hot, and count times its gradient
        return hot

    def _indices(
        self, logits: Tensor, sampled: bool, generator: torch.Generator | None
    ) -> SubsetIndices:
        if not sampled:
            k = checks.single_count(self.k, logits, "SubsetLayer")
            indices, gates = choice.most_probable(logits, k)
            return SubsetIndices(self._repeat(indices), self._repeat(gates).to(logits.dtype))
        if self.estimator == "simple" and self.options.get("order", 1) == 1:
            theta = working(logits)
            marginals = subset.marginals(theta, self.k)
            chosen = choice.draw(theta, marginals, self.k, self.num_samples, generator)
            return SubsetIndices(chosen.indices, chosen.gates.to(logits.dtype))
        hot = self._draw(logits, generator)
        indices = hot.detach().topk(self.k, sorted=False).indices.sort().values
        return SubsetIndices(indices, hot.gather(-1, indices))

    def _repeat(self, rows: Tensor) -> Tensor:
        return rows if self.num_samples is None else rows.expand(self.num_samples, *rows.shape)

    def extra_repr(self) -> str:
        shown = {
            "num_samples": self.num_samples,
            "output": self.output,
            "evaluation": self.evaluation,
            **self.options,
        }
        return f"{self.k}, {self.estimator!r}, " + ", ".join(
            f"{name}={value!r}" for name, value in shown.items()
        )
