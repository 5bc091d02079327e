# SPDX-License-Identifier: Apache-2.0
"""The Kuramoto-Sivashinsky field: simulated here, or read from the file of the published code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.errors import DataError

Array = NDArray[np.float64]
LENGTH = 32 * np.pi
# Points on the circle around each h L over which the coefficients below are averaged; the
# functions are real and even in the imaginary part, so half of the circle suffices.
_CIRCLE = np.exp(1j * np.pi * (np.arange(32) + 0.5) / 32)


@dataclass(frozen=True)
class Field:
    """u(x, t) on a regular grid, periodic in x.

    Args:
        x: [points], the period is points times their distance.
        t: [times].
        u: [points, times].
    """

    x: Array
    t: Array
    u: Array

    def with_noise(self, level: float, seed: int) -> Field:
        """White Gaussian noise of ``level`` times the standard deviation of u added."""
        noise = np.random.default_rng(seed).standard_normal(self.u.shape)
        return replace(self, u=self.u + level * self.u.std() * noise)


def published_start(x: Array) -> Array:
    """cos(x / 16) (1 + sin(x / 16)), which Kassam and Trefethen start from."""
    start: Array = np.cos(x / 16) * (1 + np.sin(x / 16))
    return start


def simulate(
    start: Array | None = None,
    *,
    points: int = 1024,
    length: float = LENGTH,
    duration: float = 100.0,
    every: float = 0.4,
    step: float = 0.05,
) -> Field:
    """u_t = -u u_x - u_xx - u_xxxx with period ``length``: Fourier in space, ETDRK4 in time.

    The linear part is integrated exactly, u u_x = (u^2)_x / 2 by a fourth-order Runge-Kutta scheme
    for exponential time differencing. Products are free of aliasing: the upper third of the
    wavenumbers is left out of them (Orszag's rule).

    Args:
        start: u at t = 0, [points]; None is ``published_start`` at length j / points,
            j = 1..points.
        every: distance of the stored times; a multiple of ``step``.
        step: of the integration.

    Source:
        Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput.
        26(4), 2005: the scheme in section 2, its coefficients by contour integrals in section 3.
    """
    x = length * np.arange(1, points + 1) / points
    start = published_start(x) if start is None else start
    steps = round(every / step)
    if abs(steps * step - every) > 1e-9 * every:
        raise ValueError(f"every must be a multiple of step = {step}, got {every}")
    wavenumber = np.arange(points // 2 + 1)
    q = 2 * np.pi / length * wavenumber
    linear = q**2 - q**4
    product = np.where(wavenumber <= points // 3, -0.5j * q, 0.0)

    def nonlinear(v: NDArray[np.complex128]) -> NDArray[np.complex128]:
        result: NDArray[np.complex128] = product * np.fft.rfft(np.fft.irfft(v, points) ** 2)
        return result

    # Where h L is near 0 the formulas cancel; their means over a circle around it do not.
    z = step * linear[:, None] + _CIRCLE
    e = np.exp(z)
    half = step * ((np.exp(z / 2) - 1) / z).mean(1).real
    first = step * ((-4 - z + e * (4 - 3 * z + z**2)) / z**3).mean(1).real
    middle = step * ((2 + z + e * (z - 2)) / z**3).mean(1).real
    last = step * ((-4 - 3 * z - z**2 + e * (4 - z)) / z**3).mean(1).real
    decay, half_decay = np.exp(step * linear), np.exp(step * linear / 2)

    v = np.fft.rfft(start)
    stored = [start]
    for _ in range(round(duration / every)):
        for _ in range(steps):
            n_v = nonlinear(v)
            a = half_decay * v + half * n_v
            n_a = nonlinear(a)
            n_b = nonlinear(half_decay * v + half * n_a)
            n_c = nonlinear(half_decay * a + half * (2 * n_b - n_v))
            v = decay * v + first * n_v + 2 * middle * (n_a + n_b) + last * n_c
        stored.append(np.fft.irfft(v, points))
    times = every * np.arange(len(stored), dtype=np.float64)
    return Field(x, times, np.stack(stored, axis=1))


def load(path: Path) -> Field:
    """The field of the published code, kuramoto_sivishinky.mat: uu [x, t], x and tt.

    Raises:
        DataError: the file is missing, is no MATLAB file, or lacks what it must hold.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise DataError(f"{path}: there is no such file; expected kuramoto_sivishinky.mat")
    try:
        content = loadmat(path)
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise DataError(f"{path}: not a readable MATLAB 5 file: {error}") from error
    missing = [name for name in ("uu", "x", "tt") if name not in content]
    if missing:
        found = sorted(name for name in content if not name.startswith("__"))
        raise DataError(
            f"{path}: has no {', '.join(missing)}; expected uu, x and tt, found {found}"
        )
    try:
        u, x, t = (np.asarray(content[name], np.float64) for name in ("uu", "x", "tt"))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: uu, x and tt must be real numbers: {error}") from error
    x, t = x.ravel(), t.ravel()
    if u.shape != (len(x), len(t)):
        raise DataError(
            f"{path}: uu must be [x, tt] = [{len(x)}, {len(t)}], its shape is {list(u.shape)}"
        )
    for name, grid, least in (("x", x, 128), ("tt", t, 64)):
        if len(grid) < least:
            raise DataError(f"{path}: {name} has {len(grid)} points, at least {least} are needed")
        distances = np.diff(grid)
        if not (distances[0] > 0 and np.allclose(distances, distances[0], rtol=1e-3)):
            raise DataError(f"{path}: {name} must rise in equal steps")
        if distances[0] > 1:
            raise DataError(
                f"{path}: {name} must have steps of at most 1 (a wave is 9 long), "
                f"it has {distances[0]:g}"
            )
    if not np.isfinite(u).all():
        raise DataError(f"{path}: uu has values that are not finite")
    if not (np.ptp(u, axis=0).any() and np.ptp(u, axis=1).any()):
        raise DataError(f"{path}: uu must vary in x and in tt, it does not")
    return Field(x, t, u)
