# SPDX-License-Identifier: Apache-2.0
"""What the scores are to be read against: trees that nothing was learned for; solver times."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import discrete_grad as dg
from experiments.relational_inference.data import VERTICES, Graphs
from experiments.relational_inference.layout import edge_list
from experiments.relational_inference.objective import edge_scores
from experiments.session import JSON, Context

_REPEATS = 30


def unlearned_trees(graphs: Graphs) -> dict[str, dict[str, float]]:
    """Scores of trees of random weights, and of trees of the shortest distances.

    "random" has the weights that the true trees are drawn from. The others are maximum spanning
    trees of minus the distance of two vertices, averaged over the frames or in the last one.
    """
    rows, columns = torch.from_numpy(edge_list(VERTICES)).T
    positions = graphs.positions.double()
    distances = (positions[:, :, rows] - positions[:, :, columns]).norm(dim=-1)  # [N, T, E]
    gumbel = np.random.default_rng(0).gumbel(size=graphs.edges.shape)
    solver = dg.solvers.spanning_tree(edge_list(VERTICES), num_vertices=VERTICES, workers=1)
    weights = {
        "random": torch.from_numpy(gumbel),
        "mean distance": -distances.mean(1),
        "last distance": -distances[:, -1],
    }
    return {
        name: edge_scores(solver(value).to(graphs.edges), graphs.edges)
        for name, value in weights.items()
    }


def solver_times(settings: dict[str, JSON], context: Context) -> JSON:
    """CPU seconds of a call of the solver on a batch, with weights as a list or as a matrix."""
    generator = torch.Generator().manual_seed(0)
    edges = edge_list(VERTICES)
    rows, columns = torch.from_numpy(edges).T
    listed = dg.solvers.spanning_tree(edges, num_vertices=VERTICES, workers=1)
    dense = dg.solvers.spanning_tree(workers=1)
    result = []
    for batch in settings["batches"]:
        weights = torch.randn(batch, len(edges), generator=generator)
        matrices = torch.zeros(batch, VERTICES, VERTICES)
        matrices[:, rows, columns] = matrices[:, columns, rows] = weights
        assert (dense(matrices)[:, rows, columns] == listed(weights)).all()
        result.append(
            {
                "batch": batch,
                "list_seconds": _median_seconds(listed, weights),
                "matrix_seconds": _median_seconds(dense, matrices),
            }
        )
        context.advance()
    return result


def _median_seconds(solver: Callable[[Tensor], Tensor], weights: Tensor) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.process_time()
        solver(weights)
        times.append(time.process_time() - start)
    return float(np.median(times))
