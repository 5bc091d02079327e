# SPDX-License-Identifier: Apache-2.0
"""What large trainings ask: no synchronisation, transforms, determinism, mixed precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

import discrete_grad as dg
from tests.nn.test_compile import CASES, EVERY, gradients, made


@pytest.fixture(autouse=True)
def _cpp():
    with dg.backend("cpp"):
        yield


def step(name):
    module, loss = made(name)
    optimiser = torch.optim.SGD([*module.parameters(), torch.zeros(1, requires_grad=True)], 0.1)
    x = torch.randn(20, 32, 16, requires_grad=True)

    def run():
        optimiser.zero_grad()
        loss(x).backward()
        optimiser.step()

    return run


def ancestors(event):
    while event is not None:
        yield event.name
        event = event.cpu_parent


@EVERY
def test_a_profiled_training_step_reads_no_value(name):
    """item() is aten::_local_scalar_dense. The CPU kernels read their own seed, which lies in the
    host's memory: inside the op, nowhere else.
    """
    run = step(name)
    run()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        run()
    events = [event for event in trace.events() if event is not None]
    reads = [event for event in events if event.name == "aten::_local_scalar_dense"]
    for read in reads:
        assert any(parent.startswith("discrete_grad::") for parent in ancestors(read))
    assert any(event.name.startswith("discrete_grad::") for event in events)


def test_the_profile_would_notice():
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        torch.ones(3).sum().item()
    assert "aten::_local_scalar_dense" in {event.name for event in trace.events()}


@EVERY
def test_a_training_step_without_values(name):
    """Fake tensors have none: whatever asks for one raises, in the ops too."""
    with FakeTensorMode():
        make, loss = CASES[name]
        module = make()
        x = torch.randn(20, 32, 16, requires_grad=True)
        loss(module, x).backward()
        assert x.grad.shape == x.shape


@EVERY
def test_deterministic_mode_repeats_every_bit(name):
    assert torch.are_deterministic_algorithms_enabled()  # by the tests' own settings
    x = torch.randn(20, 32, 16)
    first, second = (gradients(*made(name), x, 11) for _ in range(2))
    assert torch.equal(first[0], second[0])
    for one, two in zip(first[1], second[1], strict=True):
        assert torch.equal(one, two)


class TestTransforms:
    """torch.func over the modules, where a draw does not stand in the way."""

    def test_per_example_gradients_of_a_router(self):
        router = dg.nn.SubsetRouter(6, 5, 2, selection="mode", dtype=torch.float64)
        parameters = dict(router.named_parameters())
        x = torch.randn(7, 6, dtype=torch.float64)

        def loss(values, row):
            weights, indices, _ = torch.func.functional_call(router, values, (row,))
            return (weights * (indices + 1.0)).sum()

        grads = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
        for number, row in enumerate(x):
            value = loss(parameters, row)
            (want,) = torch.autograd.grad(value, router.linear.weight)
            torch.testing.assert_close(grads["linear.weight"][number], want, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", ["SubsetLayer", "SubsetRouter", "TokenSelector"])
    def test_vmap_draws_for_each_slice(self, name):
        _, loss = made(name)
        x = torch.randn(6, 20, 32, 16)[:1].expand(6, 20, 32, 16)
        values = torch.func.vmap(loss, randomness="different")(x)
        assert len(set(values.tolist())) == 6

    def test_the_hessian_of_the_balance_loss(self):
        router = dg.nn.SubsetRouter(3, 4, 2, dtype=torch.float64).eval()
        x = torch.randn(5, 3, dtype=torch.float64)

        def balance(weight):
            return torch.func.functional_call(router, {"linear.weight": weight}, (x,)).aux[0]

        weight = router.linear.weight.detach()
        got = torch.func.hessian(balance)(weight)
        want = torch.autograd.functional.hessian(balance, weight)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        assert got.abs().max() > 1e-4


class TestPrecision:
    """The modules under autocast, with loss scaling, and on 16-bit logits."""

    @EVERY
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, name, dtype):
        """Finite, and every gradient in its leaf's dtype."""
        x = torch.randn(20, 32, 16)
        module, loss = made(name)
        with torch.autocast("cpu", dtype):
            value, grads = gradients(module, loss, x, 2)
        assert value.isfinite()
        for leaf, grad in zip([x, *module.parameters()], grads, strict=True):
            assert grad.dtype == leaf.dtype
            assert bool(grad.isfinite().all())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_gates_of_autocast_beside_float32(self, dtype):
        """In evaluation nothing is drawn, so values and gradients can be compared."""
        router = dg.nn.SubsetRouter(16, 8, 2, gates="inclusion").eval()
        x = torch.randn(200, 16)
        results = []
        for enabled in (False, True):
            with torch.autocast("cpu", dtype, enabled=enabled):
                _, _, aux = router(x)
            assert aux.logits.dtype == aux.marginals.dtype == torch.float32
            loss = (aux.marginals * torch.arange(8.0)).sum()
            results.append(
                (aux.marginals.detach(), torch.autograd.grad(loss, router.linear.weight))
            )
        # A logit of size 1 is off by 2^-9 (bfloat16) or 2^-12 (float16); mu has slope <= 1/4.
        assert (results[0][0] - results[1][0]).abs().max() < 4e-3
        (wide,), (narrow,) = results[0][1], results[1][1]
        assert (wide - narrow).norm() < 2e-2 * wide.norm()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_a_long_row_of_16_bit_logits(self, dtype):
        """n = 65536: beyond float16's largest number of items, computed in float32."""
        n, k = 65536, 512
        logits = (3 * torch.randn(n)).to(dtype)
        cost = torch.randn(n)
        slopes = []
        for theta in (logits.clone(), logits.float()):
            theta.requires_grad_()
            torch.manual_seed(0)
            hot = dg.nn.SubsetLayer(k)(theta)
            assert hot.dtype == theta.dtype
            assert hot.float().sum() == k
            (hot.float() * cost).sum().backward()
            assert theta.grad.dtype == theta.dtype
            slopes.append(theta.grad.float())
        rounding = torch.finfo(dtype).eps
        # g and the product are each rounded once to the dtype; below its smallest normal number by
        # an absolute amount.
        bound = 2 * rounding * slopes[1].abs() + rounding * 1e-2 * slopes[1].abs().max() + 1e-7
        assert bool(((slopes[0] - slopes[1]).abs() <= bound).all())

    def test_indices_of_a_long_row_of_16_bit_logits(self):
        logits = torch.randn(2, 65536).bfloat16().requires_grad_()
        indices, gates = dg.nn.SubsetLayer(64, output="indices")(logits)
        assert gates.dtype == torch.bfloat16
        assert indices.max() > 60000
        (gates * torch.randn(64)).sum().backward()
        assert bool(logits.grad.isfinite().all())
        assert logits.grad.abs().sum() > 0

    def test_loss_scaling(self):
        """float16 under GradScaler: an overflow skips the step, and training goes on after it."""
        torch.manual_seed(0)
        router = dg.nn.SubsetRouter(16, 8, 2)
        net = nn.ModuleList([router, dg.nn.NMSparseLinear(16, 16)])
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
        x = torch.randn(64, 16)
        before = router.linear.weight.detach().clone()
        moved = 0
        for _ in range(40):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.float16):
                weights, indices, aux = net[0](x)
                loss = (weights * indices).mean() + net[1](x).float().square().mean()
                loss = loss + aux.balance_loss
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            moved += not torch.equal(before, router.linear.weight)
        assert scaler.get_scale() < 2.0**40
        assert 0 < moved < 40
        assert all(bool(p.isfinite().all()) for p in net.parameters())

    def test_scaling_the_loss_scales_the_gradient_and_nothing_else(self):
        for name in CASES:
            grads = []
            for scale in (1.0, 1024.0):
                module, loss = made(name)
                _, got = gradients(
                    module, lambda v, s=scale, f=loss: s * f(v), torch.ones(20, 32, 16).cos(), 4
                )
                grads.append([g / scale for g in got])
            for one, two in zip(*grads, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
