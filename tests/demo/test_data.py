# SPDX-License-Identifier: Apache-2.0
"""Reading images: IDX files and what is said of broken ones, the digits and their split."""

from __future__ import annotations

import gzip
import struct

import pytest
import torch

from discrete_grad.demo.data import DataError, load_digits, load_mnist, read_idx


@pytest.mark.parametrize("name", ["values-idx3-ubyte", "values-idx3-ubyte.gz"])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (2, 1, 3, 2), (0, 4, 4)])
def test_round_trip(tmp_path, write_idx, name, shape):
    values = torch.randint(0, 256, shape, dtype=torch.uint8)
    write_idx(tmp_path / name, values)
    read = read_idx(tmp_path / name)
    assert read.dtype == torch.uint8
    assert torch.equal(read, values)


HEADER = struct.pack(">HBB3I", 0, 8, 3, 2, 2, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends within its header, after 0 bytes"),
        (b"\x00\x00\x08", "ends within its header, after 3 bytes"),
        (HEADER[:11], "ends within its header, after 11 bytes"),
        (HEADER + bytes(7), r"announces 2x2x2 = 8 bytes, the file has 7"),
        (HEADER + bytes(9), r"announces 2x2x2 = 8 bytes, the file has 9"),
        (b"\x89PNG" + bytes(20), "not an IDX file of unsigned bytes: it starts with 89 50 4e 47"),
        (struct.pack(">HBBI", 0, 0x0D, 1, 1) + bytes(4), "it starts with 00 00 0d 01"),
    ],
)
def test_corrupt_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_idx(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: b"x" + whole])
def test_corrupt_gzip_is_named(tmp_path, damage):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(HEADER + bytes(8))))
    with pytest.raises(DataError, match="not a complete gzip file") as raised:
        read_idx(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_mnist_folder(mnist_folder):
    images = load_mnist(mnist_folder)
    assert (images.height, images.width, images.pixels, images.trials) == (6, 5, 30, 1)
    assert images.train.shape == (120, 30)
    assert images.test.shape == (30, 30)
    raw = read_idx(mnist_folder / "t10k-images-idx3-ubyte")
    torch.testing.assert_close(images.test * 255, raw.flatten(1).float())


def test_dotted_names_are_found(mnist_folder):
    path = mnist_folder / "t10k-images-idx3-ubyte"
    path.rename(mnist_folder / "t10k-images.idx3-ubyte")
    assert load_mnist(mnist_folder).test.shape == (30, 30)


def test_missing_folder_and_file(tmp_path, mnist_folder):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        load_mnist(tmp_path / "nowhere")
    (mnist_folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte: there is no such file, and none"):
        load_mnist(mnist_folder)


def test_images_that_do_not_fit(mnist_folder, write_idx):
    path = mnist_folder / "t10k-images-idx3-ubyte"
    write_idx(path, torch.zeros(4, 6, 6, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"training images are 6x5 pixels, the test images 6x6"):
        load_mnist(mnist_folder)
    write_idx(path, torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"images have 3 dimensions, this file has 1"):
        load_mnist(mnist_folder)
    write_idx(path, torch.zeros(0, 6, 5, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"holds no image"):
        load_mnist(mnist_folder)


def test_digits_are_split_by_seed():
    first, again, other = load_digits(0), load_digits(0), load_digits(1)
    assert (len(first.train), len(first.test)) == (1438, 359)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)
    counts = first.train * first.trials
    assert torch.equal(counts, counts.round())
    assert (counts.min(), counts.max()) == (0, 16)

    def every(images):
        return torch.cat([images.train, images.test]).sum(0)

    assert torch.equal(every(first), every(other))  # the same images, split differently
