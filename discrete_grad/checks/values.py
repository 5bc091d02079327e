# SPDX-License-Identifier: Apache-2.0
"""Checks that read values on the host: called only where that is part of the contract."""

from __future__ import annotations

import torch
from torch import Tensor


def k_subset_values(k: int | Tensor, logits: Tensor) -> None:
    """Every row must have a k-subset: no NaN, and forced items <= k <= items that are not excluded.

    Reads values on the host.
    """
    if isinstance(k, Tensor):
        n = logits.size(-1)
        _no_row("k", (k < 0) | (k > n), k, f"must be from 0 to n = {n} in every row")
    _no_row("logits", logits.isnan().any(-1), None, "must not be NaN")
    counts = torch.as_tensor(k, device=logits.device).expand(logits.shape[:-1])
    forced = (logits == torch.inf).sum(-1)
    _no_row("logits", forced > counts, forced, "must force (+inf) at most k items", counts)
    live = (logits != -torch.inf).sum(-1)
    _no_row("logits", live < counts, live, "must leave at least k items that are not -inf", counts)


def _no_row(
    name: str, bad: Tensor, got: Tensor | None, must: str, counts: Tensor | None = None
) -> None:
    if not bool(bad.any()):
        return
    row = tuple(bad.nonzero()[0].tolist())
    where = f"row {row}" if row else "its only row"
    found = "a NaN" if got is None else str(got[row].item())
    wanted = "" if counts is None else f" (k = {counts[row].item()})"
    raise ValueError(f"{name} {must}, got {found} in {where}{wanted}")


def probabilities(name: str, value: Tensor) -> None:
    """Every entry must lie in [0, 1]. Reads values on the host."""
    bad = ~((value >= 0) & (value <= 1))  # NaN is outside
    if bool(bad.any()):
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name} must be in [0, 1], got {value[index].item()} at index {index}")


def integer_sums(name: str, sums: Tensor, allowed: Tensor) -> None:
    """Every row's sum must be within ``allowed`` of an integer. Reads values on the host."""
    off = (sums - sums.round()).abs() > allowed
    _no_row(name, off, sums, "must sum to an integer (k) in every row")


def converged(what: str, error: Tensor, accepted: float) -> None:
    """Every row's residual must be at most ``accepted``. Reads values on the host.

    Raises:
        RuntimeError: some row's is not; the message names the rows, and the largest residual.
    """
    bad = ~(error <= accepted)  # NaN is not accepted
    if bool(bad.any()):
        rows = [tuple(row) for row in bad.nonzero().tolist()]
        named = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        raise RuntimeError(
            f"{what} did not converge in {len(rows)} of {error.numel()} rows "
            f"({named}): residual up to {error[bad].max().item():.3g}, accepted {accepted:.3g}"
        )
