# SPDX-License-Identifier: Apache-2.0
"""Sizes of the wide problem, its methods and what is tuned: as many settings for each that has
any.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.session import JSON


@dataclass(frozen=True)
class Size:
    """Columns, rows, true columns, and the signal's power over the noise's."""

    n: int
    rows: tuple[int, ...]
    # Of these rows all estimators are compared, and settings are tuned.
    compared: int
    k: int
    snr: float
    steps: int


FULL = Size(n=100_000, rows=(800, 1000, 1200), compared=1000, k=100, snr=10.0, steps=250)
QUICK = Size(n=1000, rows=(60, 120), compared=120, k=5, snr=10.0, steps=40)
TUNING_SEED = 1000

# Straight-through steps with exact draws are SIMPLE's natural gradient: SIMPLE's gradient is
# Sigma g, the Fisher information of the k-subset law is Sigma.
NATURAL = "straight_through"
_RIDGES = (0.001, 0.01, 0.1)
_ADAM = [
    {"optimizer": "adam", "rate": rate, "ridge": ridge, "weight": 1.0}
    for rate in (0.3, 1.0)
    for ridge in _RIDGES
]
# The loss falls by about g at a step of rate 1, and g grows as 1 / ridge.
LEARNERS: dict[str, list[dict[str, JSON]]] = {
    NATURAL: [
        {"optimizer": "sgd", "rate": rate * ridge, "ridge": ridge, "weight": 1.0}
        for rate in (1000.0, 3000.0)
        for ridge in _RIDGES
    ],
    "simple": _ADAM,
    "simple_second_order": _ADAM,
    "imle": [
        {"optimizer": "adam", "rate": 0.3, "ridge": ridge, "weight": weight}
        for weight in (10.0, 100.0)
        for ridge in _RIDGES
    ],
}
PENALTIES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
BASELINES = ("omp", "iht", "htp", "lasso")
