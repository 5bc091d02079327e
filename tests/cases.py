# SPDX-License-Identifier: Apache-2.0
"""The table of adversarial rows that every path is held to.

Each row is one Case with a readable id. Numbers come from the frozen `numpy.random.RandomState`
streams and are rounded to a grid, so they are the same on every platform. Rows are exactly
representable in float32 (one oracle value serves both dtypes) except the family "full", which uses
all 53 bits: a float64 path that narrows anywhere fails there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

INF = float("inf")


@dataclass(frozen=True)
class Case:
    """One row: logits [n], the subset size k, and the incoming gradient of the marginals (|g| <=
    1).
    """

    id: str
    logits: np.ndarray = field(repr=False)
    k: int
    grad: np.ndarray = field(repr=False)

    @property
    def fits_float32(self) -> bool:
        return bool(np.all(self.logits.astype(np.float32) == self.logits))


def _grid(x: np.ndarray) -> np.ndarray:
    """To multiples of 2^-16 and to float32, so that one ulp of a platform's libm cannot change a
    row.
    """
    return (
        (np.round(np.asarray(x, np.float64) * 2.0**16) * 2.0**-16)
        .astype(np.float32)
        .astype(np.float64)
    )


def _stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(crc32(name.encode()))


def _case(name: str, logits: np.ndarray, k: int) -> Case:
    grad = _grid(_stream(name + "/grad").uniform(-1, 1, len(logits)))
    return Case(name, np.asarray(logits, np.float64), k, grad)


def _normal(name: str, n: int, scale: float) -> np.ndarray:
    return _grid(_stream(name).standard_normal(n) * scale)


def _sizes() -> list[Case]:
    """n from 1 to 300 around block and vector widths, each at k = 0, 1, n-1, n and two in
    between.
    """
    out = []
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129):
        logits = _normal(f"size{n}", n, 2.0)
        ks = (0, 1, n - 1, n, n // 2, n // 3) if n <= 17 else (1, n // 4, n - 1)
        out += [_case(f"size-n{n}-k{k}", logits, k) for k in sorted(set(ks)) if 0 <= k <= n]
    return out


def _scales() -> list[Case]:
    out = []
    for scale in (0, 0.01, 0.5, 1, 3, 10, 30, 87):
        for n, k in ((50, 1), (50, 13), (50, 49), (123, 61)):
            name = f"normal-scale{scale:g}-n{n}-k{k}"
            out.append(_case(name, _normal(name, n, scale), k))
    for scale, k in ((1, 30), (1, 150), (10, 150), (87, 270)):
        name = f"normal-scale{scale:g}-n300-k{k}"
        out.append(_case(name, _normal(name, 300, scale), k))
    return out


def _tails() -> list[Case]:
    out = []
    for n, k in ((64, 8), (64, 60), (300, 40)):
        name = f"cauchy-n{n}-k{k}"
        out.append(_case(name, _grid(_stream(name).standard_cauchy(n)), k))
    base = _normal("shift", 50, 2.0)
    for shift in (-1e4, 1e4):
        rounded = (base + shift).astype(np.float32).astype(np.float64)
        out += [_case(f"shift{shift:+.0e}-k{k}", rounded, k) for k in (1, 12, 49)]
    halves = np.where(np.arange(50) % 2 == 0, 1e4, -1e4)
    both = (base + halves).astype(np.float32).astype(np.float64)
    out += [_case(f"shift-both-ways-k{k}", both, k) for k in (24, 25, 26)]
    for value in (100, 1e4, -100, -1e4):
        name = f"one-{'huge' if value > 0 else 'tiny'}{value:+g}"
        logits = _normal(name, 40, 1.0)
        logits[17] = value
        out += [_case(f"{name}-k{k}", logits, k) for k in (1, 2, 20, 39)]
    return out


def _gaps() -> list[Case]:
    out = []
    for n, top in ((60, 20), (300, 150), (5, 2)):
        base = _normal(f"gap{n}", n, 1.0)
        base[np.arange(n) * 7 % n < top] += 200
        out += [_case(f"gap200-n{n}-top{top}-k{k}", base, k) for k in (top - 1, top, top + 1)]
    for gap in (5, 20, 40):  # V between e^-5 and e^-40: where the rule's node count shrinks to one
        base = _normal(f"gap{gap}", 48, 0.5)
        base[:16] += gap
        out += [_case(f"gap{gap}-n48-k{k}", base, k) for k in (15, 16, 17)]
    stairs = np.repeat([0.0, 60.0, 120.0, 180.0], 12) + _normal("stairs", 48, 0.25)
    out += [_case(f"stairs-k{k}", _grid(stairs), k) for k in (12, 18, 24, 30)]
    return out


def _regular() -> list[Case]:
    """Ties and ramps."""
    out = [
        _case(f"equal-n{n}-k{k}", np.full(n, 0.75), k)
        for n, k in ((6, 3), (33, 11), (300, 150), (300, 299))
    ]
    two = np.where(np.arange(40) < 10, 3.0, -1.0)
    out += [_case(f"two-values-k{k}", two, k) for k in (5, 10, 11)]
    out.append(_case("blocks-of-ties", np.repeat([-2.0, 0.0, 0.5, 4.0], 25), 37))
    for step in (0.0078125, 0.25, 1.0, 4.0):
        logits = (np.arange(101) - 50) * step
        out += [_case(f"ramp-step{step:g}-k{k}", logits, k) for k in (1, 34, 100)]
    out.append(_case("ramp-down-n257-k64", (128 - np.arange(257)) * 0.5, 64))
    out.append(
        _case("tie-at-the-threshold", np.array([9.0, 9.0, 9.0, 1.0, 1.0, 1.0, -9.0, -9.0]), 5)
    )
    return out


def _masks() -> list[Case]:
    logits = _normal("mask", 40, 2.0)
    excluded = logits.copy()
    excluded[::3] = -INF
    forced = logits.copy()
    forced[[5, 11, 39]] = INF
    both = excluded.copy()
    both[[1, 2, 38]] = INF
    live_excluded = int(np.isfinite(excluded).sum())
    live_both = int(np.isfinite(both).sum())
    shifted = excluded + 1e4
    return [
        *(_case(f"excluded-k{k}", excluded, k) for k in (0, 1, 9, live_excluded - 1)),
        _case("excluded-exactly-k-live", excluded, live_excluded),
        *(_case(f"forced-k{k}", forced, k) for k in (4, 13, 39)),
        _case("forced-exactly-k", forced, 3),
        _case("forced-all-n", forced, 40),
        *(
            _case(f"excluded-and-forced-k{k}", both, k)
            for k in (3, 4, 12, live_both + 2, live_both + 3)
        ),
        _case("excluded-shifted", shifted.astype(np.float32).astype(np.float64), 9),
        _case("all-excluded-k0", np.full(5, -INF), 0),
        _case("all-forced", np.full(5, INF), 5),
        _case("one-live-among-masks", np.array([-INF, 0.5, INF, -INF]), 2),
        _case("one-live-left-out", np.array([-INF, 0.5, INF, -INF]), 1),
    ]


def _full_precision() -> list[Case]:
    """All 53 bits in use; from integers, so that no libm is involved."""
    out = []
    for n, k in ((2, 1), (37, 9), (200, 100)):
        name = f"full-n{n}-k{k}"
        out.append(
            _case(name, (_stream(name).randint(0, 2**53, n, dtype=np.int64) / 2.0**53 - 0.5) * 8, k)
        )
    return out


CASES: tuple[Case, ...] = (
    *_sizes(),
    *_scales(),
    *_tails(),
    *_gaps(),
    *_regular(),
    *_masks(),
    *_full_precision(),
)
FLOAT32_CASES: tuple[Case, ...] = tuple(c for c in CASES if c.fits_float32)
BY_ID: dict[str, Case] = {c.id: c for c in CASES}
assert len(BY_ID) == len(CASES), "two cases share an id"


def padded(cases: tuple[Case, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of many cases in one batch, filled up with -inf: logits [rows, n], k [rows], grad
    [rows, n].
    """
    n = max(len(c.logits) for c in cases)
    logits, grad = np.full((len(cases), n), -INF), np.zeros((len(cases), n))
    for row, case in enumerate(cases):
        logits[row, : len(case.logits)] = case.logits
        grad[row, : len(case.grad)] = case.grad
    return logits, np.array([c.k for c in cases]), grad
