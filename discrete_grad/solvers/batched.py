# SPDX-License-Identifier: Apache-2.0
"""What the solvers that run on the CPU share: one copy there and back, threads, errors."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discrete_grad import checks

Weights = NDArray[np.float64]
State = NDArray[np.uint8]


class Infeasible(Exception):
    """One instance has no solution; carries its place in the part that was being solved."""

    def __init__(self, element: int, reason: str) -> None:
        super().__init__(reason)
        self.element = element


class BatchedSolver(ABC):
    """Solves every instance of a batch [..., *instance], in parts, one part per thread."""

    name: ClassVar[str]
    """Of the argument, for messages."""
    instance_dims: ClassVar[int]
    shape: ClassVar[str]
    default_workers: ClassVar[int] = os.cpu_count() or 1

    def __init__(self, workers: int | None) -> None:
        self.workers = (
            self.default_workers if workers is None else checks.at_least_one("workers", workers)
        )

    @abstractmethod
    def check(self, instance: torch.Size) -> None:
        """Raises ValueError for an instance shape that does not fit the settings."""

    @abstractmethod
    def solve(self, weights: Weights) -> State:
        """The best states for weights [b, *instance], b > 0, that hold no NaN.

        Raises:
            Infeasible: for the first instance without a solution.
        """

    def __call__(self, weights: Tensor) -> Tensor:
        checks.instances(self.name, weights, self.instance_dims, self.shape)
        if torch.compiler.is_compiling():
            # Dynamo would trace NumPy as if it were torch. Not a decorator: that imports Dynamo.
            result: Tensor = torch.compiler.disable(self._solve_batch)(weights)
            return result
        return self._solve_batch(weights)

    def _solve_batch(self, weights: Tensor) -> Tensor:
        batch = weights.shape[: weights.dim() - self.instance_dims]
        instance = weights.shape[weights.dim() - self.instance_dims :]
        self.check(instance)
        if weights.numel() == 0:
            return torch.zeros_like(weights)
        # Converted on the CPU: not every device has float64.
        rows = weights.detach().cpu().to(torch.float64).reshape(-1, *instance).numpy()
        state = torch.from_numpy(self._solve_parts(rows, batch)).view(weights.shape)
        return state.to(weights.device).to(weights.dtype)

    def _solve_parts(self, rows: Weights, batch: torch.Size) -> State:
        parts = np.array_split(rows, min(self.workers, len(rows)))
        starts = np.cumsum([0, *map(len, parts[:-1])])
        if len(parts) == 1:
            return self._solve_part(parts[0], 0, batch)
        futures = [
            _pool.executor().submit(self._solve_part, part, int(start), batch)
            for part, start in zip(parts, starts, strict=True)
        ]
        # In order, so that the first infeasible instance is the one that is named.
        return np.concatenate([future.result() for future in futures])

    def _solve_part(self, part: Weights, start: int, batch: torch.Size) -> State:
        bad = np.isnan(part).reshape(len(part), -1).any(1)
        try:
            if bad.any():
                raise Infeasible(int(bad.argmax()), "must not be NaN")
            return self.solve(part)
        except Infeasible as error:
            element = tuple(int(i) for i in np.unravel_index(start + error.element, batch))
            where = f"batch element {element[0] if len(element) == 1 else element}"
            raise ValueError(
                f"{self.name} {error}, in {where if element else 'the only instance'}"
            ) from None


class _Pool:
    """The threads of the module, made when they are first needed."""

    def __init__(self) -> None:
        self.reset()
        if hasattr(os, "register_at_fork"):
            # A forked child inherits the object but none of its threads: it would wait for ever.
            os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    os.cpu_count() or 1, thread_name_prefix="discrete_grad.solvers"
                )
            return self._executor


_pool = _Pool()
