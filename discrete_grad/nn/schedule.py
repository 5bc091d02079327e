# SPDX-License-Identifier: Apache-2.0
"""Temperatures that fall while a model trains."""

from __future__ import annotations

from typing import Any

from torch import nn

from discrete_grad import checks
from discrete_grad.nn.nm_linear import NMSparseLinear
from discrete_grad.nn.router import RoutingLaw
from discrete_grad.nn.sparse_autoencoder import SubsetSAE


class TemperatureSchedule:
    """Geometric fall of a model's temperatures: start (end / start)^(t / steps) after t steps.

    Call ``step`` after each step of the optimizer, as for a learning rate's schedule. The
    temperatures are buffers: a compiled model is not compiled again for them.

    Args:
        model: contains modules with a temperature (``NMSparseLinear``, ``SubsetRouter``,
            ``SubsetSAE``), or is one.
        start, end: > 0.
        steps: how many steps it takes from start to end; it stays there.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """

    def __init__(self, model: nn.Module, start: float, end: float, steps: int) -> None:
        checks.instance("model", model, nn.Module)
        self.start = checks.positive("start", start)
        self.end = checks.positive("end", end)
        self.steps = checks.at_least_one("steps", steps)
        self.modules = [
            module
            for module in model.modules()
            if isinstance(module, (NMSparseLinear, RoutingLaw, SubsetSAE))
        ]
        if not self.modules:
            raise ValueError(
                "model must contain an NMSparseLinear, a SubsetRouter or a SubsetSAE, got none"
            )
        self.done = 0
        self._set()

    @property
    def temperature(self) -> float:
        """What the model has now."""
        share: float = min(self.done, self.steps) / self.steps
        return float(self.start * (self.end / self.start) ** share)

    def step(self) -> None:
        """One step on."""
        self.done += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        self._set()

    def _set(self) -> None:
        for module in self.modules:
            module.temperature.fill_(self.temperature)
