# SPDX-License-Identifier: Apache-2.0
"""First and second derivatives on the device against finite differences in float64."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import discrete_grad as dg
from tests.autograd.functions import FUNCTIONS, ROWS, batch
from tests.gpu.device import DEVICE, require_cuda, seeded

require_cuda()
pytestmark = pytest.mark.gpu

NAMES = (
    "log_partition-contour",
    "marginals-contour",
    "marginals-linear",
    "marginals-recursion",
    "entropy",
    "covariance",
)


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.to(DEVICE).requires_grad_()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(gpu_backend, name, row):
    logits, k = ROWS[row]
    assert gradcheck(lambda x: FUNCTIONS[name](x, k), (leaf(logits),))


@pytest.mark.parametrize("row", ["normal", "k1", "ties", "wide", "gap", "shifted", "masked"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "covariance"])
def test_gradgradcheck(gpu_backend, name, row):
    logits, k = ROWS[row]
    assert gradgradcheck(lambda x: FUNCTIONS[name](x, k), (leaf(logits),))


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_k_for_each_row(gpu_backend, name):
    logits, sizes = batch()
    sizes = sizes.to(DEVICE)
    assert gradcheck(lambda x: FUNCTIONS[name](x, sizes), (leaf(logits),))
    assert gradgradcheck(lambda x: FUNCTIONS[name](x, sizes), (leaf(logits),))


@pytest.mark.parametrize("most", [0, 3, 6])
def test_count_log_prob(gpu_backend, most):
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0, -0.25, 4.0], dtype=torch.float64)
    assert gradcheck(lambda x: dg.subset.count_log_prob(x, most), (leaf(logits),))
    assert gradgradcheck(lambda x: dg.subset.count_log_prob(x, most), (leaf(logits),))


@pytest.mark.parametrize("n", [130, 9000])
def test_second_derivatives_of_long_rows(gpu_backend, n):
    """Against the reference under plain autograd, on the CPU."""
    torch.manual_seed(1)
    logits = torch.randn(2, n, dtype=torch.float64)
    g, h = torch.randn(2, 2, n, dtype=torch.float64)

    def second(x):
        theta = x.clone().requires_grad_()
        mu = dg.subset.marginals(theta, n // 5)
        (vjp,) = torch.autograd.grad(mu, theta, g.to(x.device), create_graph=True)
        return torch.autograd.grad(vjp, theta, h.to(x.device))[0].cpu()

    got = second(logits.to(DEVICE))
    with dg.backend("reference"):
        want = second(logits)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2])
def test_simple(gpu_backend, order):
    """The gradient is that of the formula, for the draws that were made."""
    torch.manual_seed(2)
    logits = torch.randn(3, 20, dtype=torch.float64, device=DEVICE, requires_grad=True)
    g = torch.randn(4, 3, 20, dtype=torch.float64, device=DEVICE)
    z = dg.simple(logits, 6, 4, order=order, generator=seeded(1))
    (got,) = torch.autograd.grad(z, logits, g)
    mu = dg.subset.marginals(logits, 6).detach()
    sigma = dg.subset.covariance(logits, 6).detach()
    want = torch.einsum("rij,srj->ri", sigma, g)
    if order == 2:
        along = ((z.detach() - mu) * g).sum(-1, keepdim=True)
        want = (want + ((z.detach() - mu) * along).sum(0)) / 2
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["contour", "linear", "recursion"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_both_gradients_at_once(gpu_backend, method, dtype):
    """Marginals and log-partition in one backward pass, against float64."""
    logits = torch.randn(5, 70, device=DEVICE).to(dtype)
    g, c = torch.rand_like(logits), torch.rand_like(logits[:, 0])

    def gradient(x):
        theta = x.clone().requires_grad_()
        mu = dg.subset.marginals(theta, 11, method=method)
        log_z = dg.subset.log_partition(theta, 11, method=method)
        loss = (mu.double() * g.to(x.device).double()).sum()
        loss = loss + (log_z.double() * c.to(x.device).double()).sum()
        return torch.autograd.grad(loss, theta)[0].double().cpu()

    got = gradient(logits)
    with dg.backend("reference"):
        want = gradient(logits.cpu().double())
    # Two gradients below one, each rounded to the dtype, and their sum below two.
    tolerance = {torch.float32: 3e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)
