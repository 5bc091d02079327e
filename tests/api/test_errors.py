# SPDX-License-Identifier: Apache-2.0
"""Every bad argument: the message names the argument, says what it was and what it must be."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import discrete_grad as dg

LOGITS = torch.randn(3, 5)


def hot(logits):
    """Some subset for ``logits``, whatever they are."""
    return torch.zeros(logits.shape[-1] if isinstance(logits, torch.Tensor) and logits.dim() else 5)


# Functions that take (logits, k).
BY_COUNT = {
    "log_partition": dg.subset.log_partition,
    "marginals": dg.subset.marginals,
    "sample": dg.subset.sample,
    "sample_indices": dg.subset.sample_indices,
    "log_prob": lambda logits, k: dg.subset.log_prob(logits, k, hot(logits)),
    "entropy": dg.subset.entropy,
    "covariance": dg.subset.covariance,
    "mode": dg.subset.mode,
    "simple": dg.simple,
    "perturbed_topk": dg.perturbed_topk,
    "perturbed_topk_indices": dg.perturbed_topk_indices,
    "imle_topk": dg.imle_topk,
    "KSubset": lambda logits, k: dg.KSubset(k, logits=logits, validate_args=False),
}
by_count = pytest.mark.parametrize("function", BY_COUNT.values(), ids=BY_COUNT)

# name -> (logits, error, message)
BAD_LOGITS = {
    "list": ([1.0, 2.0], TypeError, "logits must be a torch.Tensor, got list [1.0, 2.0]"),
    "array": (np.zeros(3), TypeError, "logits must be a torch.Tensor, got ndarray"),
    "int": (
        torch.ones(3, dtype=torch.int64),
        TypeError,
        "logits must have dtype float64, float32, bfloat16 or float16, got torch.int64",
    ),
    "bool": (
        torch.ones(3, dtype=torch.bool),
        TypeError,
        "logits must have dtype float64, float32, bfloat16 or float16, got torch.bool",
    ),
    "complex": (torch.ones(3, dtype=torch.complex64), TypeError, "got torch.complex64"),
    "float8": (torch.ones(3).to(torch.float8_e4m3fn), TypeError, "got torch.float8_e4m3fn"),
    "scalar": (
        torch.tensor(1.0),
        ValueError,
        "logits must have at least one dimension (the last "
        "one holds the n items), got a tensor of shape ()",
    ),
}

# name -> (k, error, message), for logits of shape (3, 5)
BAD_COUNTS = {
    "negative": (
        -1,
        ValueError,
        "k must be from 0 to n = 5 (the last dimension of logits), got -1",
    ),
    "above n": (6, ValueError, "k must be from 0 to n = 5 (the last dimension of logits), got 6"),
    "bool": (True, TypeError, "k must be an int or an integer tensor, got bool True"),
    "float": (2.0, TypeError, "k must be an int or an integer tensor, got float 2.0"),
    "None": (None, TypeError, "k must be an int or an integer tensor, got NoneType None"),
    "string": ("2", TypeError, "k must be an int or an integer tensor, got str '2'"),
}
BAD_COUNT_TENSORS = {
    "float tensor": (
        torch.tensor([1.0, 2.0, 3.0]),
        TypeError,
        "k must be an int or an integer tensor, got a tensor of dtype torch.float32",
    ),
    "bool tensor": (
        torch.tensor([True, False, True]),
        TypeError,
        "k must be an int or an integer tensor, got a tensor of dtype torch.bool",
    ),
    "wrong length": (
        torch.tensor([1, 2]),
        ValueError,
        "k must broadcast to the batch shape (3,) of logits, got a tensor of shape (2,)",
    ),
    "more dimensions": (
        torch.ones(3, 1, dtype=torch.int64),
        ValueError,
        "k must broadcast to the batch shape (3,) of logits, got a tensor of shape (3, 1)",
    ),
    "other device": (
        torch.ones(3, dtype=torch.int64, device="meta"),
        ValueError,
        "k must be on the device of logits, cpu, got meta",
    ),
}


def cases(table):
    return pytest.mark.parametrize(("value", "error", "message"), table.values(), ids=table)


def raises(error, message):
    return pytest.raises(error, match=re.escape(message))


@by_count
@cases(BAD_LOGITS)
def test_logits(function, value, error, message):
    with raises(error, message):
        function(value, 1)


@by_count
@cases(BAD_COUNTS)
def test_k(function, value, error, message):
    with raises(error, message):
        function(LOGITS, value)


@pytest.mark.parametrize(
    "function",
    [BY_COUNT[name] for name in BY_COUNT if not name.endswith("indices") and name != "KSubset"],
)
@cases(BAD_COUNT_TENSORS)
def test_k_tensor(function, value, error, message):
    with raises(error, message):
        function(LOGITS, value)


@by_count
def test_integers_of_other_kinds_are_ints(function):
    function(LOGITS, np.int64(2))
    with raises(ValueError, "k must be from 0 to n = 5 (the last dimension of logits), got 9"):
        function(LOGITS, np.int32(9))


@by_count
def test_no_items_and_k_zero_are_fine(function):
    function(torch.zeros(3, 0), 0)
    with raises(ValueError, "k must be from 0 to n = 0"):
        function(torch.zeros(3, 0), 1)


def test_sample_indices_takes_no_tensor():
    with raises(
        TypeError,
        "k must be an int for sample_indices (its result has k entries per row), "
        "got a tensor of shape (3,) and dtype torch.int64",
    ):
        dg.subset.sample_indices(LOGITS, torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("function", [dg.subset.marginals, dg.subset.log_partition])
@pytest.mark.parametrize("method", ["fft", "", None, 1, ["auto"]])
def test_method(function, method):
    with raises(
        ValueError,
        f"method must be one of 'auto', 'contour', 'linear', 'recursion', got {method!r}",
    ):
        function(LOGITS, 2, method=method)


DRAWING = {
    "sample": dg.subset.sample,
    "sample_indices": dg.subset.sample_indices,
    "simple": dg.simple,
    "perturbed_topk": dg.perturbed_topk,
    "perturbed_topk_indices": dg.perturbed_topk_indices,
    "imle_topk": dg.imle_topk,
}
drawing = pytest.mark.parametrize("function", DRAWING.values(), ids=DRAWING)


@drawing
def test_num_samples(function):
    with raises(ValueError, "num_samples must be at least 0, got -1"):
        function(LOGITS, 2, -1)
    for value in (2.0, True, torch.tensor(2)):
        with raises(TypeError, "num_samples must be None or an int, got "):
            function(LOGITS, 2, value)


@drawing
def test_generator(function):
    with raises(TypeError, "generator must be None or a torch.Generator, got int 0"):
        function(LOGITS, 2, generator=0)


@drawing
def test_generator_on_another_device(function):
    with raises(
        ValueError,
        "generator must be on the device of logits, meta, got a generator on "
        "cpu; make it with torch.Generator('meta')",
    ):
        function(LOGITS.to("meta"), 2, generator=torch.Generator())


@drawing
def test_options_are_keywords(function):
    with pytest.raises(TypeError, match="positional argument"):
        function(LOGITS, 2, None, None)


@pytest.mark.parametrize("order", [0, 3, "1", None, True])
def test_order(order):
    with raises(ValueError, f"order must be one of 1, 2, got {order!r}"):
        dg.simple(LOGITS, 2, order=order)


SUBSETS = {
    "list": ([1, 0], TypeError, "subset must be a torch.Tensor, got list [1, 0]"),
    "complex": (
        torch.zeros(5, dtype=torch.complex64),
        TypeError,
        "subset must be a boolean, integer or floating tensor, got torch.complex64",
    ),
    "wrong n": (
        torch.zeros(3, 4),
        ValueError,
        "subset must be k-hot over the n = 5 items of logits "
        "in its last dimension, got shape (3, 4)",
    ),
    "scalar": (torch.tensor(1.0), ValueError, "subset must be k-hot over the n = 5 items"),
    "wrong batch": (
        torch.zeros(2, 5),
        ValueError,
        "subset must broadcast with logits of shape (3, 5), got shape (2, 5)",
    ),
    "other device": (
        torch.zeros(5, device="meta"),
        ValueError,
        "subset must be on the device of logits, cpu, got meta",
    ),
}


@cases(SUBSETS)
def test_subset(value, error, message):
    with raises(error, message):
        dg.subset.log_prob(LOGITS, 2, value)


PAIRS = {
    "no tensor": ([0.0], TypeError, "logits_q must be a torch.Tensor, got list [0.0]"),
    "int": (torch.zeros(5, dtype=torch.int64), TypeError, "logits_q must have dtype float64"),
    "dtype": (
        torch.zeros(5).double(),
        TypeError,
        "logits_p and logits_q must have the same dtype, got torch.float32 and torch.float64",
    ),
    "items": (
        torch.zeros(3, 4),
        ValueError,
        "logits_p and logits_q must have the same number of items (last dimension), got 5 and 4",
    ),
    "batch": (
        torch.zeros(2, 5),
        ValueError,
        "logits_p must broadcast with logits_q of shape (2, 5), got shape (3, 5)",
    ),
    "device": (
        torch.zeros(5, device="meta"),
        ValueError,
        "logits_p must be on the device of logits_q, meta, got cpu",
    ),
}


@cases(PAIRS)
def test_kl_divergence(value, error, message):
    with raises(error, message):
        dg.subset.kl_divergence(LOGITS, value, 2)


@cases(BAD_COUNTS | BAD_COUNT_TENSORS)
def test_k_of_kl_divergence(value, error, message):
    with raises(error, message):
        dg.subset.kl_divergence(LOGITS, LOGITS, value)


def test_max_count():
    with raises(ValueError, "max_count must be at least 0, got -1"):
        dg.subset.count_log_prob(LOGITS, -1)
    for value in (2.0, True, None, torch.tensor(1)):
        with raises(TypeError, "max_count must be an int, got "):
            dg.subset.count_log_prob(LOGITS, value)


@cases(BAD_LOGITS)
def test_logits_of_count_log_prob(value, error, message):
    with raises(error, message):
        dg.subset.count_log_prob(value, 1)


@cases(BAD_LOGITS)
def test_marginals_of_the_inverse(value, error, message):
    with raises(error, message.replace("logits", "marginals")):
        dg.subset.logits_from_marginals(value)
