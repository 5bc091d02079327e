# SPDX-License-Identifier: Apache-2.0
"""The tables of quantile functions against independent high precision, in both tails; their layout.

An error of the quantile function is measured as the error of the probability there over the
density, both from mpmath.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from discrete_grad.quantiles import PIECES, quantile_table
from discrete_grad.reference.noise import quantile

CPU = torch.device("cpu")
SMALLEST, LARGEST = 2.0**-33, 1 - 2.0**-24
ACCURACY = 1e-6  # of |table - Q| / (1 + |Q|): a tenth of what 10^7 draws could show
SUMS = [(1, 10), (5, 10), (10, 10), (16, 100), (100, 10), (2, 1), (0.5, 10), (0.5, 50)]
NAMES = ["normal", "logistic", "laplace", *(f"sum_of_gamma {k} {s}" for k, s in SUMS)]


def _probabilities(count: int) -> np.ndarray:
    """Survival probabilities spread over all octaves of both tails, and the extremes."""
    rng = np.random.default_rng(count)
    upper = np.exp2(rng.uniform(-33, -1, count))
    lower = 1 - np.exp2(rng.uniform(-24, -1, count))
    return np.concatenate([upper, lower, [SMALLEST, 0.25, 0.5, 0.75, LARGEST]])


def _look_up(name: str, v: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    table = quantile_table(name, CPU, dtype)
    return quantile(torch.from_numpy(v).to(dtype), table).double().numpy()


def _error(found: np.ndarray, exact: np.ndarray) -> float:
    return float((np.abs(found - exact) / (1 + np.abs(exact))).max())


def _exact(name: str, v: np.ndarray) -> np.ndarray:
    """Closed forms and SciPy's quantile functions, from the nearer tail."""
    if name == "sum_of_gamma 1 10":  # the largest of ten exponential variates, minus log 10
        return -np.log(-np.expm1(np.log1p(-v) / 10)) - math.log(10)
    law = getattr(scipy.stats, {"normal": "norm"}.get(name, name))
    return np.where(v < 0.5, law.isf(v), law.ppf(1 - v))


ELEMENTARY = ["normal", "logistic", "laplace", "sum_of_gamma 1 10"]


@pytest.mark.parametrize("name", ELEMENTARY)
def test_accuracy_of_elementary_laws(name):
    v = _probabilities(50_000)
    exact = _exact(name, v)
    assert _error(_look_up(name, v), exact) < ACCURACY
    # float32: the numbers v and 1 - v that a backend sees are float32 themselves.
    v32 = v.astype(np.float32).astype(np.float64)
    v32 = v32.clip(SMALLEST, LARGEST)
    assert _error(_look_up(name, v32, torch.float32), _exact(name, v32)) < 2 * ACCURACY


@pytest.mark.parametrize(("kappa", "s"), SUMS)
def test_accuracy_of_sums_of_gammas(kappa, s):
    """Against Talbot's inversion with 40 and more nodes in 80 and more digits."""
    v = _probabilities(12 if s <= 10 else 3)
    found = _look_up(f"sum_of_gamma {kappa} {s}", v)
    degree = 40 if s <= 20 * kappa else 120
    with mpmath.workdps(2 * degree):
        k = mpmath.mpf(kappa)

        def phi(u):
            return mpmath.fprod((1 + k * u / i) ** (-1 / k) for i in range(1, s + 1))

        def error(q: float, probability: float) -> mpmath.mpf:
            y = k * mpmath.mpf(q) + mpmath.log(s)
            if y < mpmath.mpf(2) ** -50:  # then q is -log(s) / kappa but for its last bits
                y = mpmath.mpf(2) ** -50
                below = mpmath.invertlaplace(
                    lambda u: phi(u) / u, y, method="talbot", degree=degree
                )
                assert below > 1 - mpmath.mpf(probability)
                return y
            options = {"method": "talbot", "degree": degree}
            survival = 1 - mpmath.invertlaplace(lambda u: phi(u) / u, y, **options)
            density = mpmath.invertlaplace(phi, y, **options)
            return abs(survival - mpmath.mpf(probability)) / density / k

        errors = [
            float(error(float(q), float(p)) / (1 + abs(float(q))))
            for q, p in zip(found, v, strict=True)
        ]
    assert max(errors) < ACCURACY, (max(errors), v[int(np.argmax(errors))])


