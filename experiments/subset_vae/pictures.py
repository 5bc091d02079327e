# SPDX-License-Identifier: Apache-2.0
"""Grey images as text, two hexadecimal digits a pixel: small enough for a committed record."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_text(images: Tensor) -> list[str]:
    """A string for each of the images [number, pixels] in [0, 1]."""
    grey = (images * 255).round().to(torch.uint8).cpu().numpy()
    return [row.tobytes().hex() for row in grey]


def from_text(texts: list[str], height: int, width: int) -> NDArray[np.float64]:
    """The images again, side by side with a white column between them: [height, total width]."""
    pixels = [np.frombuffer(bytes.fromhex(text), np.uint8) / 255 for text in texts]
    tiles = [np.pad(p.reshape(height, width), ((0, 0), (0, 1))) for p in pixels]
    return np.concatenate(tiles, axis=1)[:, :-1]
