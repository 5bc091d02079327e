# SPDX-License-Identifier: Apache-2.0
"""Every module under torch.compile, torch.export and activation checkpointing.

Graphs are compiled anew in each test: one cached by an earlier test would hide a failure to trace.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import discrete_grad as dg

pytestmark = pytest.mark.usefixtures("_cpp", "_fresh_compiler")


@pytest.fixture
def _cpp():
    """The reference's sampler reads values as it goes, which no compiler can trace."""
    with dg.backend("cpp"):
        yield


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def routed(module: nn.Module, x: Tensor) -> Tensor:
    weights, indices, aux = module(x)
    return (weights * indices).sum() + aux.balance_loss


def reconstructed(module: nn.Module, x: Tensor) -> Tensor:
    return (module(x)[0] - x).square().mean()


def gated(module: nn.Module, x: Tensor) -> Tensor:
    indices, gates = module(x)
    return (gates * indices).sum()


def hot(module: nn.Module, x: Tensor) -> Tensor:
    return (module(x) * x.detach().sin()).sum()


def tokens(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).tokens.square().sum()


def linear(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).square().mean()


# Each: the module, a loss of it, and whether its input has the items in the last dimension.
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "SubsetLayer": (lambda: dg.nn.SubsetLayer(4), hot),
    "SubsetLayer-indices": (lambda: dg.nn.SubsetLayer(4, output="indices", num_samples=2), gated),
    "SubsetLayer-aimle": (lambda: dg.nn.SubsetLayer(4, "aimle", num_samples=2), hot),
    "SubsetRouter": (lambda: dg.nn.SubsetRouter(16, 8, 3, selection="sample"), routed),
    "NMSparseLinear": (lambda: dg.nn.NMSparseLinear(16, 12), linear),
    "TokenSelector": (lambda: dg.nn.TokenSelector(4, nn.Linear(16, 1)), tokens),
    "SubsetSAE": (lambda: dg.nn.SubsetSAE(16, 40, 4), reconstructed),
}
EVERY = pytest.mark.parametrize("name", CASES)


def made(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module and its loss, from the same parameters whenever it is called."""
    make, loss = CASES[name]
    torch.manual_seed(7)
    module = make()
    return module, lambda x: loss(module, x)


def gradients(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor, seed: int):
    """The loss, and the gradients of the input and of the parameters."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    leaves = [x, *(p for p in module.parameters() if p.requires_grad)]
    loss = function(x)
    return loss.detach(), torch.autograd.grad(loss, leaves, allow_unused=True)


@EVERY
def test_fifty_steps_of_one_graph(name):
    """No graph break (fullgraph), one compilation for all seeds, new subsets in every step."""
    module, loss = made(name)
    x = torch.randn(20, 32, 16)
    step = torch.compile(loss, fullgraph=True, backend="aot_eager")
    losses = {gradients(module, step, x, seed)[0].item() for seed in range(50)}
    assert len(losses) >= 45
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not counters["recompiles"]


@pytest.mark.parametrize("name", ["NMSparseLinear", "SubsetRouter", "SubsetSAE"])
def test_a_falling_temperature_is_no_other_graph(name):
    module, loss = made(name)
    schedule = dg.nn.TemperatureSchedule(module, 1.0, 0.1, 8)
    x = torch.randn(20, 32, 16)
    step = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for _ in range(10):
        want, got = (gradients(module, function, x, 1)[0] for function in (loss, step))
        torch.testing.assert_close(got, want)
        schedule.step()
    assert counters["stats"]["unique_graphs"] == 1


@EVERY
def test_the_compiled_step_is_the_eager_one(name):
    x = torch.randn(20, 32, 16)
    results = []
    for compiled in (False, True):
        module, loss = made(name)
        function = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
        results.append(gradients(module, function, x, 3))
    torch.testing.assert_close(results[1], results[0])
    assert results[0][1][0].abs().sum() > 0


@pytest.mark.parametrize("name", CASES)
def test_batch_and_length_change_without_compiling_each_time(name):
    module, loss = made(name)
    step = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    items_last = name.startswith("SubsetLayer")
    for rows, length in ((20, 32), (33, 32), (24, 48), (64, 90), (50, 17)):
        x = torch.randn(rows, 3, length) if items_last else torch.randn(rows, length, 16)
        assert gradients(module, step, x, 0)[0].isfinite()
    # AIMLE's backward pass has one more, where the length changes for the first time.
    assert counters["stats"]["unique_graphs"] <= (3 if name == "SubsetLayer-aimle" else 2)


@pytest.mark.parametrize("name", ["SubsetRouter", "NMSparseLinear"])
def test_inductor(name):
    """The compiler itself, not its tracer alone: same losses as without it."""
    x = torch.randn(20, 32, 16)
    results = []
    for compiled in (False, True):
        _, loss = made(name)
        function = torch.compile(loss, fullgraph=True) if compiled else loss
        torch.manual_seed(3)
        results.append([function(x).item() for _ in range(3)] if compiled else loss(x).item())
    # Inductor draws other seeds than eager PyTorch does; the law is the same.
    assert len(set(results[1])) == 3
    assert min(results[1]) / 2 < results[0] < max(results[1]) * 2


@EVERY
def test_evaluation_compiles(name):
    module, _ = made(name)
    module.eval()
    x = torch.randn(20, 32, 16)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


@EVERY
@pytest.mark.parametrize("training", [False, True])
def test_export(name, training):
    """One program for every batch size; in evaluation it gives what the module gives. In training
    it draws: AIMLE's samples too, whose step size no exported program adapts.
    """
    module, _ = made(name)
    module.train(training)
    x = torch.randn(20, 32, 16)
    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: rows},))
    other = torch.randn(50, 32, 16)
    got = program.module()(other)
    if not training:
        torch.testing.assert_close(got, module(other))
    else:
        flat = torch.utils._pytree.tree_leaves(got)
        assert all(bool(part.isfinite().all()) for part in flat)


@EVERY
def test_checkpointing_draws_the_same_subsets_again(name):
    """The recomputed forward pass must not draw anew: the gradients would be those of another
    subset than the loss.
    """
    x = torch.randn(20, 32, 16)
    results = []
    for again in (False, True):
        module, loss = made(name)

        def function(value, loss=loss, again=again):
            if not again:
                return loss(value)
            return checkpoint(loss, value, use_reentrant=False, preserve_rng_state=True)

        results.append(gradients(module, function, x, 5))
    assert torch.equal(results[0][0], results[1][0])
    for plain, recomputed in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(plain, recomputed)


def test_checkpointing_without_the_generator_would_show():
    module, loss = made("TokenSelector")
    x = torch.randn(20, 32, 16)
    want = gradients(module, loss, x, 5)[1]
    got = gradients(
        module,
        lambda v: checkpoint(loss, v, use_reentrant=False, preserve_rng_state=False),
        x,
        5,
    )[1]
    assert not torch.equal(want[0], got[0])
