# SPDX-License-Identifier: Apache-2.0
"""Bad arguments of KSubset. Values are checked under validate_args, and only there."""

from __future__ import annotations

import re

import pytest
import torch

import discrete_grad as dg

LOGITS = torch.randn(3, 5)
INF = float("inf")


def raises(error, message):
    return pytest.raises(error, match=re.escape(message))


VALUES = {
    "NaN": (
        {"k": 2, "logits": torch.tensor([[0.0, 1, 2], [0.0, float("nan"), 1]])},
        "logits must not be NaN, got a NaN in row (1,)",
    ),
    "too few live": (
        {"k": 2, "logits": torch.tensor([0.0, -INF, -INF])},
        "logits must leave at least k items that are not -inf, got 1 in its only row (k = 2)",
    ),
    "too many forced": (
        {"k": 1, "logits": torch.tensor([[0.0, 1, 2], [INF, INF, 0]])},
        "logits must force (+inf) at most k items, got 2 in row (1,) (k = 1)",
    ),
    "k too large": (
        {"k": torch.tensor([[1, 2], [4, 1]]), "logits": torch.zeros(3)},
        "k must be from 0 to n = 3 in every row, got 4 in row (1, 0)",
    ),
    "k negative": (
        {"k": torch.tensor([1, -1]), "logits": torch.zeros(3)},
        "k must be from 0 to n = 3 in every row, got -1 in row (1,)",
    ),
    "probs": (
        {"k": 1, "probs": torch.tensor([[0.5, 0.5], [0.2, 1.25]])},
        "probs must be in [0, 1], got 1.25 at index (1, 1)",
    ),
    "probs NaN": (
        {"k": 1, "probs": torch.tensor([0.5, float("nan")])},
        "probs must be in [0, 1], got nan at index (1,)",
    ),
    "probs too few live": (
        {"k": 2, "probs": torch.tensor([0.5, 0.0])},
        "logits must leave at least k items that are not -inf, got 1 in its only row (k = 2)",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), VALUES.values(), ids=VALUES)
def test_values_of_a_distribution(arguments, message):
    with raises(ValueError, message):
        dg.KSubset(**arguments, validate_args=True)
    with raises(ValueError, message):
        dg.KSubset(**arguments)  # the default of torch.distributions
    dg.KSubset(**arguments, validate_args=False)


def test_shapes_of_a_distribution():
    with raises(ValueError, "exactly one of logits and probs must be given, got neither"):
        dg.KSubset(2)
    with raises(ValueError, "exactly one of logits and probs must be given, got both"):
        dg.KSubset(2, logits=LOGITS, probs=LOGITS.sigmoid())
    with raises(
        ValueError, "k must broadcast with the batch shape of logits, (3,), got shape (2,)"
    ):
        dg.KSubset(torch.tensor([1, 2]), logits=LOGITS)
    with raises(ValueError, "k must be on the device of logits, cpu, got meta"):
        dg.KSubset(torch.ones(3, dtype=torch.int64, device="meta"), logits=LOGITS)
    for k in (torch.tensor([1.0]), torch.tensor([True])):
        with raises(
            TypeError, f"k must be an int or an integer tensor, got a tensor of dtype {k.dtype}"
        ):
            dg.KSubset(k, logits=LOGITS)
    with raises(TypeError, "probs must be a torch.Tensor, got float 0.5"):
        dg.KSubset(2, probs=0.5)
