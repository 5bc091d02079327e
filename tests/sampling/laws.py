# SPDX-License-Identifier: Apache-2.0
"""Rows whose law is listed subset by subset, small enough for a chi-square over all of them.

`long` rows have more than 64 items, of which few are undecided: the sampler goes by halving there,
whatever it does for short rows, while the list of possible subsets stays short.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests import oracle

INF = float("inf")


class Law(NamedTuple):
    logits: np.ndarray
    k: int


def _scatter(n: int, positions: list[int], values: list[float], rest: float) -> np.ndarray:
    logits = np.full(n, rest)
    logits[positions] = values
    return logits


_VALUES = [1.5, 0.25, -1.0, 0.5, 2.0, -0.5, 0.0, 0.75]

SHORT: dict[str, Law] = {
    "uniform-n9-k4": Law(np.zeros(9), 4),
    "normal-n10-k5": Law(np.array([1.2, -0.3, 0.8, -2.0, 0.1, 1.7, -1.1, 0.4, -0.6, 0.0]), 5),
    "steep-n8-k3": Law(np.linspace(-4, 4, 8), 3),
    "softmax-n12-k1": Law(np.linspace(-2, 2, 12), 1),
    "all-but-one-n7-k6": Law(np.array([0.5, -1.0, 2.0, 0.0, -2.0, 1.0, 0.25]), 6),
    "masked-n11-k5": Law(np.array([0.5, -INF, 1.0, INF, -1.0, 0.0, -INF, 2.0, INF, -0.5, 0.25]), 5),
}

LONG: dict[str, Law] = {
    "padded-n100": Law(_scatter(100, [3, 10, 11, 40, 57, 64, 77, 99], _VALUES, -INF), 4),
    "forced-n80": Law(_scatter(80, [0, 9, 18, 27, 36, 45, 54, 63], _VALUES, INF), 76),
    "even-positions-n128": Law(_scatter(128, [0, 16, 32, 48, 64, 80, 96, 112], _VALUES, -INF), 3),
    "neighbours-n130": Law(_scatter(130, [61, 62, 63, 64, 65, 66, 67, 68], _VALUES, -INF), 4),
    # Undecided items among many that are all but decided: both tails of the item's own uniform are
    # used.
    "strong-n96": Law(
        np.concatenate([np.full(44, 40.0), np.array(_VALUES), np.full(44, -40.0)]), 48
    ),
    "strong-shuffled-n300": Law(
        np.concatenate([np.full(146, 30.0), np.array(_VALUES), np.full(146, -30.0)])[
            np.random.RandomState(3).permutation(300)
        ],
        149,
    ),
}


def _mixed_masks() -> Law:
    logits = np.where(np.arange(257) % 3 == 0, INF, -INF)
    logits[[5, 6, 7, 50, 100, 150, 200, 256]] = _VALUES
    return Law(logits, int(np.isposinf(logits).sum()) + 4)


LONG["mixed-masks-n257"] = _mixed_masks()


def undecided(law: Law) -> np.ndarray:
    """Positions of the items that are not all but certain."""
    return np.flatnonzero(np.abs(law.logits) < 20)


def subset_law(law: Law) -> dict[int, float]:
    """P of each subset of the undecided items, coded as an integer by `stats.subset_codes`.

    Items beyond |logit| 30 hold another state with probability below 1e-10 in the rows above: not
    within any number of draws made here, and the test checks that none does.
    """
    open_items = undecided(law)
    decided = int((law.logits >= 20).sum())
    exact = oracle.enumerate_subsets(law.logits[open_items].tolist(), law.k - decided)
    return {sum(1 << i for i in s): float(p) for s, p in exact.items()}
