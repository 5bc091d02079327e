# SPDX-License-Identifier: Apache-2.0
"""Noise distributions of perturb-and-MAP: the laws that the fused ops know, and a user's own.

The laws that the ops know are made item by item from a seed (docs/mathematics.md, "Perturbation
noise"), so a draw can be made again and is never stored by an op. Location and scale stay outside:
a common location changes no selection, and a scale multiplies the temperature.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from discrete_grad import checks, ops, rng
from discrete_grad.quantiles import quantile_table

__all__ = [
    "BaseNoiseDistribution",
    "FusedNoise",
    "GumbelNoiseDistribution",
    "LaplaceNoiseDistribution",
    "LogisticNoiseDistribution",
    "NormalNoiseDistribution",
    "SumOfGammaNoiseDistribution",
    "resolve",
]


class BaseNoiseDistribution(ABC):
    """Noise that perturbs the input of a MAP solver: derive from it for a law of your own."""

    @abstractmethod
    def sample(self, shape: torch.Size) -> Tensor:
        """Independent noise of this shape."""


class FusedNoise(BaseNoiseDistribution):
    """location + scale * eps, with eps of a standard law whose quantile function the ops know.

    Attributes:
        location, scale: floats.
        device: where ``sample`` draws; None for PyTorch's default device.
    """

    location: float
    scale: float
    device: torch.device | None

    def __init__(
        self,
        location: float = 0.0,
        scale: float = 1.0,
        device: torch.device | str | None = None,
    ) -> None:
        self.location = checks.finite("location", location)
        self.scale = checks.positive("scale", scale)
        self.device = None if device is None else torch.device(device)

    def __init_subclass__(cls) -> None:
        for name in ("sample", "draw"):
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__name__} must not define {name}, which the fused ops would not call: "
                    "derive it from BaseNoiseDistribution"
                )

    @abstractmethod
    def quantiles(self, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The standard law for the ops: its table ``[881, 4]``, or None for Gumbel noise.

        Args:
            device: where the table is to be.
            dtype: float32 or float64, what the ops compute in.
        """

    def sample(
        self, shape: torch.Size | Sequence[int], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent noise, float32, on ``device``.

        Args:
            shape: of the result.
            generator: on ``device``; None for its default one. Advanced by one draw.

        Raises:
            TypeError, ValueError: ``generator`` is none, or lives on another device.
        """
        device = torch.get_default_device() if self.device is None else self.device
        return self.draw(shape, rng.seed_on(device, generator), torch.float32)

    def draw(self, shape: torch.Size | Sequence[int], seed: Tensor, dtype: torch.dtype) -> Tensor:
        """The noise that the fused ops make from this seed, times ``scale``, plus ``location``.

        Args:
            shape: ``[..., n]``. For S samples of a batch of rows: ``[S, *batch, n]``.
            seed: int64 ``[1]``; equal seeds give equal noise.
            dtype: float32 or float64.

        Returns:
            A tensor of this shape and dtype on the device of ``seed``.
        """
        checks.one_of("dtype", dtype, (torch.float32, torch.float64))
        n = shape[-1] if len(shape) else 1
        eps = ops.noise(math.prod(shape[:-1]), n, self.quantiles(seed.device, dtype), seed, dtype)
        if (self.location, self.scale) != (0.0, 1.0):
            eps = self.location + self.scale * eps
        return eps.reshape(shape)


class GumbelNoiseDistribution(FusedNoise):
    """Gumbel noise, P(eps <= x) = exp(-exp(-x)): with k = 1, perturb-and-MAP samples the softmax.

    Args:
        location: mode of the law.
        scale: > 0.
        device: where ``sample`` draws; None for PyTorch's default device.

    Source: Gumbel 1954; Papandreou and Yuille, "Perturb-and-MAP random fields", ICCV 2011.
    """

    def quantiles(self, device: torch.device, dtype: torch.dtype) -> None:
        return None


class _Tabulated(FusedNoise):
    """A standard law by name of ``discrete_grad.quantiles.LAWS``."""

    _law: str

    def quantiles(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        table: Tensor = quantile_table(self._law, device, dtype)
        return table


class NormalNoiseDistribution(_Tabulated):
    """Normal noise with mean ``location`` and standard deviation ``scale`` > 0.

    ``device`` is where ``sample`` draws; None for PyTorch's default device.
    """

    _law = "normal"


class LogisticNoiseDistribution(_Tabulated):
    """Logistic noise, P(eps <= x) = 1 / (1 + exp(-(x - location) / scale)), scale > 0.

    The difference of two Gumbel variates. ``device`` is where ``sample`` draws; None for PyTorch's
    default device.
    """

    _law = "logistic"


class LaplaceNoiseDistribution(_Tabulated):
    """Laplace noise, density exp(-|x - location| / scale) / (2 scale), scale > 0.

    ``device`` is where ``sample`` draws; None for PyTorch's default device.
    """

    _law = "laplace"


class SumOfGammaNoiseDistribution(_Tabulated):
    """SoG(kappa, s) = (sum_{i=1..s} G_i - log s) / kappa, G_i ~ Gamma(1/kappa, rate i/kappa).

    As s grows, the sum of kappa independent variates becomes Gumbel, so that a solution with kappa
    of n items is perturbed by nearly Gumbel noise as a whole. Its mean is (H_s - log s) / kappa and
    its variance sum_i i^-2 / kappa, with H_s = sum_i 1/i.

    Args:
        k: kappa, the number of items in a solution; at least 0.5, an int or a float.
        nb_iterations: s, the number of terms; at most 1000 kappa.
        device: where ``sample`` draws; None for PyTorch's default device.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Cost: one uniform number and one look-up per variate, whatever s; the table is made once for
    each (k, nb_iterations), in time proportional to s (about 0.1 s for 10 terms).

    Source: Niepert, Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, section 4.2.
    """

    def __init__(
        self,
        k: float,
        nb_iterations: int = 10,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(device=device)
        self.k = checks.finite("k", k, least=0.5)
        self.nb_iterations = checks.at_least_one("nb_iterations", nb_iterations)
        if self.nb_iterations > 1000 * self.k:
            raise ValueError(
                f"nb_iterations must be at most 1000 k = {1000 * self.k:g}, got {nb_iterations}"
            )
        self._law = f"sum_of_gamma {self.k!r} {self.nb_iterations}"


_BY_NAME: dict[str, type[FusedNoise]] = {
    "gumbel": GumbelNoiseDistribution,
    "normal": NormalNoiseDistribution,
    "logistic": LogisticNoiseDistribution,
    "laplace": LaplaceNoiseDistribution,
}
_SUM_OF_GAMMA = "sum_of_gamma"


def resolve(noise: str | BaseNoiseDistribution, k: int | Tensor) -> BaseNoiseDistribution:
    """The noise distribution that a ``noise`` argument means.

    Args:
        noise: a distribution, which is returned, or the name of a standard law: "gumbel",
            "sum_of_gamma" (kappa = k and 10 terms), "normal", "logistic" or "laplace".
        k: the number of items chosen.

    Raises:
        TypeError: ``noise`` is neither.
        ValueError: it is no such name, or "sum_of_gamma" where k is a tensor.
    """
    if isinstance(noise, BaseNoiseDistribution):
        return noise
    if not isinstance(noise, str):
        raise TypeError(
            "noise must be the name of a law or a BaseNoiseDistribution, "
            f"got {type(noise).__name__} {noise!r}"
        )
    checks.one_of("noise", noise, (*_BY_NAME, _SUM_OF_GAMMA))
    if noise != _SUM_OF_GAMMA:
        return _BY_NAME[noise]()
    if isinstance(k, Tensor):
        raise ValueError(
            "noise must be a distribution where k is a tensor, since the kappa of 'sum_of_gamma' "
            "is one number: pass dg.SumOfGammaNoiseDistribution(kappa), got the name"
        )
    # index: torch.compile with dynamic shapes may hold k as a symbol, and a table is of one number.
    # Nothing is chosen where k = 0, whatever the noise.
    return SumOfGammaNoiseDistribution(max(operator.index(k), 1))
