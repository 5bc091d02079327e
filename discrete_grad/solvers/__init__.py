# SPDX-License-Identifier: Apache-2.0
"""Batched MAP solvers: z*(theta) = argmax_z <theta, z> over a combinatorial set, as 0/1 tensors.

For ``dg.imle``, ``dg.aimle`` and whatever else needs a solver. Each function makes a callable that
maps a floating tensor of weights, on any device, to the best state of every batch element: a tensor
of zeros and ones of the same shape, dtype and device, without a gradient. ``shortest_path``
minimises. SciPy does the combinatorics of all but ``topk``, on the CPU.
"""

from discrete_grad.solvers.assignments import Matching, matching
from discrete_grad.solvers.paths import GraphShortestPath, GridShortestPath, shortest_path
from discrete_grad.solvers.subsets import TopK, topk
from discrete_grad.solvers.trees import SpanningTree, spanning_tree

__all__ = [
    "GraphShortestPath",
    "GridShortestPath",
    "Matching",
    "SpanningTree",
    "TopK",
    "matching",
    "shortest_path",
    "spanning_tree",
    "topk",
]
