# SPDX-License-Identifier: Apache-2.0
"""PR-MPNN's edge sampler: ``from discrete_grad.compat.pr_mpnn import EdgeSIMPLEBatched``."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad.compat import law
from discrete_grad.compat.columns import as_columns, as_rows, integer

__all__ = ["EdgeSIMPLEBatched"]


class EdgeSIMPLEBatched(torch.nn.Module):
    """SIMPLE over the candidate edges of a batch of graphs, one subset for each ensemble member.

    ``sampler(scores, k, times)`` gives ``(mask, marginals)``; both carry gradients, and a mask
    passes its gradient on to the marginals. Candidates with a score of -5e9 or less are fake ones
    (graphs have different numbers of candidates; PR-MPNN pads with -1e10): they are never chosen,
    and where k or fewer are real, all real ones are.

    Args:
        mode: "exact" or "compat", see ``discrete_grad.compat.law``. Not an argument of the
            published class.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, *, mode: str = law.EXACT) -> None:
        super().__init__()
        self.mode = law.check_mode(mode)

    def forward(self, scores: Tensor, k: int, times_sampled: int) -> tuple[Tensor, Tensor]:
        """(mask [times_sampled, B, Nmax, E], marginals [B, Nmax, E]), in the dtype of ``scores``.

        Args:
            scores: [B, Nmax, E], of a floating dtype.
            k: number of candidates to choose; above Nmax it counts as Nmax.
            times_sampled: number of samples, >= 1.

        Raises:
            TypeError, ValueError: a bad argument, named in the message.
        """
        rows, counts = _candidates(scores, k)
        mu = law.marginals(rows, counts, self.mode)
        hot = law.draw(rows, counts, integer("times_sampled", times_sampled, 1), self.mode)
        return as_columns(law.straight_through(hot, mu)), as_columns(mu)

    def validation(self, scores: Tensor, k: int, times_sampled: int) -> tuple[Tensor, Tensor]:
        """What ``forward`` returns, without gradients; with one sample the mask is the best subset.

        That is the k candidates of the largest scores; in the mode "compat" ties add candidates.
        """
        with torch.no_grad():
            mask, marginals = self(scores, k, times_sampled)
            if times_sampled == 1:
                rows, counts = _candidates(scores, k)
                mask = as_columns(law.best(rows, counts, self.mode)).unsqueeze(0)
        return mask, marginals


def _candidates(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows [B, E, Nmax] with -inf for fake candidates, and how many to choose, [B, E]."""
    rows = as_rows(scores)
    return law.without_fakes(rows, min(integer("k", k, 0), rows.shape[-1]))
