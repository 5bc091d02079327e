# SPDX-License-Identifier: Apache-2.0
"""Settings that the third part tunes: ten cells for every estimator that has a setting.

SIMPLE, its second-order and its unbiased form, the score function and straight-through have none.
Tuning is on seeds that are not reported.
"""

from __future__ import annotations

from experiments.session import JSON

SEEDS = (1000, 1001)
SAMPLES = 16
REPEATS = 4
_NOISES = ("gumbel", "sum_of_gamma")
_STEPS = [{"noise": noise, "lambda": step} for noise in _NOISES for step in (0.3, 1, 3, 10, 30)]
# Non-zero gradient entries per draw that beta is adapted to, as a share of k: two for each item
# that is changed for another, so up to 2.
_TARGETS = [
    {"noise": noise, "target_share": share}
    for noise in _NOISES
    for share in (0.1, 0.3, 0.6, 1.0, 1.5)
]
CELLS: dict[str, list[dict[str, JSON]]] = {
    "imle": _STEPS,
    "imle_central": _STEPS,
    "aimle": _TARGETS,
    "aimle_central": _TARGETS,
    "gumbel_softmax": [
        {"temperature": temperature}
        for temperature in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
    ],
}
