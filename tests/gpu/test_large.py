# SPDX-License-Identifier: Apache-2.0
"""Rows of 2^24 items, 10^8 short rows, and tensors of more than 2^31 elements."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from tests.accuracy.evaluate import check
from tests.gpu.device import DEVICE, require_cuda, require_memory, seeded
from tests.tolerances import bound

require_cuda()
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

LONG = 2**24


def outputs(logits, k, grad):
    """Marginals, log-partition and the VJP, as float64 NumPy."""
    theta = logits.requires_grad_()
    mu = dg.subset.marginals(theta, k)
    (vjp,) = torch.autograd.grad(mu, theta, grad)
    log_z = dg.subset.log_partition(theta.detach(), k)
    return [value.detach().cpu().double().numpy() for value in (mu, log_z, vjp)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("k", [100, 2**16, LONG // 2])
def test_one_long_row(gpu_backend, dtype, k):
    """Against the CPU in float64; |g| <= 1 with a mean, so that a VJP not centred shows."""
    require_memory(4)
    logits = torch.randn(1, LONG, generator=seeded(k, torch.device("cpu"))).double()
    grad = torch.rand(1, LONG, generator=seeded(1, torch.device("cpu"))).double() * 1.2 - 0.2
    got = outputs(logits.to(DEVICE, dtype), k, grad.to(DEVICE, dtype))
    with dg.backend("cpp"):
        want = outputs(logits.clone(), k, grad.to(dtype).double())
    assert abs(got[0].sum() / k - 1) < (2e-6 if dtype == torch.float32 else 1e-12)
    for name, value, exact in zip(("marginals", "log_partition", "vjp"), got, want, strict=True):
        relative = name == "log_partition"
        # The CPU in float64 is held to the exact values with the same bound.
        tolerance = bound(name, dtype) + bound(name, torch.float64)
        check(name, value, exact, tolerance, relative=relative)


def test_a_long_row_with_certain_items(gpu_backend):
    require_memory(2)
    logits = torch.randn(2, LONG, device=DEVICE)
    logits[:, ::3], logits[1, 1::3000] = -torch.inf, torch.inf
    forced = int((logits[1] == torch.inf).sum())
    sizes = torch.tensor([5000, forced + 5000], device=DEVICE)
    mu = dg.subset.marginals(logits, sizes)
    assert not bool(mu[:, ::3].any())
    assert bool((mu[1, 1::3000] == 1).all())
    total = mu.double().sum(-1)
    torch.testing.assert_close(total, sizes.double(), rtol=2e-6, atol=0)
    z = dg.subset.sample(logits, sizes, generator=seeded(1))
    assert torch.equal(z.sum(-1, dtype=torch.float64), sizes.double())
    assert not bool(z[:, ::3].any())
    assert bool((z[1, 1::3000] == 1).all())


def slices(rows: int) -> list[slice]:
    """The ends and the middle: what is compared with the CPU, row by row."""
    return [slice(0, 4096), slice(rows // 2, rows // 2 + 4096), slice(rows - 4096, rows)]


def test_many_groups_of_four(gpu_backend):
    """N:M sparsity: 10^8 rows."""
    rows = 10**8
    require_memory(16)
    logits = torch.randn(rows, 4, device=DEVICE, generator=seeded(0)).requires_grad_()
    mu = dg.subset.marginals(logits, 2)
    grad = torch.rand(rows, 4, device=DEVICE, generator=seeded(1))
    (vjp,) = torch.autograd.grad(mu, logits, grad)
    mu, logits = mu.detach(), logits.detach()
    assert float((mu.sum(-1) - 2).abs().max()) < 4e-6
    assert float(vjp.sum(-1).abs().max()) < 4e-6
    for part in slices(rows):
        theta = logits[part].cpu().double().requires_grad_()
        with dg.backend("cpp"):
            want = dg.subset.marginals(theta, 2)
        (want_vjp,) = torch.autograd.grad(want, theta, grad[part].cpu().double())
        check("marginals", mu[part].cpu().numpy(), want.detach().numpy(), 1e-6)
        check("vjp", vjp[part].cpu().numpy(), want_vjp.numpy(), 1e-6)
    del mu, vjp, grad
    z = dg.subset.sample(logits, 2, generator=seeded(2))
    assert bool((z.sum(-1) == 2).all())
    # Every one of the six pairs is drawn by about a sixth of rows that are exchangeable.
    codes = (z * torch.tensor([1.0, 2.0, 4.0, 8.0], device=DEVICE)).sum(-1)
    for code in (3, 5, 6, 9, 10, 12):
        share = float((codes == code).double().mean())
        assert abs(share - 1 / 6) < 5 * (5 / 36 / rows) ** 0.5, f"pair {code}: {share}"


def test_more_than_2_31_elements(gpu_backend):
    """Offsets do not wrap: 2^29 and some groups of four in bfloat16."""
    rows = 2**29 + 4096
    require_memory(24)
    logits = torch.empty(rows, 4, dtype=torch.bfloat16, device=DEVICE)
    logits.normal_(generator=seeded(3))
    mu = dg.subset.marginals(logits, 1)
    z = dg.subset.sample(logits, 1, generator=seeded(4))
    for part in slices(rows):
        want = torch.softmax(logits[part].float(), -1)
        torch.testing.assert_close(mu[part].float(), want, rtol=0, atol=2.0**-9 + 1e-6)
        assert bool((z[part].sum(-1) == 1).all())
    # 2^31 elements before the last rows are the first ones.
    assert not torch.equal(z[-4096:], z[:4096])


def test_a_row_of_2_27_items(gpu_backend):
    require_memory(6)
    n, k = 2**27, 2**20
    logits = torch.randn(n, device=DEVICE, generator=seeded(5))
    mu = dg.subset.marginals(logits, k)
    assert abs(float(mu.sum(dtype=torch.float64)) / k - 1) < 2e-6
    z = dg.subset.sample(logits, k, generator=seeded(6))
    assert int(z.sum(dtype=torch.float64)) == k
    # Inclusion counts by thirds of the row, in standard deviations of independent items or fewer.
    for part in (slice(0, n // 3), slice(n // 3, 2 * n // 3), slice(2 * n // 3, n)):
        expected = mu[part].sum(dtype=torch.float64)
        variance = (mu[part] * (1 - mu[part])).sum(dtype=torch.float64)
        deviation = (z[part].sum(dtype=torch.float64) - expected) / variance.sqrt()
        assert abs(float(deviation)) < 5
