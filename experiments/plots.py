# SPDX-License-Identifier: Apache-2.0
"""One look for all figures: an estimator has the same colour and name in each."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# After Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind readers too.
# Relatives share a hue: SIMPLE blue, I-MLE orange, AIMLE red, score function purple, relaxed green.
COLOURS = {
    "exact": "#000000",
    "simple": "#0072B2",
    "simple_second_order": "#56B4E9",
    "simple_unbiased": "#003A5D",
    "simple_f": "#7FB0CF",
    "simple_b": "#A9C7DA",
    "imle": "#E69F00",
    "imle_central": "#B87F00",
    "aimle": "#D55E00",
    "aimle_central": "#8C3A00",
    "score_function": "#CC79A7",
    "score_function_loo": "#A0527C",
    "score_function_moving_average": "#E3B4CF",
    "straight_through": "#999999",
    "gumbel_softmax": "#7CCBB4",
    "gumbel_softmax_hard": "#009E73",
    "perturbed_optimizer": "#C2B200",
    "blackbox": "#6B6B00",
    "identity": "#555555",
}
LABELS = {
    "exact": "exact",
    "simple": "SIMPLE",
    "simple_second_order": "SIMPLE, second order",
    "simple_unbiased": "SIMPLE, unbiased",
    "simple_f": "SIMPLE-F",
    "simple_b": "SIMPLE-B",
    "imle": "I-MLE",
    "imle_central": "I-MLE, central",
    "aimle": "AIMLE",
    "aimle_central": "AIMLE, central",
    "score_function": "score function",
    "score_function_loo": "score function, leave-one-out",
    "score_function_moving_average": "score function, moving average",
    "straight_through": "straight-through",
    "gumbel_softmax": "relaxed top-k",
    "gumbel_softmax_hard": "ST Gumbel top-k",
    "perturbed_optimizer": "perturbed optimizer",
    "blackbox": "blackbox",
    "identity": "identity",
}


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 5.0, height: float = 3.6, **options: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure and its axes [rows, columns], ``width`` x ``height`` inches each.

    Args:
        options: of ``Figure.subplots``, for example ``sharey=True``.
    """
    result = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=150)
    return result, result.subplots(rows, columns, squeeze=False, **options)


def style(
    axes: Axes,
    xlabel: str,
    ylabel: str,
    *,
    title: str | None = None,
    log: str = "",
    legend: bool = False,
) -> None:
    """Labels, a light grid, no frame above and right.

    Args:
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
    """
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if title is not None:
        axes.set_title(title, fontsize="medium")
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.grid(True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize="small")
