# SPDX-License-Identifier: Apache-2.0
"""The 14 candidate terms of the equation, and u_t, as columns of a regression.

They are pysindy's PDELibrary of the functions u and u^2 with derivatives up to the fourth: the
functions, the derivatives, and their products.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from experiments.sparse_regression.kuramoto_sivashinsky import Array, Field

_DERIVATIVES = ("u_x", "u_xx", "u_xxx", "u_xxxx")
TERMS = (
    "u",
    "u²",
    *_DERIVATIVES,
    *(f"{factor} {name}" for name in _DERIVATIVES for factor in ("u", "u²")),
)
# u_t = -u_xx - u_xxxx - u u_x.
TRUTH = {"u_xx": -1.0, "u_xxxx": -1.0, "u u_x": -1.0}
SUPPORT = tuple(TERMS.index(name) for name in TRUTH)

# Half widths of the test function, in x and t (a wave of the field is 2 pi sqrt(2) = 8.9 long), and
# the power of its bump. The window is wide enough to average noise away, and short enough that the
# waves do not cancel within it.
_HALF_WIDTH_X, _HALF_WIDTH_T, _POWER = 4.0, 4.4, 8


def _terms(u: Array, derivatives: tuple[Array, ...]) -> Array:
    """The columns in the order of ``TERMS``, [14, points, times]."""
    products = [factor * d for d in derivatives for factor in (u, u**2)]
    return np.stack([u, u**2, *derivatives, *products])


def finite_differences(field: Field) -> tuple[Array, Array]:
    """Central differences of second order in x and t: pysindy's default, the published choice.

    Returns:
        the 14 columns, [14, rows], and u_t, [rows]; a row for each point and time.
    """
    u, h = field.u, field.x[1] - field.x[0]
    west, east = np.roll(u, 1, axis=0), np.roll(u, -1, axis=0)
    far_west, far_east = np.roll(u, 2, axis=0), np.roll(u, -2, axis=0)
    derivatives = (
        (east - west) / (2 * h),
        (east - 2 * u + west) / h**2,
        (far_east - 2 * east + 2 * west - far_west) / (2 * h**3),
        (far_east - 4 * east + 6 * u - 4 * west + far_west) / h**4,
    )
    u_t = np.gradient(u, field.t[1] - field.t[0], axis=1, edge_order=2)
    return _terms(u, derivatives).reshape(len(TERMS), -1), u_t.ravel()


def weak_form(field: Field) -> tuple[Array, Array]:
    """Both sides of the equation averaged with a smooth bump around each point and time.

    <phi, u_t> = -<phi_t, u>, and a derivative in x commutes with the average, so that no noise is
    differentiated in u_t and in the linear terms. In the products u is first freed of the
    wavenumbers in which there is only noise, and its derivatives are exact ones of the Fourier
    series.

    Returns:
        the 14 columns, [14, rows], and u_t, [rows]; a row for each point, and each time whose bump
        lies within the field.

    Sources:
        Reinbold, Gurevich, Grigoriev, "Using noisy or incomplete data to discover models of
        spatiotemporal dynamics", Phys. Rev. E 101, 2020; Messenger and Bortz, "Weak SINDy for
        partial differential equations", J. Comput. Phys. 443, 2021.
    """
    points = len(field.x)
    h, step = field.x[1] - field.x[0], field.t[1] - field.t[0]
    spectrum = np.fft.rfft(field.u, axis=0)
    spectrum[signal_band(field.u) :] = 0
    iq = 2j * np.pi / (points * h) * np.arange(len(spectrum))[:, None]
    u, *derivatives = (np.fft.irfft(iq**order * spectrum, points, axis=0) for order in range(5))

    offset, bump, _ = _bump(_HALF_WIDTH_X / h)
    kernel = np.zeros(points)
    kernel[offset] = bump / bump.sum()
    transfer = np.fft.rfft(kernel)[:, None]
    _, phi, phi_t = _bump(_HALF_WIDTH_T / step)

    def average(values: Array, weights: Array) -> Array:
        smooth = np.fft.irfft(np.fft.rfft(values, axis=-2) * transfer, points, axis=-2)
        result: Array = sliding_window_view(smooth, len(weights), axis=-1) @ weights
        return result

    total = phi.sum()
    columns = average(_terms(u, tuple(derivatives)), phi / total)
    u_t = average(u, -phi_t / (total * step))
    return columns.reshape(len(TERMS), -1), u_t.ravel()


def signal_band(u: Array) -> int:
    """The number of wavenumbers, from 0 on, in which u [points, times] is more than noise.

    White noise has the same power in all; the upper half of the spectrum, where the field itself
    has next to none, tells how much.
    """
    power = (np.abs(np.fft.rfft(u, axis=0)) ** 2).mean(1)
    floor = np.median(power[len(power) // 2 :])
    return 1 + int(np.flatnonzero(power > 2 * floor)[-1])


def _bump(half_width: float) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Array, Array]:
    """(1 - s^2)^p on the grid points s = j / half_width within (-1, 1): j, values, d/dj."""
    inside = int(np.ceil(half_width)) - 1
    offset = np.arange(-inside, inside + 1)
    s = offset / half_width
    slope = -2 * _POWER * s * (1 - s**2) ** (_POWER - 1) / half_width
    return offset, (1 - s**2) ** _POWER, slope


COLUMNS: dict[str, Callable[[Field], tuple[Array, Array]]] = {
    "finite": finite_differences,
    "weak": weak_form,
}
