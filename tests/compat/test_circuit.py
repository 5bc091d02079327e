# SPDX-License-Identifier: Apache-2.0
"""The circuit layer: shapes, small probabilities, padding, and no files."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from mpmath import mp
from torch.testing import assert_close

from discrete_grad.compat import law
from discrete_grad.compat.circuit import Layer
from tests import oracle

MODES = ("exact", "compat")


@pytest.mark.parametrize("mode", MODES)
def test_shapes_and_values(backend, mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = Layer(12, 4, "cpu", root="./simple_configs", mode=mode)
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    log_mu = layer.log_pr(x)
    assert log_mu.shape == (12, 5)
    assert log_mu.dtype == x.dtype
    assert_close(log_mu.exp().T, law.marginals(x, 4, mode), rtol=1e-12, atol=1e-13)
    grad = torch.randn(5, 12, dtype=torch.float64)
    (found,) = torch.autograd.grad(log_mu.exp().T, x, grad)
    (expected,) = torch.autograd.grad(law.marginals(x, 4, mode), x, grad)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    hot = layer.sample(x, 4, 3)
    assert hot.shape == (3, 5, 12)
    assert not hot.requires_grad
    assert hot.sum(-1).eq(4).all()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_as_if_it_were_not_there(mode):
    """As the clients pad: with -1e10, to a power of two."""
    x = torch.randn(3, 11, dtype=torch.float64)
    padded = torch.cat([x, torch.full((3, 5), -1e10)], 1).requires_grad_()
    layer = Layer(16, 4, "cpu", mode=mode)
    log_mu = layer.log_pr(padded)
    assert_close(log_mu[:11].exp().T, law.marginals(x, 4, mode), rtol=1e-12, atol=1e-13)
    assert log_mu[11:].exp().eq(0).all()
    (gradient,) = torch.autograd.grad(log_mu.exp()[:11].sum(1) @ torch.randn(11).double(), padded)
    assert gradient.isfinite().all()
    assert gradient[:, 11:].eq(0).all()
    assert gradient[:, :11].abs().max() > 0
    assert layer.sample(padded, 4, 50)[..., 11:].eq(0).all()
    # fewer real items than the subset needs: all of them, and no padding
    few = padded.detach().clone()
    few[:, 3:] = -1e10
    assert layer.log_pr(few).exp().T.tolist() == [[1.0] * 3 + [0.0] * 13] * 3
    assert layer.sample(few, 4, 2).eq(layer.log_pr(few).exp().T).all()


def test_small_probabilities_keep_their_digits():
    """Against 60-digit arithmetic, beside k items that are all but certain."""
    n, k = 60, 10
    x = torch.randn(1, n, dtype=torch.float64)
    x[0, :k] += 100.0
    log_mu = Layer(n, k, "cpu").log_pr(x).squeeze(1)
    exact = oracle.subset(x[0].tolist(), k, [0.0] * n).marginals
    expected = torch.tensor([float(mp.log(value)) for value in exact], dtype=torch.float64)
    assert_close(log_mu, expected, rtol=1e-12, atol=1e-10)
    x[0, -1] = -1000.0  # below the least number of float64
    assert Layer(n, k, "cpu").log_pr(x)[-1, 0] == -math.inf


def test_rows_without_a_subset_are_nan():
    x = torch.randn(2, 4)
    x[0, 1] = float("nan")
    log_mu = Layer(4, 2, "cpu").log_pr(x).T
    assert log_mu[0].isnan().all()
    assert log_mu[1].isfinite().all()


def test_subset_size_of_the_call():
    """``sample`` has a k of its own, as the published layer."""
    layer = Layer(8, 3, "cpu")
    assert layer.sample(torch.randn(2, 8), 5, 2).sum(-1).eq(5).all()
    assert layer.sample(torch.randn(2, 8), 50, 2).eq(1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layer(0, 0, "cpu"), "n must be at least 1, got 0"),
        (lambda: Layer(4, 5, "cpu"), "k must be from 0 to n = 4, got 5"),
        (lambda: Layer(4, 2, "cpu", mode="raw"), "mode must be 'exact' or 'compat', got 'raw'"),
        (
            lambda: Layer(5, 2, "cpu").log_pr(torch.zeros(2, 6)),
            r"\[rows, 5\] or, padded, \[rows, 8",
        ),
        (lambda: Layer(5, 2, "cpu").sample(torch.zeros(5), 2, 1), "got \\(5,\\)"),
        (lambda: Layer(5, 2, "cpu").sample(torch.zeros(2, 5), 2, 0), "times must be at least 1"),
        (lambda: Layer(5, 2, "cpu").sample(torch.zeros(2, 5), -1, 1), "k must be at least 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [2.0, True, torch.tensor(2), "2", None])
def test_sizes_are_ints(wrong):
    with pytest.raises(TypeError, match="k must be an int, got"):
        Layer(4, wrong, "cpu")
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
        Layer(4, 2, "cpu").log_pr([0.0])


def test_the_adapters_are_imported_by_name_only():
    code = (
        "import sys, discrete_grad; print('discrete_grad.compat' in sys.modules);"
        "import discrete_grad.compat as c; print(c.sfess.get_sampler(None, 'cpu'), c.circuit.Layer)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["False", "None"]
