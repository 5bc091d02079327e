# SPDX-License-Identifier: Apache-2.0
"""What a regression on few columns needs of its data, and the methods that the learnt supports are
compared with.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.linear_model import orthogonal_mp_gram

from experiments.session import JSON
from experiments.sparse_regression.kuramoto_sivashinsky import Array

# The penalty of the published code, on columns of length 1.
RIDGE = 0.05
STLSQ_THRESHOLDS = np.logspace(-3, 0, 16)


@dataclass(frozen=True)
class Statistics:
    """Products of columns x_1..x_n, divided by their lengths, and of a target y of length 1.

    With these a fit on any of the columns costs nothing of the number of rows.

    Args:
        gram: [n, n].
        products: x_j . y, [n].
        scale: length of y over that of x_j, [n]: takes a coefficient here to one of the data.
    """

    gram: Array
    products: Array
    scale: Array

    @classmethod
    def of(cls, columns: Array, target: Array) -> Statistics:
        """Of columns [n, rows] and a target [rows]."""
        lengths = np.linalg.norm(columns, axis=1)
        unit, length = columns / lengths[:, None], np.linalg.norm(target)
        return cls(unit @ unit.T, unit @ (target / length), length / lengths)

    def to_json(self) -> JSON:
        return {name: value.tolist() for name, value in asdict(self).items()}

    def fit(self, support: Sequence[int], ridge: float = 0.0) -> Array:
        """Coefficients of least squares (with a penalty) on ``support``, [n]; else 0."""
        chosen = list(support)
        result = np.zeros(len(self.products))
        if chosen:
            gram = self.gram[np.ix_(chosen, chosen)] + ridge * np.eye(len(chosen))
            result[chosen] = np.linalg.solve(gram, self.products[chosen])
        return result

    def residual(self, support: Sequence[int]) -> float:
        """The part of |y|^2 that least squares on ``support`` leaves."""
        return max(float(1 - self.fit(support) @ self.products), 0.0)

    def coefficients(self, support: Sequence[int]) -> Array:
        """Least squares on ``support`` in the units of the data, [n]."""
        result: Array = self.fit(support) * self.scale
        return result

    def best_subset(self, k: int) -> tuple[int, ...]:
        """The support of k columns with the least residual, of all there are."""
        return min(itertools.combinations(range(len(self.products)), k), key=self.residual)

    def matching_pursuit(self, k: int) -> tuple[int, ...]:
        """Orthogonal matching pursuit: k times the column that the residual is most along."""
        found = orthogonal_mp_gram(self.gram, self.products, n_nonzero_coefs=k)
        return tuple(np.flatnonzero(found).tolist())

    def thresholded(self, k: int) -> tuple[int, ...]:
        """Sequentially thresholded least squares, at the threshold with which k columns stay.

        Ridge regression, and without the columns whose coefficient is below the threshold again,
        until none is. Of the thresholds tried, one leaves the support with the least residual of
        those with at most k columns.

        Source:
            Brunton, Proctor, Kutz, "Discovering governing equations from data by sparse
            identification of nonlinear dynamical systems", PNAS 113(15), 2016.
        """
        found = {self._thresholded_at(threshold) for threshold in STLSQ_THRESHOLDS}
        return min((one for one in found if len(one) <= k), key=self.residual, default=())

    def _thresholded_at(self, threshold: float) -> tuple[int, ...]:
        support = tuple(range(len(self.products)))
        while True:
            coefficients = np.abs(self.fit(support, RIDGE))
            kept = tuple(j for j in support if coefficients[j] >= threshold)
            if kept == support:
                return kept
            support = kept


BASELINES = {
    "best-subset": Statistics.best_subset,
    "stlsq": Statistics.thresholded,
    "omp": Statistics.matching_pursuit,
}
