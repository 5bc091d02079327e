# SPDX-License-Identifier: Apache-2.0
"""The registered ops over the Triton launchers: their contract with PyTorch, and SIMPLE."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from discrete_grad import reference
from discrete_grad.triton_kernels import LAUNCHERS
from discrete_grad.triton_kernels.launch import recording
from tests.topk.noise_table import quantile_table

LOGITS = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GRAD = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
ROW_K = torch.tensor([[1, 2, 3], [4, 0, 6]])
SEED = torch.tensor([77])
TABLE = quantile_table(torch.float64)
GRADS = torch.stack([GRAD, -GRAD])
STEPS = torch.tensor([[0.5, 1.0, 2.0], [0.0, -1.0, 3.0]], dtype=torch.float64)
SCALES = (1.0, 0.5, 0.9, 1.1)
OPS = torch.ops.discrete_grad

CALLS = {
    "marginals": (OPS.subset_marginals.default, (LOGITS, 2, None, "contour")),
    "marginals, linear": (OPS.subset_marginals.default, (LOGITS, 2, None, "linear")),
    "marginals, recursion": (OPS.subset_marginals.default, (LOGITS, 6, ROW_K, "recursion")),
    "vjp": (OPS.subset_marginals_vjp.default, (LOGITS, 2, None, "contour", None, GRAD, None)),
    "third cumulant": (OPS.subset_third_cumulant.default, (LOGITS, 2, None, GRAD, LOGITS)),
    "sample": (OPS.subset_sample.default, (LOGITS, 6, ROW_K, 2, SEED)),
    "indices": (OPS.subset_sample_indices.default, (LOGITS, 2, 2, SEED)),
    "simple": (OPS.simple.default, (LOGITS, 2, None, 2, "contour", SEED)),
    "count": (OPS.count_log_prob.default, (LOGITS, 3)),
    "count vjp": (OPS.count_log_prob_vjp.default, (LOGITS, 3, GRAD[..., :4].contiguous())),
    "noise": (OPS.perturbation_noise.default, (6, 5, None, SEED, torch.float32)),
    "noise by table": (OPS.perturbation_noise.default, (2, 9, TABLE, SEED, torch.float64)),
    "perturbed": (OPS.perturbed_topk.default, (LOGITS, 6, ROW_K, 2, TABLE, 0.5, SEED)),
    "perturbed indices": (OPS.perturbed_topk_indices.default, (LOGITS, 2, 2, None, 1.0, SEED)),
    "difference": (
        OPS.perturbed_topk_difference.default,
        (LOGITS, GRADS, 6, ROW_K, TABLE, STEPS, *SCALES, True, SEED),
    ),
    "difference, one k, one step": (
        OPS.perturbed_topk_difference.default,
        (LOGITS, GRADS, 2, None, None, STEPS[0, 0], *SCALES, False, SEED),
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_opcheck(call):
    op, arguments = call
    wanted = [
        a.clone().requires_grad_()
        if isinstance(a, torch.Tensor) and a.dtype.is_floating_point
        else a
        for a in arguments
    ]
    last = "third_cumulant" in str(op) or "difference" in str(op)  # no derivative beyond
    torch.library.opcheck(op, arguments if last else wanted)


@pytest.mark.parametrize("samples", [None, 3])
def test_simple(samples):
    """Exact subsets forward; backward the covariance times the gradient, summed over samples."""
    theta = LOGITS.clone().requires_grad_()
    z = dg.simple(theta, 2, samples, generator=torch.Generator().manual_seed(3))
    assert torch.equal(z.detach().sum(-1), torch.full(z.shape[:-1], 2.0, dtype=torch.float64))
    weight = torch.randn(z.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((z * weight).sum(), theta)
    upstream = weight if samples is None else weight.sum(0)
    assert torch.allclose(gradient, reference.vjp(LOGITS, 2, upstream), atol=1e-13, rtol=0)


def test_entropy_and_its_gradient():
    theta = LOGITS.clone().requires_grad_()
    entropy = dg.subset.entropy(theta, ROW_K)
    (gradient,) = torch.autograd.grad(entropy.sum(), theta)
    with dg.backend("reference"):
        other = LOGITS.clone().requires_grad_()
        expected = dg.subset.entropy(other, ROW_K)
        (wanted,) = torch.autograd.grad(expected.sum(), other)
    assert torch.allclose(entropy, expected, atol=1e-12, rtol=0)
    assert torch.allclose(gradient, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("n", [100, 3000, 70_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_program_may_not_take_more_registers_than_there_are(dtype, n):
    """A kernel compiled for more does not start on any device."""
    logits = torch.empty(2, n, dtype=dtype, device="meta")
    seed = torch.empty(1, dtype=torch.int64, device="meta")
    with recording() as launches:
        _, _, state = LAUNCHERS["subset_marginals"](logits, 9, None, "contour")
        LAUNCHERS["subset_marginals_vjp"](logits, 9, None, "contour", state, logits, None)
        LAUNCHERS["subset_sample"](logits, 9, None, 2, seed)
        LAUNCHERS["perturbed_topk"](logits, 9, None, 2, None, 1.0, seed)
    assert launches
    for variant in launches:
        assert 32 * variant.num_warps * variant.max_registers <= 2**16
