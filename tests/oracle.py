# SPDX-License-Identifier: Apache-2.0
"""Exact answers in 60-digit arithmetic, written without the package, without torch and without the
contour.

The k-subset law p(S) = prod_{i in S} w_i / e_k(w), w_i = exp(theta_i), is computed from the
definition of the elementary symmetric polynomials: e_j(w_1..w_i) = e_j(w_1..w_{i-1}) + w_i
e_{j-1}(w_1..w_{i-1}). Every term is positive, so nothing cancels and each value holds its 60 digits
*relatively*, however small it is; mpmath's exponents have no range to leave. The derivative in a
direction g is carried along each step (dual numbers); since the Jacobian of the marginals is the
covariance matrix, which is symmetric, the directional derivative is the vector-Jacobian product
too.

`two_groups` serves rows of a million items, where the tables above cannot be formed: the number of
items taken from each group of equal logits follows Fisher's noncentral hypergeometric law, a sum
over one integer.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mpmath import mp, mpf

mp.dps = 60

INF = float("inf")


class Exact(NamedTuple):
    """Exact values of one row; items that are excluded or forced included, in their places."""

    log_partition: mpf
    marginals: list[mpf]  # [n]
    vjp: list[mpf]  # [n], Cov(z) g


class _Dual(NamedTuple):
    """A table of e_j and of its derivative in the direction g."""

    value: list[mpf]
    tangent: list[mpf]


def _prefix_tables(weights: Sequence[mpf], grad: Sequence[mpf], k: int) -> list[_Dual]:
    """e_j of the first i weights for i = 0..n and j = 0..k, with tangents (d w_i = w_i g_i)."""
    value, tangent = [mpf(1)], [mpf(0)]
    tables = [_Dual(value, tangent)]
    for w, g in zip(weights, grad, strict=True):
        dw = w * g
        grown, grown_tangent = [*value, mpf(0)], [*tangent, mpf(0)]
        for j in range(1, len(grown)):
            grown[j] += w * value[j - 1]
            grown_tangent[j] += w * tangent[j - 1] + dw * value[j - 1]
        value, tangent = grown[: k + 1], grown_tangent[: k + 1]
        tables.append(_Dual(value, tangent))
    return tables


def _live_row(theta: Sequence[mpf], k: int, grad: Sequence[mpf]) -> Exact:
    """Exact values of a row without excluded or forced items."""
    n = len(theta)
    weights = [mp.exp(t) for t in theta]
    before = _prefix_tables(weights, grad, k)
    after = _prefix_tables(weights[::-1], grad[::-1], k)[::-1]  # after[i]: items i..n-1
    z, dz = before[n].value[k], before[n].tangent[k]
    marginals, vjp = [], []
    for i in range(n):
        left, right = before[i], after[i + 1]
        rest = d_rest = mpf(0)  # e_{k-1} of all the other items
        for j in range(max(0, k - len(right.value)), min(len(left.value), k)):
            m = k - 1 - j
            rest += left.value[j] * right.value[m]
            d_rest += left.tangent[j] * right.value[m] + left.value[j] * right.tangent[m]
        mu = weights[i] * rest / z
        marginals.append(mu)
        vjp.append(weights[i] * (grad[i] * rest + d_rest) / z - mu * dz / z)
    return Exact(mp.log(z), marginals, vjp)


def subset(logits: Sequence[float], k: int, grad: Sequence[float] | None = None) -> Exact:
    """log Z_k, the marginals and Cov(z) grad of one row. O(n k) multiplications of 60 digits.

    `logits` may hold -inf (excluded) and +inf (forced: counts towards k, adds 0 to log Z).
    Raises ValueError for a row that has no subset of k items.
    """
    grad = [0.0] * len(logits) if grad is None else grad
    live = [i for i, t in enumerate(logits) if abs(t) != INF]
    forced = [i for i, t in enumerate(logits) if t == INF]
    k_live = k - len(forced)
    if not 0 <= k_live <= len(live):
        raise ValueError(f"no subset: k = {k}, {len(forced)} forced, {len(live)} live items")
    row = _live_row(
        [mpf(float(logits[i])) for i in live], k_live, [mpf(float(grad[i])) for i in live]
    )
    marginals, vjp = [mpf(0)] * len(logits), [mpf(0)] * len(logits)
    for i in forced:
        marginals[i] = mpf(1)
    for i, mu, c in zip(live, row.marginals, row.vjp, strict=True):
        marginals[i], vjp[i] = mu, c
    return Exact(row.log_partition, marginals, vjp)


@functools.cache
def _subset_cached(logits: tuple[float, ...], k: int, grad: tuple[float, ...]) -> Exact:
    return subset(logits, k, grad)


def subset_cached(logits: np.ndarray, k: int, grad: np.ndarray) -> Exact:
    """`subset`, kept for the rest of the session: many paths are held to the same row."""
    return _subset_cached(tuple(logits.tolist()), k, tuple(grad.tolist()))


def enumerate_subsets(logits: Sequence[float], k: int) -> dict[tuple[int, ...], mpf]:
    """P(S) of every subset of k live items by listing them all: the first rung, for small n
    only.
    """
    live = [i for i, t in enumerate(logits) if abs(t) != INF]
    forced = tuple(i for i, t in enumerate(logits) if t == INF)
    weight = {i: mp.exp(mpf(float(logits[i]))) for i in live}
    mass = {
        tuple(sorted((*forced, *chosen))): mp.fprod(weight[i] for i in chosen)
        for chosen in itertools.combinations(live, k - len(forced))
    }
    total = mp.fsum(mass.values())
    return {s: m / total for s, m in mass.items()}


def count_log_prob(logits: Sequence[float], max_count: int) -> list[mpf]:
    """log P(sum_i X_i = j), X_i ~ Bernoulli(sigmoid(logits_i)), for j = 0..max_count; -inf where it
    cannot be.
    """
    prob = [mpf(1)]
    for t in logits:
        t = float(t)
        if t == INF:
            q, p = mpf(1), mpf(0)
        elif t == -INF:
            q, p = mpf(0), mpf(1)
        else:
            q, p = 1 / (1 + mp.exp(-mpf(t))), 1 / (1 + mp.exp(mpf(t)))
        grown = [p * v for v in prob] + [mpf(0)]
        for j, v in enumerate(prob):
            grown[j + 1] += q * v
        prob = grown[: max_count + 1]
    prob += [mpf(0)] * (max_count + 1 - len(prob))
    return [mp.log(v) if v > 0 else -mp.inf for v in prob]


class TwoGroups(NamedTuple):
    """Moments of a row of n1 items with logit a and n2 with logit b; X counts the chosen items of
    the first group.
    """

    log_partition: mpf
    mu1: mpf
    mu2: mpf
    cov11: mpf  # of two different items of the first group
    cov12: mpf
    cov22: mpf

    def vjp(self, grad: np.ndarray, n1: int) -> np.ndarray:
        """Cov(z) grad in float64 for any grad [n]: the covariance has only five different
        entries.
        """
        g1, g2 = grad[:n1], grad[n1:]
        s1, s2 = mp.fsum(map(mpf, g1.tolist())), mp.fsum(map(mpf, g2.tolist()))
        var1, var2 = self.mu1 * (1 - self.mu1), self.mu2 * (1 - self.mu2)
        shift1 = float(self.cov11 * s1 + self.cov12 * s2)
        shift2 = float(self.cov12 * s1 + self.cov22 * s2)
        first = float(var1 - self.cov11) * g1 + shift1
        second = float(var2 - self.cov22) * g2 + shift2
        return np.concatenate([first, second])


def two_groups(n1: int, n2: int, a: float, b: float, k: int) -> TwoGroups:
    """Exact moments for n1 items of logit a and n2 of logit b, any n: P(X = x) ~ C(n1, x) C(n2, k -
    x) e^{(a-b) x}.

    The sum runs outwards from the mode until terms fall below 1e-70 of the largest; neighbours by
    their ratio.
    """
    ratio = mp.exp(mpf(a) - mpf(b))
    low, high = max(0, k - n2), min(k, n1)

    def step(x: int) -> mpf:  # P(X = x + 1) / P(X = x)
        return ratio * (n1 - x) * (k - x) / (mpf(x + 1) * (n2 - k + x + 1))

    lo, hi = low, high  # the first x where the ratio drops below one is the mode
    while lo < hi:
        mid = (lo + hi) // 2
        lo, hi = (mid + 1, hi) if step(mid) >= 1 else (lo, mid)
    mode = lo
    tiny = mpf(10) ** -70
    sums = [mpf(0)] * 3  # of P, P (x - mode), P (x - mode)^2
    term, x = mpf(1), mode
    while True:
        d = x - mode
        sums = [sums[0] + term, sums[1] + term * d, sums[2] + term * d * d]
        if x == high or term < tiny:
            break
        term, x = term * step(x), x + 1
    term, x = mpf(1), mode
    while x > low and term >= tiny:
        term, x = term / step(x - 1), x - 1
        d = x - mode
        sums = [sums[0] + term, sums[1] + term * d, sums[2] + term * d * d]
    shift = sums[1] / sums[0]
    mean, var = mode + shift, sums[2] / sums[0] - shift**2
    log_binomials = _log_binomial(n1, mode) + _log_binomial(n2, k - mode)
    log_z = mp.log(sums[0]) + log_binomials + mpf(a) * mode + mpf(b) * (k - mode)
    mu1, mu2 = mean / n1, (k - mean) / n2
    # Var X = n1 mu1 (1 - mu1) + n1 (n1 - 1) cov11, Cov(X, k - X) = -Var X = n1 n2 cov12.
    cov11 = (var - n1 * mu1 * (1 - mu1)) / (mpf(n1) * (n1 - 1))
    cov22 = (var - n2 * mu2 * (1 - mu2)) / (mpf(n2) * (n2 - 1))
    return TwoGroups(log_z, mu1, mu2, cov11, -var / (mpf(n1) * n2), cov22)


def _log_binomial(n: int, k: int) -> mpf:
    return mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1)


def as_floats(values: Sequence[mpf]) -> np.ndarray:
    """Rounded once to float64; what is below 1e-308 becomes 0 or a subnormal."""
    return np.array([float(v) for v in values], dtype=np.float64)
