# SPDX-License-Identifier: Apache-2.0
"""The k largest items: the MAP state of the k-subset law."""

from __future__ import annotations

from torch import Tensor

from discrete_grad import checks, subset


class TopK:
    """See ``topk``.

    Attributes:
        k: number of items that are chosen.
    """

    def __init__(self, k: int) -> None:
        self.k = checks.count("k", k)

    def __call__(self, weights: Tensor) -> Tensor:
        return subset.mode(weights, self.k)

    def __repr__(self) -> str:
        return f"topk({self.k})"


def topk(k: int) -> TopK:
    """argmax_z <theta, z> over the 0/1 vectors with exactly k ones: weights [..., n] to k-hot.

    Ties go to the lowest index. Runs on the device of the weights and reads no value on the host,
    so a row without a k-subset (a NaN, fewer than k weights above -inf, more than k of +inf) is
    NaN, and nothing is raised.

    Args:
        k: number of items to choose, at least 0. More than n is a ValueError at the call.
    """
    return TopK(k)
