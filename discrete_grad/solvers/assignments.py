# SPDX-License-Identifier: Apache-2.0
"""Bipartite assignments of maximum weight."""

from __future__ import annotations

import numpy as np
import torch

from discrete_grad.solvers.batched import BatchedSolver, Infeasible, State, Weights


class Matching(BatchedSolver):
    """See ``matching``."""

    name = "scores"
    instance_dims = 2
    shape = "[..., n, m]"

    def __repr__(self) -> str:
        return f"matching(workers={self.workers})"

    def check(self, instance: torch.Size) -> None:
        pass

    def solve(self, weights: Weights) -> State:
        # Here, since `import discrete_grad` would take a third longer with it.
        from scipy.optimize import linear_sum_assignment

        state = np.zeros(weights.shape, np.uint8)
        for element, scores in enumerate(weights):
            if np.isposinf(scores).any():
                raise Infeasible(element, "must be finite or -inf, got +inf")
            try:
                rows, columns = linear_sum_assignment(scores, maximize=True)
            except ValueError:
                # What is left that SciPy refuses, since the scores are neither NaN nor +inf.
                raise Infeasible(
                    element, "must allow min(n, m) pairs (-inf forbids one), got too few"
                ) from None
            state[element, rows, columns] = 1
        return state


def matching(*, workers: int | None = None) -> Matching:
    """argmax_z <theta, z> over assignments: scores [..., n, m] to 0/1 of the same shape.

    An assignment has exactly min(n, m) ones, at most one in each row and each column. A score of
    -inf forbids its pair. Among assignments of equal weight the choice is SciPy's; it depends on
    the instance alone. O(n m min(n, m)) per instance, by ``scipy.optimize.linear_sum_assignment``.

    The callable raises a ValueError that names the batch element for a score that is NaN or +inf,
    and where the forbidden pairs leave no assignment.

    Args:
        workers: number of parts that the batch is cut into, solved at the same time by as many
            threads; None is the number of cores. SciPy lets them run in parallel: on two cores, 64
            instances of 50 x 50 take half the time.
    """
    return Matching(workers)
