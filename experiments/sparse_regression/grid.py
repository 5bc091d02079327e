# SPDX-License-Identifier: Apache-2.0
"""What is tuned, over what, and what is fixed; the same number of settings for every estimator."""

from __future__ import annotations

from experiments.sparse_regression.learning import PUBLISHED

NOISE = (0.0, 0.01, 0.05, 0.2)
# The draws per step: one as published, and as many as cost little more.
DRAWS = (1, 16)
STEPS = 1000
# Seeds of fields that are never reported; each noise level has its own settings. So many, because
# with too large a rate a training finds the terms by luck, and then at once: a low mean loss.
TUNING_SEEDS = tuple(range(1000, 1010))

# Pairs of a learning rate and I-MLE's lambda, 1 for an estimator that has none.
_RATES = [round(10 ** (0.25 * i), 4) for i in range(16)]
_WITH_LAMBDA = [
    [rate, weight] for weight in (10.0, 100.0, 1000.0, 10000.0) for rate in (0.1, 1.0, 10.0, 100.0)
]
CELLS: dict[str, list[list[float]]] = {
    "simple": [[rate, 1.0] for rate in _RATES],
    "simple_second_order": [[rate, 1.0] for rate in _RATES],
    PUBLISHED: _WITH_LAMBDA,
    "imle": _WITH_LAMBDA,
}
