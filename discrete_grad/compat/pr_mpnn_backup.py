# SPDX-License-Identifier: Apache-2.0
"""PR-MPNN's samplers as its branch ``backup`` calls them: SIMPLE, and I-MLE as a decorator.

``from discrete_grad.compat.pr_mpnn_backup import EdgeSIMPLEBatched, GumbelDistribution,
TargetDistribution, imle``. The distributions are ``dg.GumbelNoiseDistribution`` and
``dg.TargetDistribution``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad import GumbelNoiseDistribution as GumbelDistribution
from discrete_grad import TargetDistribution
from discrete_grad.compat import law, pr_mpnn
from discrete_grad.compat.columns import integer

__all__ = ["EdgeSIMPLEBatched", "GumbelDistribution", "TargetDistribution", "imle"]

Scheme = Callable[[Tensor], tuple[Tensor, Any]]
_POLICY = "edge_candid"


class EdgeSIMPLEBatched(torch.nn.Module):
    """``pr_mpnn.EdgeSIMPLEBatched`` with k and the numbers of samples as attributes.

    Args:
        k: number of candidates to choose; callers set the attribute before each call.
        device: kept as an attribute; everything is done on the device of the scores.
        policy: "edge_candid", scores [B, Nmax, E] of candidate edges. The branch's older policies
            over whole adjacency matrices are not served.
        val_ensemble, train_ensemble: number of samples in validation and in training.
        logits_activation: None or "None".
        mode: "exact" or "compat", see ``discrete_grad.compat.law``.

    Raises:
        TypeError, ValueError: a bad argument, named in the message; in a call also where
            ``policy`` has been set to another one.
    """

    def __init__(
        self,
        k: int,
        device: torch.device | str,
        policy: str,
        val_ensemble: int = 1,
        train_ensemble: int = 1,
        logits_activation: str | None = None,
        *,
        mode: str = law.EXACT,
    ) -> None:
        super().__init__()
        self.k = integer("k", k, 0)
        self.device = device
        self.policy = policy
        self.val_ensemble = integer("val_ensemble", val_ensemble, 1)
        self.train_ensemble = integer("train_ensemble", train_ensemble, 1)
        if logits_activation not in (None, "None"):
            raise ValueError(
                f"logits_activation must be None or 'None', got {logits_activation!r}: apply it to "
                "the scores instead"
            )
        self.logits_activation = logits_activation
        self._sampler = pr_mpnn.EdgeSIMPLEBatched(mode=mode)
        self._check_policy()

    def forward(self, scores: Tensor, times_sampled: int | None = None) -> tuple[Tensor, Tensor]:
        """(mask [times_sampled, B, Nmax, E], marginals [B, Nmax, E]); None: ``train_ensemble``."""
        self._check_policy()
        times = self.train_ensemble if times_sampled is None else times_sampled
        return self._sampler(scores, self.k, times)  # type: ignore[no-any-return]

    def validation(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """``pr_mpnn.EdgeSIMPLEBatched.validation`` with ``val_ensemble`` samples."""
        self._check_policy()
        return self._sampler.validation(scores, self.k, self.val_ensemble)

    def _check_policy(self) -> None:
        if self.policy != _POLICY:
            raise ValueError(f"policy must be {_POLICY!r}, got {self.policy!r}")


def imle(
    function: Scheme | None = None,
    target_distribution: TargetDistribution | None = None,
    noise_distribution: GumbelDistribution | None = None,
    nb_samples: int = 1,
    input_noise_temperature: float = 1.0,
    target_noise_temperature: float = 1.0,
) -> Any:
    """``dg.imle`` for a solver that returns a pair: logits [B, ...] to (samples, None).

    Samples are [nb_samples, B, ...]. The gradient is that of I-MLE, averaged over the samples.

    Args:
        function: maps logits [b, ...] to (MAP states of the same shape, anything): the second
            entry is dropped. None makes a decorator.
        target_distribution: None is ``TargetDistribution(alpha=1.0, beta=1.0)``.
        noise_distribution: None is no noise.
        nb_samples: number of samples, >= 1.
        input_noise_temperature: what the noise is multiplied with in the forward pass, >= 0.
        target_noise_temperature: the same for the target, >= 0.

    Raises:
        TypeError, ValueError: as ``dg.imle``.

    Source:
        Niepert, Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, arXiv:2106.01798, Algorithm 1.
    """
    if function is None:
        return functools.partial(
            imle,
            target_distribution=target_distribution,
            noise_distribution=noise_distribution,
            nb_samples=nb_samples,
            input_noise_temperature=input_noise_temperature,
            target_noise_temperature=target_noise_temperature,
        )
    scheme = function
    solve = dg.imle(
        lambda logits: scheme(logits)[0],
        target_distribution,
        noise_distribution,
        nb_samples,
        theta_noise_temperature=input_noise_temperature,
        target_noise_temperature=target_noise_temperature,
    )

    @functools.wraps(scheme)
    def sample(logits: Tensor) -> tuple[Tensor, None]:
        states = solve(logits)
        return states.reshape(logits.shape[0], nb_samples, *logits.shape[1:]).movedim(1, 0), None

    return sample
