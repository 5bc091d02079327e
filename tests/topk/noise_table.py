# SPDX-License-Identifier: Apache-2.0
"""A law of noise given by a table whose every piece differs, for the kernels that read tables."""

from __future__ import annotations

import torch
from torch import Tensor

PIECES = 881
UPPER_PIECES = 512  # those of v < 1/2, where the noise falls as the number of the piece grows


def quantile_table(dtype: torch.dtype) -> Tensor:
    """[881, 4]: monotone and continuous, 0 at v = 1/2, about linear in log v and log(1 - v)."""
    slope = 0.05
    piece = torch.arange(PIECES, dtype=torch.float64)
    upper = piece < UPPER_PIECES
    start = torch.where(upper, UPPER_PIECES - piece, piece - (PIECES - 1)) * slope
    rise = torch.where(upper, -slope, slope)
    return torch.stack([start, 1.2 * rise, -0.6 * rise, 0.4 * rise], -1).to(dtype)
