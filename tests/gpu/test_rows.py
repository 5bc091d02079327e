# SPDX-License-Identifier: Apache-2.0
"""Every backend, method and dtype on every adversarial row, against 60-digit arithmetic: values,
vector-Jacobian products, and gradients of the log-partition.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests import oracle
from tests.accuracy.evaluate import METHODS, Result, check, check_row, check_rows
from tests.cases import BY_ID, CASES, FLOAT32_CASES, padded
from tests.gpu.device import DEVICE, require_cuda
from tests.tolerances import RECURSION_RELATIVE_FLOAT64, RECURSION_RELATIVE_FLOOR, bound

require_cuda()
pytestmark = pytest.mark.gpu

INF, NAN = math.inf, math.nan
WIDE = [
    pytest.param(torch.float64, CASES, id="float64"),
    pytest.param(torch.float32, FLOAT32_CASES, id="float32"),
]
METHOD = pytest.mark.parametrize("method", [*METHODS, "auto"])
# Many rows are a shape of their own, with kernels to be compiled: processes share them out.
PARTS = 8
PART = pytest.mark.parametrize("part", range(PARTS))


def evaluate(logits, k, grad, dtype, method) -> Result:
    """All four quantities, computed on the device."""
    theta = torch.from_numpy(logits).to(DEVICE, dtype).requires_grad_()
    size = k if isinstance(k, int) else torch.from_numpy(k).to(DEVICE)
    marginals = dg.subset.marginals(theta, size, method=method)
    (vjp,) = torch.autograd.grad(marginals, theta, torch.from_numpy(grad).to(DEVICE, dtype))
    log_partition = dg.subset.log_partition(theta, size, method=method)
    (slope,) = torch.autograd.grad(log_partition.sum(), theta)
    values = (marginals, log_partition, vjp, slope)
    assert all(value.dtype == dtype and value.device.type == "cuda" for value in values)
    return Result(*(value.detach().cpu().double().numpy() for value in values))


@PART
@METHOD
@pytest.mark.parametrize(("dtype", "cases"), WIDE)
def test_each_row(gpu_backend, method, dtype, cases, part):
    for case in cases[part::PARTS]:
        exact = oracle.subset_cached(case.logits, case.k, case.grad)
        got = evaluate(case.logits, case.k, case.grad, dtype, method)
        check_row(case, exact, got, dtype, method)


@METHOD
@pytest.mark.parametrize(("dtype", "cases"), WIDE)
def test_all_rows_in_one_batch(gpu_backend, method, dtype, cases):
    """A k for each row; rows padded by exclusion do not disturb their neighbours."""
    logits, k, grad = padded(cases)
    got = evaluate(logits, k, grad, dtype, method)
    check_rows(cases, got, dtype, method)


def test_recursion_keeps_relative_accuracy(gpu_backend):
    for case in CASES:
        exact = oracle.subset_cached(case.logits, case.k, case.grad).marginals
        exact = np.array([float(m) for m in exact])
        got = evaluate(case.logits, case.k, case.grad, torch.float64, "recursion").marginals
        kept = exact >= RECURSION_RELATIVE_FLOOR
        error = np.abs(got[kept] - exact[kept]) / exact[kept]
        assert error.max(initial=0.0) <= RECURSION_RELATIVE_FLOAT64, case.id


NARROW_IDS = [
    c.id
    for c in FLOAT32_CASES
    if len(c.logits) <= 65 and not c.id.startswith(("shift", "excluded-shifted"))
]


@PART
@METHOD
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_sixteen_bit(gpu_backend, method, dtype, part):
    """Held to the exact values at the rounded logits and gradients."""
    extra = bound("marginals", torch.float32, method) - bound("marginals", torch.float32)
    for name in NARROW_IDS[part::PARTS]:
        case = BY_ID[name]
        logits = torch.from_numpy(case.logits).to(dtype).double().numpy()
        grad = torch.from_numpy(case.grad).to(dtype).double().numpy()
        exact = oracle.subset_cached(logits, case.k, grad)
        got = evaluate(logits, case.k, grad, dtype, method)
        label = f"{name}, {dtype}"
        mu = oracle.as_floats(exact.marginals)
        check(label + ": marginals", got.marginals, mu, bound("marginals", dtype) + extra)
        vjp = oracle.as_floats(exact.vjp)
        check(label + ": vjp", got.vjp, vjp, bound("vjp", dtype) + extra)
        log_z = np.array(float(exact.log_partition))
        tolerance = bound("log_partition", dtype) + extra
        check(label + ": log_partition", got.log_partition, log_z, tolerance, relative=True)


@METHOD
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("n", [5, 100, 3000, 20_000])
def test_a_row_without_an_answer_is_nan_alone(gpu_backend, method, dtype, n):
    """Long rows too, where many programs share one."""
    if method == "recursion" and n > 3000:
        pytest.skip("O(n k) work")
    logits = torch.randn(6, n, dtype=dtype, device=DEVICE)
    bad = logits.clone()
    bad[1, 3] = NAN
    bad[2, 2:] = -INF
    bad[4, :4] = INF
    sizes = torch.tensor([3, 3, 3, 3, 3, n + 1], device=DEVICE)
    good = [0, 3]
    got = dg.subset.marginals(bad, sizes, method=method)
    want = dg.subset.marginals(logits, sizes, method=method)
    assert torch.equal(got[good], want[good])
    assert bool(got[[1, 2, 4, 5]].isnan().all())
    z = dg.subset.sample(bad, sizes)
    assert bool((z[good].sum(-1) == 3).all())
    assert bool(z[[1, 2, 4, 5]].isnan().all())


@METHOD
def test_shapes_and_layouts(gpu_backend, method):
    logits = torch.randn(6, 40, dtype=torch.float64, device=DEVICE)
    want = dg.subset.marginals(logits, 7, method=method)
    transposed = logits.t().contiguous().t()
    strided = torch.stack([logits, logits + 1], -1)[..., 0]
    # A view that is contiguous but not aligned to 16 bytes.
    shifted = torch.cat([logits.new_zeros(1), logits.flatten()])[1:].view(6, 40)
    for layout in (transposed, strided, shifted):
        got = dg.subset.marginals(layout, 7, method=method)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    split = dg.subset.marginals(logits.view(2, 3, 40), 7, method=method)
    assert torch.equal(split, want.view(2, 3, 40))
    for batch in ((0,), (3, 0, 5)):
        empty = torch.randn(*batch, 7, device=DEVICE, requires_grad=True)
        dg.subset.marginals(empty, 3, method=method).sum().backward()
        assert empty.grad.shape == (*batch, 7)
        assert dg.subset.sample(empty, 3, 4).shape == (4, *batch, 7)
    nothing = torch.zeros(4, 0, device=DEVICE)
    assert dg.subset.log_partition(nothing, 0, method=method).tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_count_log_prob(gpu_backend, dtype):
    cases = CASES if dtype == torch.float64 else FLOAT32_CASES
    for case in (c for c in cases if len(c.logits) <= 129):
        theta = torch.from_numpy(case.logits).to(DEVICE, dtype)
        most = min(len(case.logits), 40)
        got = dg.subset.count_log_prob(theta, most).cpu().double().numpy()
        want = np.array([float(v) for v in oracle.count_log_prob(case.logits.tolist(), most)])
        tolerance = bound("count_log_prob", dtype)
        check(f"{case.id}: count_log_prob", got, want, tolerance, relative=True)


def test_inverse(gpu_backend):
    logits = torch.randn(4, 60, dtype=torch.float64, device=DEVICE)
    mu = dg.subset.marginals(logits, 13)
    theta = dg.subset.logits_from_marginals(mu)
    torch.testing.assert_close(dg.subset.marginals(theta, 13), mu, rtol=0, atol=1e-10)
    centred = logits - logits.mean(-1, keepdim=True)
    torch.testing.assert_close(theta, centred, rtol=0, atol=1e-7)


def test_auto_chooses_a_gpu_backend():
    """Without a choice by name, CUDA tensors are served by compiled kernels."""
    logits = torch.randn(3, 50, device=DEVICE)
    with dg.backend("triton"):
        want = dg.subset.marginals(logits, 9)
    torch.testing.assert_close(dg.subset.marginals(logits, 9), want, rtol=0, atol=1e-6)
    assert "triton: available" in str(dg.show_config())
