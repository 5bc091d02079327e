# SPDX-License-Identifier: Apache-2.0
"""What tables and figures call things."""

from __future__ import annotations

from experiments.plots import LABELS

LOSSES = {"distance": "‖z - b‖²", "least squares": "‖Xz - y‖²"}


def row_label(estimator: str, samples: int) -> str:
    """The estimator, with its number of draws where that is not one."""
    return LABELS[estimator] if samples == 1 else f"{LABELS[estimator]}, S = {samples}"
