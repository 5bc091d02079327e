# SPDX-License-Identifier: Apache-2.0
"""Grey images as rows of pixels in [0, 1]: scikit-learn's digits, or MNIST from IDX files.

The IDX format, from the page that MNIST was published on: two zero bytes, a byte for the type (8:
unsigned bytes), a byte for the number of dimensions, each dimension as a big-endian 32-bit integer,
then the values, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_UNSIGNED_BYTE = 8
_TEST_FRACTION = 0.2
_MNIST_FILES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")


class DataError(Exception):
    """The data cannot be read; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Images:
    """A training and a test set of grey images."""

    name: str
    train: Tensor  # float32 [number, height * width], in [0, 1]
    test: Tensor
    height: int
    width: int
    trials: int  # each pixel counts as that many independent Bernoulli observations

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return self.height * self.width


def load_digits(seed: int) -> Images:
    """scikit-learn's 1,797 real handwritten digits, 8x8; ``seed`` draws the test set, a fifth.

    A pixel is the number, from 0 to 16, of black dots in a 4x4 block of a scanned 32x32 bitmap. So
    it counts as 16 observations: the likelihood is that of the 1,024 dots.
    """
    from sklearn.datasets import load_digits as bundled

    images = torch.from_numpy(bundled().data).float() / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out = round(_TEST_FRACTION * len(images))
    train, test = images[order[held_out:]], images[order[:held_out]]
    return Images("scikit-learn digits", train, test, height=8, width=8, trials=16)


def load_mnist(folder: Path) -> Images:
    """MNIST, with its own split, from the two IDX files of images in ``folder``, gzipped or not.

    Any data in the same format and under the same file names will do, Fashion-MNIST for one. A
    grey value counts as one observation's probability, as in the published experiments.

    Raises:
        DataError: the folder or a file is missing, or a file is no IDX file of images.
    """
    train, test = (_read_images(_find(folder, name)) for name in _MNIST_FILES)
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{folder}: the training images are {train.shape[1]}x{train.shape[2]} pixels, "
            f"the test images {test.shape[1]}x{test.shape[2]}"
        )
    height, width = train.shape[1:]
    return Images("MNIST", _flat(train), _flat(test), height=height, width=width, trials=1)


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    # Some copies of MNIST have a dot in place of the last hyphen but one.
    stems = (name, name.replace("-idx", ".idx"))
    for candidate in (folder / f"{stem}{ending}" for stem in stems for ending in ("", ".gz")):
        if candidate.is_file():
            return candidate
    raise DataError(f"{folder / name}: there is no such file, and none with .gz at its end")


def _read_images(path: Path) -> Tensor:
    images = read_idx(path)
    if images.ndim != 3:
        raise DataError(f"{path}: images have 3 dimensions, this file has {images.ndim}")
    if images.numel() == 0:
        raise DataError(f"{path}: the file holds no image (its shape is {tuple(images.shape)})")
    return images


def read_idx(path: Path) -> Tensor:
    """The unsigned bytes of an IDX file, gzipped if its name ends in .gz, in the file's own shape.

    Raises:
        DataError: the file cannot be read, is not in this format, or is too short or too long.
    """
    content = _content(path)
    if len(content) < 4:
        raise DataError(f"{path}: the file ends within its header, after {len(content)} bytes")
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or kind != _UNSIGNED_BYTE:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ')}, "
            "expected 00 00 08 and the number of dimensions"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(f"{path}: the file ends within its header, after {len(content)} bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected, found = math.prod(shape), len(content) - start
    if expected != found:
        raise DataError(
            f"{path}: the header announces {'x'.join(map(str, shape))} = {expected} bytes, "
            f"the file has {found}"
        )
    if expected == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
