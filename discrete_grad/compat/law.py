# SPDX-License-Identifier: Apache-2.0
"""The two laws that an adapter can have: ours, and that of the published circuit code.

With x the scores of a row of n items:

- ``"exact"``: the k-subset law with theta = x. Samples are exact draws of it, marginals its
  inclusion probabilities.
- ``"compat"``: the published code reads x as log-probabilities, with log(1 - exp(-|x|)) as that of
  the complement, and holds the complement constant in the backward pass. Its marginals are those of
  the k-subset law with theta = x - log(1 - exp(-|x|)), the second term without a gradient
  (``circuit_logits``). Its samples are the k largest of x + Gumbel noise: those of the
  Plackett-Luce law of x, another law than that of the marginals.

In both a sample passes its gradient on to the marginals of its mode, straight through, which is
SIMPLE's gradient (Ahmed, Zeng, Niepert, Van den Broeck, ICLR 2023, arXiv:2210.01941).
"""

from __future__ import annotations

import torch
from torch import Tensor

import discrete_grad as dg

EXACT, COMPAT = MODES = ("exact", "compat")

# Clients subtract 1e10 from the score of what is no candidate. Half of it leaves room for the score
# itself, and in float16, where both are -inf, still tells the two apart.
FAKE_SCORE = -5e9


def check_mode(mode: str) -> str:
    """``mode`` itself, one of ``MODES``."""
    if mode not in MODES:
        raise ValueError(f"mode must be 'exact' or 'compat', got {mode!r}")
    return mode


def circuit_logits(scores: Tensor) -> Tensor:
    """theta = x - log(1 - exp(-|x|)), the second term without a gradient: [..., n] to [..., n].

    The k-subset law with these log-odds is the one that the published circuit code gives for the
    scores x. theta is even closer to x the larger |x| is; at 0 it is +inf (the item is forced).
    16-bit scores give float32.
    """
    wide = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    return wide - torch.log(-torch.expm1(-wide.detach().abs()))


def marginals(scores: Tensor, k: int | Tensor, mode: str, *, method: str = "auto") -> Tensor:
    """Inclusion probabilities of the mode's k-subset law, [..., n], in the dtype of ``scores``.

    Args:
        scores: x, [..., n]; -inf excludes an item.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        mode: "exact" or "compat".
        method: as in ``dg.subset.marginals``.
    """
    theta = scores if mode == EXACT else circuit_logits(scores)
    return dg.subset.marginals(theta, k, method=method).to(scores.dtype)


def draw(scores: Tensor, k: int | Tensor, num_samples: int, mode: str) -> Tensor:
    """Draws of the mode's sampler, k-hot [num_samples, ..., n], without a gradient."""
    if mode == EXACT:
        return dg.subset.sample(scores, k, num_samples)
    return dg.perturbed_topk(scores, k, num_samples)


def best(scores: Tensor, k: int | Tensor, mode: str) -> Tensor:
    """What takes the place of a draw in evaluation, [..., n], without a gradient.

    "exact": the k-hot vector of the k largest scores, the lowest index among equal ones. "compat":
    every item whose score is at least the k-th largest, so that ties add items.
    """
    hot = dg.subset.mode(scores, k)
    if mode == EXACT:
        return hot
    scores = scores.detach()
    least = torch.where(hot == 1, scores, torch.inf).amin(-1, keepdim=True)
    return torch.where(hot.isnan(), hot, (scores >= least).to(hot.dtype))


def straight_through(hot: Tensor, smooth: Tensor) -> Tensor:
    """``hot`` itself with the gradient of ``smooth``; NaN where ``smooth`` is NaN."""
    return hot + (smooth - smooth.detach())


def without_fakes(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores with -inf for fake candidates, and min(k, number of real ones), [...].

    Where k or fewer candidates are real, all of them are chosen, and no fake one.
    """
    fake = scores <= FAKE_SCORE  # a NaN is not fake: it makes its row NaN
    return scores.masked_fill(fake, -torch.inf), (~fake).sum(-1).clamp(max=k)
