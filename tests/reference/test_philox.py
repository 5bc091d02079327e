# SPDX-License-Identifier: Apache-2.0
"""Philox4x32-10 against the known answers of its authors, and the numbers made from its words."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from discrete_grad.reference import philox
from tests import stats

# kat_vectors of the Random123 library: counter, key, result.
KNOWN = {
    "zeros": (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    "ones": (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "digits-of-pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def _word(value: int) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int64)


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name):
    counter, key, result = KNOWN[name]
    words = philox.philox4x32(tuple(map(_word, counter)), tuple(map(_word, key)))
    assert tuple(int(w) for w in words) == result


def _one(seed: int, row: int, purpose: int, round: int, position: int) -> float:
    """The definition, word by word, in Python integers around the known-good block function."""
    key = (_word(seed & 0xFFFFFFFF), _word(seed >> 32 & 0xFFFFFFFF))
    counter = (
        _word(position // 4),
        _word(row & 0xFFFFFFFF),
        _word(row >> 32 & 0xFFFFFFFF),
        _word(purpose | round << 8),
    )
    bits = int(philox.philox4x32(counter, key)[position % 4])
    return min((bits + 0.5) * 2.0**-32, 1 - 2.0**-24)


@pytest.mark.parametrize("seed", [0, 2**62 - 1, 123456789012345678, -1])
def test_layout_of_the_counter(seed):
    rows = torch.tensor([0, 1, 2**32 - 1, 2**32, 2**40 + 7])
    for purpose, number in ((0, 0), (1, 3 << 16 | 5), (2, 2**24 - 1)):
        got = philox.uniform_row(torch.tensor([seed]), rows, purpose, number, 6)
        want = [[_one(seed, int(r), purpose, number, p) for p in range(6)] for r in rows]
        assert got.tolist() == want
        position = torch.tensor([5, 0, 2, 3, 1])
        scattered = philox.uniform(torch.tensor([seed]), rows, purpose, number, position)
        assert scattered.tolist() == [w[p] for w, p in zip(want, position.tolist(), strict=True)]


def test_extreme_words():
    """The smallest number is half a step above 0; the largest is 1 - 2^-24 in float32 too."""
    words = torch.tensor([0, 1, 0xFFFFFFFF])
    for dtype in (torch.float32, torch.float64):
        v = philox._to_uniform(words, dtype)
        assert v.dtype == dtype
        assert v.tolist() == [2.0**-33, 1.5 * 2.0**-32, 1 - 2.0**-24]


def test_numbers_are_uniform_and_streams_differ():
    """Kolmogorov-Smirnov in each of four streams that differ in one word of the counter or key."""
    streams = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    draws = [
        philox.uniform_row(torch.tensor([seed]), torch.tensor(row), purpose, 0, 20_000).numpy()
        for seed, row, purpose in streams
    ]
    for v in draws:
        assert scipy.stats.kstest(v, "uniform").pvalue > stats.P_VALUE
    for i in range(4):
        for j in range(i):
            z = abs(((draws[i] - 0.5) * (draws[j] - 0.5)).mean()) * 12 * 20_000**0.5
            assert z < stats.max_z_bound(6), (streams[i], streams[j])
