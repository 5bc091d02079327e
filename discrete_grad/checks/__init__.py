# SPDX-License-Identifier: Apache-2.0
"""Argument checks: the single source of the package's error messages.

Every message names the argument, says what it was and what it must be. The checks read shapes,
dtypes and Python numbers only, so they cost no host synchronisation and are traced away by
``torch.compile``; those that read values are in ``values``, and those of edge lists say so.
"""

from __future__ import annotations

from discrete_grad.checks.numbers import (
    METHODS,
    at_least_one,
    count,
    draws_at_least,
    finite,
    method,
    num_samples,
    one_of,
    positive,
    temperature,
)
from discrete_grad.checks.solvers import (
    cell,
    edge_list,
    exact_type,
    examples,
    function,
    instance,
    instances,
    losses,
    process_group,
    returned,
    solutions,
    vertex,
)
from discrete_grad.checks.tensors import (
    batch,
    broadcasts,
    floating,
    generator,
    paired,
    row_counts,
    single_count,
    subset,
)
from discrete_grad.checks.values import (
    converged,
    integer_sums,
    k_subset_values,
    probabilities,
)

__all__ = [
    "METHODS",
    "at_least_one",
    "batch",
    "broadcasts",
    "cell",
    "converged",
    "count",
    "draws_at_least",
    "edge_list",
    "exact_type",
    "examples",
    "finite",
    "floating",
    "function",
    "generator",
    "instance",
    "instances",
    "integer_sums",
    "k_subset_values",
    "losses",
    "method",
    "num_samples",
    "one_of",
    "paired",
    "positive",
    "probabilities",
    "process_group",
    "returned",
    "row_counts",
    "single_count",
    "solutions",
    "subset",
    "temperature",
    "vertex",
]