@pytest.mark.parametrize("name", NAMES)
def test_pieces_are_monotone_and_meet(name):
    c = quantile_table(name, CPU, torch.float64).numpy()
    assert c.shape == (PIECES, 4) == (881, 4)
    assert np.isfinite(c).all()
    end = c.sum(-1)
    # The upper pieces lead from 2^-33 up to the middle, the lower ones from 2^-24 up to it.
    following = np.concatenate([c[1:512, 0], c[880:, 0], c[513:881, 0]])
    scale = 1 + np.abs(c[:-1, 0])
    assert (np.abs(end[:-1] - following) <= 1e-14 * scale).all()
    assert (c[880, 1:] == 0).all()
    # A cubic's slope is largest and smallest at the ends and at its vertex.
    t = np.where(c[:, 3] != 0, -c[:, 2] / np.where(c[:, 3] == 0, 1, 3 * c[:, 3]), 0).clip(0, 1)
    for at in (np.zeros_like(t), np.ones_like(t), t):
        slope = c[:, 1] + at * (2 * c[:, 2] + 3 * at * c[:, 3])
        assert (slope[:512] <= 1e-14 * scale[:512]).all()
        assert (slope[512:880] >= -1e-14 * scale[512:]).all()
    assert (c[:512, 0] >= end[:512]).all()
    assert (c[512:880, 0] <= end[512:880]).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_falls_as_v_rises(name, dtype):
    v = torch.from_numpy(np.unique(_probabilities(20_000))).to(dtype).unique()
    q = quantile(v, quantile_table(name, CPU, dtype)).double()
    rounding = 4 * torch.finfo(dtype).eps * (1 + q.abs().max())
    assert (q.diff() <= rounding).all()
    assert q[0] > q[-1]


def _expected_position(v: float) -> float:
    """Piece + t, by frexp."""
    x, start, octaves = (v, 0, 33) if v < 0.5 else (1 - v, 512, 24)
    fraction, exponent = math.frexp(x)  # x = fraction 2^exponent, fraction in [1/2, 1)
    octave = exponent - 1 + octaves
    return start + 16 * octave + 16 * (2 * fraction - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layout_at_the_borders(dtype):
    """A table that holds its own positions: piece j at t gives j + t."""
    table = torch.zeros(PIECES, 4, dtype=dtype)
    table[:, 0] = torch.arange(PIECES, dtype=dtype)
    table[:, 1] = 1
    one_ulp = torch.finfo(dtype).eps
    upper = [2.0**-e * m for e in range(1, 34) for m in (1, 1 + one_ulp, 1.0625, 1.5, 2 - one_ulp)]
    upper = [v for v in upper if v < 0.5] + [0.5 - 2.0**-26]
    lower = [1 - 2.0**-e * m for e in range(1, 25) for m in (1, 1 + 2.0**-4, 1.5)]
    lower = [v for v in lower if v >= 0.5] + [0.5 + one_ulp]
    v = torch.tensor(upper + lower, dtype=dtype)
    expected = torch.tensor([_expected_position(x) for x in v.tolist()], dtype=torch.float64)
    found = quantile(v, table)
    assert torch.equal(found, expected.to(dtype))
    ends = quantile(torch.tensor([SMALLEST, 0.5, LARGEST], dtype=dtype), table)
    assert ends.tolist() == [0.0, 880.0, 512.0]


def test_one_table_for_each_law_device_and_dtype():
    table = quantile_table("normal", CPU, torch.float32)
    assert table is quantile_table("normal", CPU, torch.float32)
    assert table.is_contiguous()
    assert table.dtype == torch.float32
    wide = quantile_table("normal", CPU, torch.float64)
    assert torch.equal(wide.float(), table)
    assert not torch.equal(wide, quantile_table("logistic", CPU, torch.float64))


def test_a_table_made_in_inference_mode_serves_autograd():
    name = "sum_of_gamma 3.25 4"
    with torch.inference_mode():
        quantile_table(name, CPU, torch.float64)
    table = quantile_table(name, CPU, torch.float64)
    assert not table.is_inference()
    assert table[0, 0].item() == pytest.approx(_look_up(name, np.array([SMALLEST]))[0])
