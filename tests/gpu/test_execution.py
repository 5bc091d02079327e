# SPDX-License-Identifier: Apache-2.0
"""How the ops run: CUDA graphs, streams, no host synchronisation, torch.compile, determinism."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import discrete_grad as dg
from tests.gpu.device import DEVICE, require_cuda, seeded, synchronisation_is_an_error

require_cuda()
pytestmark = pytest.mark.gpu

# One row per program, a row over many programs, several rows in one program.
SHAPES = [(64, 30, 7), (8, 1000, 100), (2, 30_000, 3000)]
SHAPE = pytest.mark.parametrize(("rows", "n", "k"), SHAPES, ids=str)


@pytest.fixture(autouse=True)
def _as_users_run_it(_poisoned_memory: None) -> None:
    """Deterministic algorithms are another path through some of PyTorch's own functions."""
    torch.use_deterministic_algorithms(False)


class Training:
    """SIMPLE with a loss linear in the sample, so that the gradient does not depend on the draw."""

    def __init__(self, rows: int, n: int, k: int) -> None:
        self.logits = torch.randn(rows, n, device=DEVICE, requires_grad=True)
        self.weight = torch.rand(n, device=DEVICE)
        self.k = k

    def step(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A descent step; returns the sample and the gradient."""
        z = dg.simple(self.logits, self.k, generator=generator)
        loss = (z * self.weight).sum() - 0.1 * dg.subset.entropy(self.logits, self.k).sum()
        (gradient,) = torch.autograd.grad(loss, self.logits)
        with torch.no_grad():
            self.logits.sub_(0.1 * gradient)
        return z.detach(), gradient


def drawn_anew(first: Tensor, second: Tensor) -> bool:
    """Two draws of a row may be equal; those of nearly all rows are not."""
    return float((first != second).any(-1).float().mean()) > 0.9


def warm_up(run: Callable[[], object]) -> None:
    """On a stream of its own, as a capture demands; kernels are compiled and loaded here."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)


@SHAPE
@pytest.mark.parametrize("own", [False, True], ids=["default generator", "own generator"])
def test_cuda_graph_of_a_training_step(gpu_backend, rows, n, k, own):
    """Each replay draws anew, and follows the logits as they change in place."""
    training = Training(rows, n, k)
    generator = seeded(5) if own else None
    warm_up(lambda: training.step(generator))
    start = training.logits.detach().clone()

    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        z, gradient = training.step(generator)
    draws, gradients = [], []
    for _ in range(4):
        graph.replay()
        draws.append(z.clone())
        gradients.append(gradient.clone())

    for first in range(4):
        assert bool((draws[first].sum(-1) == k).all())
        for second in range(first):
            assert drawn_anew(draws[first], draws[second])
    with torch.no_grad():
        training.logits.copy_(start)
    for captured in gradients:
        torch.testing.assert_close(captured, training.step()[1], rtol=0, atol=0)


def test_a_graph_draws_as_the_program_does(gpu_backend):
    """From the same generator state, replays give what the same calls give outside a graph."""
    logits = torch.randn(16, 200, device=DEVICE)
    warm_up(lambda: dg.subset.sample(logits, 20))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z = dg.subset.sample(logits, 20)
    torch.cuda.manual_seed(11)
    captured = []
    for _ in range(3):
        graph.replay()
        captured.append(z.clone())
    torch.cuda.manual_seed(11)
    for draw in captured:
        assert torch.equal(draw, dg.subset.sample(logits, 20))


def every_function(logits: Tensor, k: int, sizes: Tensor) -> list[Tensor]:
    """The public functions that promise to read no values, with their gradients."""
    theta = logits.detach().requires_grad_()
    law = dg.KSubset(k, logits=theta, validate_args=False)
    z = dg.subset.sample(logits, k, 2)
    values = [
        dg.simple(theta, k),
        dg.simple(theta, sizes, 2, order=2),
        dg.subset.marginals(theta, k),
        dg.subset.marginals(theta, sizes),
        dg.subset.log_partition(theta, sizes),
        dg.subset.log_prob(theta, k, z),
        dg.subset.entropy(theta, k),
        dg.subset.kl_divergence(theta, theta.flip(-1), k),
        dg.subset.count_log_prob(theta, min(k, 16)).exp(),
        law.rsample((2,)),
        law.log_prob(z),
        law.entropy(),
        law.mean,
    ]
    gradients = [torch.autograd.grad(value.sum(), theta)[0] for value in values]
    mu = dg.subset.marginals(theta, k)
    (slope,) = torch.autograd.grad(mu.square().sum(), theta, create_graph=True)
    gradients.append(torch.autograd.grad(slope.square().sum(), theta)[0])
    plain = [
        dg.subset.sample_indices(logits, k, 2),
        dg.subset.sample(logits, sizes),
        dg.subset.mode(logits, k),
    ]
    return [*values, *gradients, *plain]


@SHAPE
def test_no_host_synchronisation(gpu_backend, rows, n, k):
    logits = torch.randn(rows, n, device=DEVICE)
    sizes = torch.full((rows,), k, device=DEVICE)
    every_function(logits, k, sizes)  # compiles
    with synchronisation_is_an_error():
        results = every_function(logits, k, sizes)
    assert all(bool(result.isfinite().all()) for result in results)


def test_the_check_for_synchronisation_fires():
    with synchronisation_is_an_error(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(3, device=DEVICE).sum().item()


@SHAPE
def test_two_streams_at_once(gpu_backend, rows, n, k):
    """Scratch memory of one stream is not the other's."""
    inputs = [torch.randn(rows, n, device=DEVICE) for _ in range(2)]

    def run(logits: Tensor, seed: int) -> list[Tensor]:
        theta = logits.detach().requires_grad_()
        z = dg.simple(theta, k, generator=seeded(seed))
        mu = dg.subset.marginals(theta, k)
        (gradient,) = torch.autograd.grad((z * mu).sum(), theta)
        return [z.detach(), mu.detach(), gradient]

    want = [[run(x, seed) for seed in range(10)] for x in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    got: list[list[list[Tensor]]] = [[], []]
    for seed in range(10):
        for x, stream, results in zip(inputs, streams, got, strict=True):
            with torch.cuda.stream(stream):
                results.append(run(x, seed))
    torch.cuda.synchronize()
    for mine, theirs in zip(got, want, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@SHAPE
def test_the_same_bits_again(gpu_backend, rows, n, k):
    logits = torch.randn(rows, n, device=DEVICE)

    def run() -> list[Tensor]:
        torch.cuda.manual_seed(1)
        return every_function(logits, k, torch.full((rows,), k, device=DEVICE))

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_torch_compile(gpu_backend, compiler):
    """The training graph in one piece: exact gradients, and new draws at each call."""
    logits = torch.randn(4, 130, dtype=torch.float64, device=DEVICE)
    weight = torch.linspace(-1, 1, 130, dtype=torch.float64, device=DEVICE)

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        z = dg.simple(x, 40)
        mu = dg.subset.marginals(x, 40)
        loss = (z * weight).sum() + dg.subset.entropy(x, 40).sum()
        return loss + (mu.square() * weight).sum(), z

    def gradient(function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        theta = logits.clone().requires_grad_()
        loss, z = function(theta)
        loss.backward()
        return theta.grad, z.detach()

    want, _ = gradient(model)
    function = torch.compile(model, fullgraph=True, backend=compiler)
    got, first = gradient(function)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    _, second = gradient(function)
    assert bool((first.sum(-1) == 40).all())
    assert drawn_anew(first, second)


@pytest.mark.usefixtures("_fresh_compiler")
def test_torch_compile_with_cuda_graphs(gpu_backend):
    """mode="reduce-overhead" replays a CUDA graph: the draws must differ there too."""
    logits = torch.randn(8, 100, device=DEVICE)
    function = torch.compile(
        lambda x: dg.subset.sample(x, 10), fullgraph=True, mode="reduce-overhead"
    )
    draws = [function(logits).clone() for _ in range(6)]
    for first in range(6):
        assert bool((draws[first].sum(-1) == 10).all())
        for second in range(first):
            assert drawn_anew(draws[first], draws[second])


def test_autocast(gpu_backend):
    """Under autocast a 16-bit input is computed and returned in float32."""
    logits = torch.randn(4, 50, device=DEVICE).bfloat16()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        got = dg.subset.marginals(logits, 5)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, dg.subset.marginals(logits.float(), 5), rtol=0, atol=1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_another_device_than_the_current_one(gpu_backend):
    logits = torch.randn(4, 300, device=DEVICE)
    elsewhere = logits.to("cuda:1").requires_grad_()
    mu = dg.subset.marginals(elsewhere, 30)
    (gradient,) = torch.autograd.grad(mu.square().sum(), elsewhere)
    assert mu.device == gradient.device == torch.device("cuda:1")
    torch.testing.assert_close(
        mu.detach().to(DEVICE), dg.subset.marginals(logits, 30), rtol=0, atol=0
    )
    assert bool((dg.subset.sample(elsewhere, 30).sum(-1) == 30).all())
