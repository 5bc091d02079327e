# SPDX-License-Identifier: Apache-2.0
"""The samplers of SFESS: ``from discrete_grad.compat.sfess import SamplerArgs, get_sampler``.

Each takes scores [B, n, E] (E = 1 in that project) to ``(samples, extra)``, samples [S, B, n, E].
Where k exceeds n it counts as n. Randomness is that of PyTorch's default generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad.compat import law
from discrete_grad.compat.columns import as_columns, as_rows, integer

__all__ = [
    "GumbelSampler",
    "IMLESampler",
    "SFESSSampler",
    "SIMPLESampler",
    "SamplerArgs",
    "get_sampler",
]

# What assign_value adds to the marginals, so that no selected item weighs nothing.
_LEAST_VALUE = 1e-7


@dataclass(kw_only=True)
class SamplerArgs:
    """Which sampler ``get_sampler`` makes, and its settings.

    Args:
        name: "simple", "imle", "gumbel" or "sfess".
        sample_k: size of the subsets.
        n_samples: S, samples of each row.
        assign_value: of SIMPLE: samples are multiplied with the marginals.
        noise_scale, beta: of I-MLE: factor of the Gumbel noise, and the step.
        tau, hard: of Gumbel: temperature of the relaxation, and whether it is straight-through.
        mode: "exact" or "compat" (``discrete_grad.compat.law``), of SIMPLE and SFESS; I-MLE and
            Gumbel are the same in both. Not an argument of the published class.
    """

    name: str
    sample_k: int
    n_samples: int = 1
    assign_value: bool = False
    noise_scale: float = 1.0
    beta: float = 1.0
    tau: float = 1.0
    hard: bool = True
    mode: str = law.EXACT


def get_sampler(
    sampler_args: SamplerArgs | None, device: torch.device | str
) -> torch.nn.Module | None:
    """The sampler that ``sampler_args`` describe; None for None.

    Raises:
        ValueError: an unknown name or mode.
    """
    args = sampler_args
    if args is None:
        return None
    law.check_mode(args.mode)
    if args.name == "simple":
        return SIMPLESampler(
            args.sample_k, device, args.n_samples, args.assign_value, mode=args.mode
        )
    if args.name == "imle":
        return IMLESampler(args.sample_k, device, args.n_samples, args.noise_scale, args.beta)
    if args.name == "gumbel":
        return GumbelSampler(args.sample_k, args.n_samples, args.tau, args.hard)
    if args.name == "sfess":
        return SFESSSampler(args.sample_k, device, args.n_samples, mode=args.mode)
    raise ValueError(f"name must be one of 'simple', 'imle', 'gumbel', 'sfess', got {args.name!r}")


class _Sampler(torch.nn.Module):
    """k and S, which callers may change, and the scores as rows."""

    def __init__(self, k: int, n_samples: int) -> None:
        super().__init__()
        self.k = integer("k", k, 0)
        self.n_samples = integer("n_samples", n_samples, 1)

    def _rows(self, scores: Tensor) -> tuple[Tensor, int]:
        rows = as_rows(scores)
        return rows, min(self.k, rows.shape[-1])


class SIMPLESampler(_Sampler):
    """SIMPLE: samples that pass their gradient on to the marginals.

    Args:
        k: size of the subsets.
        device: kept as an attribute; everything is done on the device of the scores.
        n_samples: S, samples of each row.
        assign_value: multiply the samples with the marginals + 1e-7.
        mode: "exact" or "compat", see ``discrete_grad.compat.law``.

    Raises:
        TypeError, ValueError: a bad argument, named in the message.
    """

    def __init__(
        self,
        k: int,
        device: torch.device | str,
        n_samples: int = 1,
        assign_value: bool = False,
        *,
        mode: str = law.EXACT,
    ) -> None:
        super().__init__(k, n_samples)
        self.device = device
        self.assign_value = assign_value
        self.mode = law.check_mode(mode)

    def forward(
        self, scores: Tensor, sample_from_score: bool = True
    ) -> tuple[Tensor | None, Tensor]:
        """(samples [S, B, n, E], or None where they are not asked for; marginals [B, n, E])."""
        rows, k = self._rows(scores)
        mu = law.marginals(rows, k, self.mode)
        samples = None
        if sample_from_score:
            hot = law.draw(rows, k, self.n_samples, self.mode)
            samples = law.straight_through(hot, mu)
            if self.assign_value:
                samples = samples * (mu + _LEAST_VALUE)
            samples = as_columns(samples)
        return samples, as_columns(mu)

    def validation(self, scores: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Without a gradient: the best subset where S = 1, samples otherwise.

        Returns (mask [S, B, n, E], marginals [B, n, E]); the latter are None where S = 1, unless
        ``assign_value`` needs them.
        """
        with torch.no_grad():
            if self.n_samples > 1:
                return self(scores)  # type: ignore[no-any-return]
            rows, k = self._rows(scores)
            mask = as_columns(law.best(rows, k, self.mode))
            marginals = None
            if self.assign_value:
                marginals = as_columns(law.marginals(rows, k, self.mode))
                mask = mask * (marginals + _LEAST_VALUE)
            return mask.unsqueeze(0), marginals


