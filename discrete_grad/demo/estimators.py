# SPDX-License-Identifier: Apache-2.0
"""Three ways to get a gradient through the draw of the code: SIMPLE and two to compare with.

Each function returns E[fn(z)] of a code z of k-hot rows, estimated from draws: [batch]. The value
is the mean of ``fn`` over the draws; the backward pass gives the estimate of the gradient in
``logits`` [batch, groups, n], and the gradient in what ``fn`` holds (the decoder).
``fn`` maps [samples, batch, groups, n] to [samples, batch].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import discrete_grad as dg

Loss = Callable[[Tensor], Tensor]


def simple(logits: Tensor, k: int, fn: Loss, generator: torch.Generator) -> Tensor:
    """One exact draw forward; backward the exact gradient of the marginals."""
    return fn(dg.simple(logits, k, 1, generator=generator)).mean(0)


def straight_through_gumbel(
    logits: Tensor, k: int, fn: Loss, generator: torch.Generator, *, temperature: float | None
) -> Tensor:
    """One draw by Gumbel top-k forward; backward as if the draw had been a smooth function.

    The forward pass takes the k largest of logits + Gumbel noise (perturb-and-MAP). For k > 1 these
    are draws of the Plackett-Luce law, not of the k-subset law.

    Args:
        temperature: that of the relaxed top-k whose gradient stands in for the hard one's (Xie and
            Ermon, "Reparameterizable Subset Sampling via Continuous Relaxations", IJCAI 2019,
            section 3.2); None is the identity: the gradient with respect to the draw is passed on
            to the logits unchanged (Bengio, Léonard, Courville, arXiv:1308.3432).
    """
    # -log E of an Exponential E is Gumbel. E is 0 once in 2^24 draws: the bound keeps that finite.
    exponential = torch.empty_like(logits).exponential_(generator=generator)
    perturbed = logits - exponential.clamp_min(torch.finfo(logits.dtype).tiny).log()
    hot = torch.zeros_like(perturbed).scatter(-1, perturbed.topk(k, dim=-1).indices, 1.0)
    smooth = logits if temperature is None else _relaxed_top_k(perturbed, k, temperature)
    draw = hot + (smooth - smooth.detach())
    return fn(draw.unsqueeze(0)).mean(0)


def _relaxed_top_k(scores: Tensor, k: int, temperature: float) -> Tensor:
    """The sum of k softmaxes, each of the scores lowered by log(1 - the one before)."""
    total = torch.zeros_like(scores)
    for _ in range(k):
        chosen = (scores / temperature).softmax(-1)
        total = total + chosen
        scores = scores + (1 - chosen).clamp_min(torch.finfo(scores.dtype).tiny).log()
    return total


def score_function(
    logits: Tensor, k: int, fn: Loss, generator: torch.Generator, *, num_samples: int
) -> Tensor:
    """The mean over exact draws z_i of (fn(z_i) - b_i) grad log p(z_i), b_i the others' mean loss.

    Unbiased. Also known as REINFORCE with the leave-one-out baseline (Kool, van Hoof, Welling, "Buy
    4 REINFORCE Samples, Get a Baseline for Free!", ICLR 2019 workshop). log p is exact.

    Args:
        num_samples: draws per image, 2 or more; the decoder runs on each.
    """
    code = dg.subset.sample(logits, k, num_samples, generator=generator)
    losses = fn(code)
    fixed = losses.detach()
    baseline = (fixed.sum(0) - fixed) / (num_samples - 1)
    log_prob = dg.subset.log_prob(logits, k, code).sum(-1)
    surrogate = ((fixed - baseline) * log_prob).mean(0)
    return losses.mean(0) + (surrogate - surrogate.detach())


@dataclass(frozen=True)
class Estimator:
    """One of the functions above, with the settings that it is trained with."""

    name: str
    label: str
    function: Callable[..., Tensor]
    learning_rate: float
    options: Mapping[str, float | None] = field(default_factory=dict)

    def expectation(self, logits: Tensor, k: int, fn: Loss, generator: torch.Generator) -> Tensor:
        """E[fn(z)], [batch], estimated, with this estimator's gradient."""
        return self.function(logits, k, fn, generator, **self.options)


# Learning rates, and the temperature of the straight-through estimator, are each one's best of the
# grid in tune.py, on images held out from training, for seeds that are not reported.
ESTIMATORS = {
    estimator.name: estimator
    for estimator in (
        Estimator("simple", "SIMPLE", simple, 5e-4),
        Estimator(
            "straight-through",
            "ST Gumbel top-k",
            straight_through_gumbel,
            1e-3,
            {"temperature": 0.5},
        ),
        Estimator("score-function", "Score function", score_function, 2e-3, {"num_samples": 4}),
    )
}
