# SPDX-License-Identifier: Apache-2.0
"""Small files in MNIST's format; one thread, as the demo has it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

WriteIdx = Callable[[Path, Tensor], None]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Batches are small here. Put back afterwards, also where the demo has set it itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_idx() -> WriteIdx:
    """Writes unsigned bytes of any shape as an IDX file; gzipped if the name says so."""

    def write(path: Path, values: Tensor) -> None:
        header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
        content = header + bytes(values.flatten().tolist())
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)

    return write


@pytest.fixture
def mnist_folder(tmp_path: Path, write_idx: WriteIdx) -> Path:
    """120 training and 30 test images of 6x5 pixels: a dark bar on one of three rows."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, number in (("train-images-idx3-ubyte.gz", 120), ("t10k-images-idx3-ubyte", 30)):
        images = torch.randint(0, 40, (number, 6, 5), dtype=torch.uint8)
        images[torch.arange(number), 1 + torch.arange(number) % 3] = 250
        write_idx(folder / name, images)
    return folder
