# SPDX-License-Identifier: Apache-2.0
"""The certificate of the contour: how far a rule of so many nodes can be from the exact law, from V
alone.

Everything here is exact arithmetic on the rule, no kernel: aliasing is bounded by Bennett's
inequality, what is left out by |phi(t)| <= exp(-2 V sin^2(t/2)), and both bounds are then
confronted with the true error of the rule on rows whose characteristic function has a closed form.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mpmath import mp, mpc, mpf

from discrete_grad.reference import contour
from tests.tolerances import bound

DTYPES = [torch.float32, torch.float64]
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
HEADER = Path(__file__).parents[2] / "csrc" / "core" / "node_rule.h"
# From rows that are almost certain to 10^9 items; dense where the number of nodes changes.
GRID = np.concatenate(
    [np.geomspace(1e-8, 0.1, 60), np.linspace(0.1, 40, 800), np.geomspace(40, 2.5e8, 400)]
)


def total_nodes(rule: contour.NodeRule, variance: float, live: int) -> int:
    """M: the next odd number, capped at the first odd number above the live items."""
    wanted = math.ceil(rule.slope * math.sqrt(variance) + rule.offset)
    return min(wanted | 1, (live + 1) | 1)


def angles(rule: contour.NodeRule, variance: float, total: int) -> tuple[np.ndarray, np.ndarray]:
    """t_m of the nodes 1 <= m < M/2 that are kept, and of those that are left out."""
    t = 2 * np.pi * np.arange(1, (total + 1) // 2) / total
    kept = 2 * variance * np.sin(t / 2) ** 2 <= rule.cut
    assert not np.any(np.diff(kept.astype(int)) > 0)  # kept ones come first
    return t[kept], t[~kept]


def aliasing_bound(variance: float, total: int) -> float:
    """2 exp(-V h(M / V)), h(x) = (1 + x) log(1 + x) - x (Bennett)."""
    x = total / variance
    return 2 * math.exp(-variance * ((1 + x) * math.log1p(x) - x))


def truncation_bound(variance: float, total: int, dropped: np.ndarray) -> float:
    """The weight of the nodes left out relative to M P(S = k), by |phi| <= exp(-2 V sin^2).

    P(S = k) >= 1 / (2 sqrt(1 + 12 V)): an integer variable of variance V has a mode of probability
    1/sqrt(1 + 12 V) or more, and k, within a fraction of sqrt(V) of the mean, has at least half of
    that.
    """
    if dropped.size == 0:
        return 0.0
    weight = 2 * np.exp(-2 * variance * np.sin(dropped / 2) ** 2).sum()
    return float(weight / total * 2 * math.sqrt(1 + 12 * variance))


@DTYPE
def test_bounds_hold_on_the_grid(dtype):
    """Uncapped rule: relative aliasing and truncation stay below the accuracy that is promised for
    the dtype.
    """
    rule = contour.node_rule(dtype)
    for variance in GRID.tolist():
        total = total_nodes(rule, variance, 2**62)
        _, dropped = angles(rule, variance, total)
        error = aliasing_bound(variance, total) + truncation_bound(variance, total, dropped)
        assert error <= bound("marginals", dtype), (
            f"V = {variance:.6g}: M = {total}, error bound {error:.3g}"
        )


@DTYPE
def test_no_kept_node_is_cut_off(dtype):
    """The fixed room for nodes is never too small, and is used up by some V (so that it is not just
    large).
    """
    rule = contour.node_rule(dtype)
    most = 0
    for variance in GRID.tolist():
        for live in (10, 25, 63, 2**62):
            kept, _ = angles(rule, variance, total_nodes(rule, min(variance, live / 4), live))
            most = max(most, len(kept)) if variance <= live / 4 else most
    assert most == rule.most


@DTYPE
def test_kernels_use_the_same_rule(dtype):
    """The constants of the C++ header are those of the reference, to which the certificate
    applies.
    """
    rule = contour.node_rule(dtype)
    name = "float" if dtype == torch.float32 else "double"
    body = re.search(r"struct NodeRule<" + name + r"> \{(.*?)\};", HEADER.read_text(), re.S)
    assert body is not None
    constants = dict(re.findall(r"static constexpr \w+ (\w+) = ([\d.]+);", body[1]))
    want = {
        "kSlope": rule.slope,
        "kOffset": rule.offset,
        "kExponent": rule.cut,
        "kMaxNodes": rule.most,
    }
    assert {key: float(value) for key, value in constants.items()} == want


@mp.workdps(60)
def _rule_error(rule: contour.NodeRule, n: int, k: int, q: mpf) -> tuple[mpf, mpf]:
    """True errors of the rule for n items of probability q: relative, of P(S = k); absolute, of the
    marginal k/n.

    In 60 digits, so all that is seen is aliasing and truncation.
    """
    variance = float(n * q * (1 - q))
    total = total_nodes(rule, variance, n)
    kept, _ = angles(rule, variance, total)
    weights, shifts = [mpf(1)], [mpf(0)]
    for m in range(1, len(kept) + 1):
        t = 2 * mp.pi * m / total
        turn = mp.expj(t) - 1
        u = 1 + q * turn
        weight = 2 * mp.exp(n * mp.log(u)) * mp.expj(-2 * mp.pi * (k * m % total) / total)
        weights.append(mpc(weight).real)
        shifts.append((weight * q * (1 - q) * turn / u).real)
    sum_weights = mp.fsum(weights)
    log_exact = (
        mp.loggamma(n + 1)
        - mp.loggamma(k + 1)
        - mp.loggamma(n - k + 1)
        + k * mp.log(q)
        + (n - k) * mp.log(1 - q)
    )
    relative = abs(sum_weights / total / mp.exp(log_exact) - 1)
    return relative, abs(q + mp.fsum(shifts) / sum_weights - mpf(k) / n)


@DTYPE
@pytest.mark.parametrize("n", [5, 40, 301, 10_001, 10**6, 10**9])
def test_true_error_on_equal_logits(dtype, n):
    """n equal items, q off the saddle point by as much as the tilt may be: a binomial law, in
    closed form.
    """
    rule = contour.node_rule(dtype)
    ks = {1, 2, 3, 10, 31, n // 1000, n // 10, n // 2}
    for k in sorted(k for k in ks if 0 < k < n):
        for off in (-0.3, 0.0, 0.3):
            spread = max(1.0, math.sqrt(k * (n - k) / n))
            mean = k + off * spread
            if not 0 < mean < n:
                continue
            relative, marginal = _rule_error(rule, n, k, mpf(mean) / n)
            where = f"n = {n}, k = {k}, mean off by {off} sd"
            assert relative <= bound("log_partition", dtype), (
                f"{where}: P(S = k) off by {mp.nstr(relative, 3)}"
            )
            assert marginal <= bound("marginals", dtype), (
                f"{where}: marginal off by {mp.nstr(marginal, 3)}"
            )


@DTYPE
def test_a_smaller_rule_breaks_the_certificate(dtype):
    """The certificate is sharp enough to notice a slope smaller by one or a cut smaller by a
    quarter.
    """
    rule = contour.node_rule(dtype)
    variance = 2.5e5
    for weaker in (rule._replace(slope=rule.slope - 1.5), rule._replace(cut=rule.cut * 0.7)):
        total = total_nodes(weaker, variance, 2**62)
        _, dropped = angles(weaker, variance, total)
        error = aliasing_bound(variance, total) + truncation_bound(variance, total, dropped)
        assert error > bound("marginals", dtype)
