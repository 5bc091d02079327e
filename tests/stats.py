# SPDX-License-Identifier: Apache-2.0
"""Statistics that decide whether a sampler draws from the law it claims.

Seeds are fixed, so each test always sees the same numbers; the thresholds (p > 1e-4 for a
chi-square, a z-score that a right sampler exceeds once in 10^4 such tests) say what a right
implementation may show, and are never tuned to a run.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.stats

P_VALUE = 1e-4  # the smallest p-value that passes
MIN_EXPECTED = (
    5.0  # cells below this are pooled: the usual condition for the chi-square approximation
)


def subset_codes(khot: np.ndarray) -> np.ndarray:
    """The k-hot rows [draws, n], n <= 62, as integers: bit i set where item i is in the subset."""
    return (khot != 0).astype(np.int64) @ (np.int64(1) << np.arange(khot.shape[-1], dtype=np.int64))


def chi_square_p(codes: np.ndarray, law: dict[int, float]) -> float:
    """p-value of the observed subsets against their exact law.

    A subset outside the law's support gives 0. Cells of small expectation are pooled into one,
    which is compared too.
    """
    seen, counts = np.unique(codes, return_counts=True)
    if not set(seen.tolist()) <= set(law):
        return 0.0
    draws = len(codes)
    order = sorted(law)
    observed = np.zeros(len(order))
    observed[np.searchsorted(order, seen)] = counts
    expected = draws * np.array([law[c] for c in order])
    small = expected < MIN_EXPECTED
    if small.any():
        observed = np.append(observed[~small], observed[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
        if (
            expected[-1] < MIN_EXPECTED
        ):  # the pool itself is rare: a Poisson test of it, the rest by chi-square
            rare, expected_rare = observed[-1], expected[-1]
            p_rare = scipy.stats.poisson.sf(rare - 1, expected_rare)
            return min(p_rare, _pearson_p(observed[:-1], expected[:-1]))
    return _pearson_p(observed, expected)


def _pearson_p(observed: np.ndarray, expected: np.ndarray) -> float:
    if len(expected) < 2:
        return 1.0
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return float(scipy.stats.chi2.sf(statistic, len(expected) - 1))


def max_z_bound(tests: int) -> float:
    """The two-sided normal quantile that the largest of `tests` z-scores exceeds with probability
    P_VALUE at most.
    """
    return float(scipy.stats.norm.isf(P_VALUE / (2 * tests)))


def poisson_two_sided_p(observed: int, expected: float) -> float:
    """Two-sided p-value of a count of rare events."""
    lower = scipy.stats.poisson.cdf(observed, expected)
    upper = scipy.stats.poisson.sf(observed - 1, expected)
    return float(min(1.0, 2 * min(lower, upper)))


def marginal_z(frequency: np.ndarray, marginals: np.ndarray, draws: int) -> np.ndarray:
    """z-scores of inclusion frequencies; items without variance must agree exactly and are left
    out.
    """
    variance = marginals * (1 - marginals)
    fixed = variance == 0
    assert np.array_equal(frequency[fixed], marginals[fixed]), (
        "an item that is always in or out was not"
    )
    return (frequency[~fixed] - marginals[~fixed]) / np.sqrt(variance[~fixed] / draws)


def covariance_z(
    both: np.ndarray,
    mu_i: np.ndarray,
    mu_j: np.ndarray,
    mean_i: np.ndarray,
    mean_j: np.ndarray,
    cov: np.ndarray,
    draws: int,
) -> np.ndarray:
    """z-scores of the centred products (z_i - mu_i)(z_j - mu_j), averaged over the draws, against
    their covariance.

    `both`: frequency of i and j together; `mean_*`: frequencies; `mu_*`, `cov`: exact. The variance
    of the product is exact too: it takes four values with probabilities given by mu_i, mu_j and
    cov.
    """
    observed = both - mu_i * mean_j - mu_j * mean_i + mu_i * mu_j
    p11 = cov + mu_i * mu_j
    p10, p01 = mu_i - p11, mu_j - p11
    p00 = 1 - p11 - p10 - p01
    second = (
        p11 * ((1 - mu_i) * (1 - mu_j)) ** 2
        + p10 * ((1 - mu_i) * mu_j) ** 2
        + p01 * (mu_i * (1 - mu_j)) ** 2
        + p00 * (mu_i * mu_j) ** 2
    )
    return (observed - cov) / np.sqrt((second - cov**2) / draws)


def sum_of_squares_z(z: np.ndarray) -> float:
    """How far sum z^2 of nearly independent z-scores is from their number, in its own standard
    deviations.
    """
    return float((np.sum(z**2) - z.size) / math.sqrt(2 * z.size))