class IMLESampler(_Sampler):
    """I-MLE: the k largest of scores + noise_scale * Gumbel noise; see ``dg.imle_topk``.

    The gradient is the mean over the samples of z - MAP(scores - beta dL/dz + the same noise), not
    divided by beta.

    Args:
        sample_k: size of the subsets.
        device: kept as an attribute; everything is done on the device of the scores.
        n_samples: S, samples of each row.
        noise_scale: factor of the noise, >= 0.
        beta: the step.

    Raises:
        TypeError, ValueError: a bad argument, named in the message.
    """

    def __init__(
        self,
        sample_k: int,
        device: torch.device | str,
        n_samples: int,
        noise_scale: float,
        beta: float,
    ) -> None:
        super().__init__(sample_k, n_samples)
        self.device = device
        self.noise_scale = noise_scale
        self.target = dg.TargetDistribution(alpha=1.0, beta=beta)

    def forward(self, logits: Tensor, train: bool = True) -> tuple[Tensor, None]:
        """(samples [S, B, n, E], None); without training and with S = 1, the k largest scores."""
        rows, k = self._rows(logits)
        perturbed = train or self.n_samples > 1
        hot = dg.imle_topk(
            rows,
            k,
            self.n_samples,
            target=self.target,
            temperature=self.noise_scale if perturbed else 0.0,
        )
        return as_columns(hot), None

    def validation(self, scores: Tensor) -> tuple[Tensor, None]:
        """Without a gradient: the k largest scores where S = 1, samples otherwise."""
        with torch.no_grad():
            return self(scores, train=False)  # type: ignore[no-any-return]


class GumbelSampler(_Sampler):
    """The relaxed top-k of scores + Gumbel noise; see ``dg.gumbel_softmax_topk``.

    Args:
        k: size of the subsets.
        n_samples: S, samples of each row.
        tau: temperature of the relaxation, > 0.
        hard: straight-through: k-hot samples with the gradient of the relaxed ones.

    Raises:
        TypeError, ValueError: a bad argument, named in the message.
    """

    def __init__(self, k: int, n_samples: int, tau: float = 0.1, hard: bool = True) -> None:
        super().__init__(k, n_samples)
        self.tau = tau
        self.hard = hard

    def forward(self, scores: Tensor) -> tuple[Tensor, None]:
        """(samples [S, B, n, E], None)."""
        rows, k = self._rows(scores)
        soft = dg.gumbel_softmax_topk(rows, k, self.n_samples, temperature=self.tau, hard=self.hard)
        return as_columns(soft), None

    def validation(self, scores: Tensor) -> tuple[Tensor, None]:
        """Without a gradient: the k largest scores where S = 1, samples otherwise."""
        with torch.no_grad():
            if self.n_samples > 1:
                return self(scores)  # type: ignore[no-any-return]
            rows, k = self._rows(scores)
            return as_columns(dg.subset.mode(rows, k)).unsqueeze(0), None


class SFESSSampler(_Sampler):
    """The score function's sampler: k-hot samples without a gradient, and log p of each with one.

    log p is that of the k-subset law with theta = scores, in both modes. In "exact" the samples are
    drawn from that law, and sum_s loss_s log p_s has an unbiased gradient; in "compat" they are the
    k largest of scores + Gumbel noise, and for k > 1 it has not.

    Args:
        k: size of the subsets.
        device: kept as an attribute; everything is done on the device of the scores.
        n_samples: S, samples of each row.
        mode: "exact" or "compat".

    Raises:
        TypeError, ValueError: a bad argument, named in the message.
    """

    def __init__(
        self, k: int, device: torch.device | str, n_samples: int = 1, *, mode: str = law.EXACT
    ) -> None:
        super().__init__(k, n_samples)
        self.device = device
        self.mode = law.check_mode(mode)

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(samples [S, B, n, 1], log p [S, B]); E must be 1."""
        rows, k = self._rows(scores)
        if rows.shape[1] != 1:
            raise ValueError(
                f"scores must have one ensemble member, [B, n, 1], got shape {tuple(scores.shape)}"
            )
        hot = law.draw(rows, k, self.n_samples, self.mode)
        log_p = dg.subset.log_prob(rows, k, hot)
        return as_columns(hot), log_p.squeeze(-1)
