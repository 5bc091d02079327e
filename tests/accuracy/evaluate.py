# SPDX-License-Identifier: Apache-2.0
"""Runs a path on NumPy rows and compares what comes back with exact values, each quantity under its
own label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

import discrete_grad as dg
from tests import oracle
from tests.cases import Case
from tests.tolerances import bound

METHODS = ("contour", "linear", "recursion")


class Result(NamedTuple):
    """What one path returned, widened to float64."""

    marginals: np.ndarray
    log_partition: np.ndarray
    vjp: np.ndarray
    log_partition_grad: np.ndarray


def evaluate(
    logits: np.ndarray,
    k: int | np.ndarray,
    grad: np.ndarray,
    dtype: torch.dtype,
    method: str = "auto",
) -> Result:
    """Marginals and log-partition by the public functions, and both gradients by autograd."""
    theta = torch.from_numpy(logits).to(dtype).requires_grad_()
    size = k if isinstance(k, int) else torch.from_numpy(k)
    marginals = dg.subset.marginals(theta, size, method=method)
    (vjp,) = torch.autograd.grad(marginals, theta, torch.from_numpy(grad).to(dtype))
    log_partition = dg.subset.log_partition(theta, size, method=method)
    (slope,) = torch.autograd.grad(log_partition, theta, torch.ones_like(log_partition))
    for name, value, shape in (
        ("marginals", marginals, logits.shape),
        ("log_partition", log_partition, logits.shape[:-1]),
        ("vjp", vjp, logits.shape),
        ("gradient of log_partition", slope, logits.shape),
    ):
        assert value.dtype == dtype, f"{name}: {value.dtype}, not {dtype}"
        assert value.shape == torch.Size(shape), f"{name}: shape {tuple(value.shape)}, not {shape}"
    return Result(*(v.detach().double().numpy() for v in (marginals, log_partition, vjp, slope)))


def check(
    what: str, got: np.ndarray, want: np.ndarray, tolerance: float, *, relative: bool = False
) -> None:
    """Fails with the label, the worst place and both values there. `relative`: to max(1, |want|).
    NaN fails.
    """
    got, want = np.atleast_1d(got), np.atleast_1d(want)
    if want.size == 0:
        return
    same = got == want  # infinities of one sign
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - want))
        if relative:
            error = error / np.maximum(1.0, np.where(same, 1.0, np.abs(want)))
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    assert error[worst] <= tolerance, (
        f"{what}: error {error[worst]:.3g} > {tolerance:.3g} at {tuple(map(int, worst))}: "
        f"got {got[worst]!r}, exact {want[worst]!r}"
    )


def check_row(
    case: Case, exact: oracle.Exact, got: Result, dtype: torch.dtype, method: str
) -> None:
    """All four quantities of one row against the oracle."""
    marginals = oracle.as_floats(exact.marginals)
    tolerance = bound("marginals", dtype, method)
    label = f"{case.id}: "
    check(label + "marginals", got.marginals, marginals, tolerance)
    check(
        label + "log_partition",
        got.log_partition,
        np.array(float(exact.log_partition)),
        bound("log_partition", dtype, method),
        relative=True,
    )
    check(label + "vjp", got.vjp, oracle.as_floats(exact.vjp), bound("vjp", dtype, method))
    # Forced items have marginal 1 but do not enter log Z: its gradient there is 0.
    slope = np.where(np.isposinf(case.logits), 0.0, marginals)
    check(label + "gradient of log_partition", got.log_partition_grad, slope, tolerance)


def check_rows(cases: tuple[Case, ...], got: Result, dtype: torch.dtype, method: str) -> None:
    """A batch of ``padded(cases)``: each row against the oracle, and its padding exactly 0."""
    for row, case in enumerate(cases):
        n = len(case.logits)
        exact = oracle.subset_cached(case.logits, case.k, case.grad)
        one = Result(
            got.marginals[row, :n],
            got.log_partition[row],
            got.vjp[row, :n],
            got.log_partition_grad[row, :n],
        )
        check_row(case, exact, one, dtype, method)
        padding = np.stack([v[row, n:] for v in (got.marginals, got.vjp, got.log_partition_grad)])
        assert not padding.any(), f"{case.id}: an excluded item is not exactly 0"
