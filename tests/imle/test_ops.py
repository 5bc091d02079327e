# SPDX-License-Identifier: Apache-2.0
"""imle_topk and aimle_topk as registered ops: opcheck, torch.compile, meta tensors, transforms."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from discrete_grad.ops.library import COMPOSITES
from tests.imle.problems import generator, weights

OPS = torch.ops.discrete_grad
SEED = torch.tensor([1234567])
NAMES = ["imle", "aimle"]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def cpp():
    with dg.backend("cpp"):
        yield


def table(dtype):
    """A quantile table of the right shape, falling by steps."""
    quantiles = torch.zeros(881, 4, dtype=dtype)
    quantiles[:, 0] = torch.linspace(5, -5, 881)
    return quantiles


def arguments(name, logits, k, row_k=None, quantiles=None, symmetric=False, **switches):
    temperatures = (0.7, 0.8)
    problem = (logits, k, row_k, 3, quantiles)
    if name == "imle":
        return (*problem, *temperatures, 0.9, 2.5, True, 1e-7, symmetric, SEED)
    state = [torch.tensor(x, dtype=torch.float64) for x in (2.0, 1.0, 0.0)]
    options = [switches.get(x, x == "adapt") for x in ("adapt", "per_example", "published_scale")]
    rule = (1e-3, 0.5, 0.9, 1.0)
    return (*problem, *temperatures, 0.9, symmetric, SEED, *state, *rule, *options, "")


def cases():
    torch.manual_seed(0)
    for dtype in (torch.float64, torch.float32):
        tag = str(dtype).removeprefix("torch.")
        masked = torch.randn(3, 9, dtype=dtype)
        masked[:, 2], masked[:, 5] = -torch.inf, torch.inf
        inputs = {
            "vector": (torch.randn(7, dtype=dtype), 3),
            "batch": (torch.randn(2, 3, 12, dtype=dtype), 5, None, table(dtype)),
            "row-k": (torch.randn(4, 8, dtype=dtype), 8, torch.tensor([0, 3, 7, 8])),
            "masked": (masked, 4, None, None, True),
            "strided": (torch.randn(6, 20, dtype=dtype)[:, ::2], 4),
            "empty-batch": (torch.randn(3, 0, 5, dtype=dtype), 2),
        }
        for label, args in inputs.items():
            yield pytest.param("imle", args, {}, id=f"imle-{tag}-{label}")
            yield pytest.param("aimle", args, {}, id=f"aimle-{tag}-{label}")
        each = {"adapt": False, "per_example": True, "published_scale": True}
        yield pytest.param("aimle", inputs["batch"], each, id=f"aimle-{tag}-switches")


@pytest.mark.parametrize(("name", "args", "switches"), list(cases()))
@pytest.mark.parametrize("requires_grad", [False, True], ids=["plain", "grad"])
def test_opcheck(name, args, switches, requires_grad):
    logits = args[0].detach().clone() if args[0].is_contiguous() else args[0].detach()
    args = arguments(name, logits.requires_grad_(requires_grad), *args[1:], **switches)
    torch.library.opcheck(getattr(OPS, f"{name}_topk").default, args)


def test_the_composites_are_the_ones_checked_here():
    assert {f"{name}_topk" for name in NAMES} == COMPOSITES


@pytest.mark.parametrize("path", ["fused", "unfused"])
@pytest.mark.parametrize("name", NAMES)
def test_training_on_meta_tensors(name, path):
    """Shapes alone go through both passes."""
    theta = torch.randn(5, 30, device="meta", requires_grad=True)
    z = (decorated if path == "fused" else unfused)(name)[0](theta)
    (got,) = torch.autograd.grad(z.sum(), theta)
    assert (z.shape, got.shape, got.device.type) == ((10, 30), (5, 30), "meta")


@pytest.mark.parametrize("name", NAMES)
def test_meta_tensors(name):
    args = arguments(name, torch.randn(2, 3, 12), 5)
    meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in args]
    op = getattr(OPS, f"{name}_topk")
    real, fake = op(*args), op(*meta)
    assert fake.device.type == "meta"
    assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride())


def estimator(name, **settings):
    """(function of theta, its target): 2 samples of 4 items by dg.imle_topk or dg.aimle_topk."""
    if name == "imle":
        target = dg.TargetDistribution(1.0, 5.0)
        function = dg.imle_topk
    else:
        target = dg.AdaptiveTargetDistribution(1.0, 3.0, beta_update_step=0.01)
        function = dg.aimle_topk
    return lambda theta: function(theta, 4, 2, target=target, **settings), target


def decorated(name):
    decorator = {"imle": dg.imle, "aimle": dg.aimle}[name]
    solve = decorator(
        dg.solvers.topk(4), noise_distribution=dg.SumOfGammaNoiseDistribution(4), nb_samples=2
    )
    return solve, solve.target_distribution


def unfused(name):
    decorator = {"imle": dg.imle, "aimle": dg.aimle}[name]
    law = dg.GumbelNoiseDistribution()
    solve = decorator(lambda x: dg.subset.mode(x, 4), noise_distribution=law, nb_samples=2)
    return solve, solve.target_distribution


def train(function, target, steps=6):
    """Losses and the state of a run whose loss is nonlinear in z."""
    torch.manual_seed(11)
    theta = torch.randn(5, 30, requires_grad=True)
    wanted = torch.randn(5, 30)
    trace = []
    for _ in range(steps):
        loss = (function(theta).reshape(-1, 30).mean(0) - wanted).square().sum()
        (got,) = torch.autograd.grad(loss, theta)
        trace.append((loss.detach().clone(), got.clone(), *(x.clone() for x in state(target))))
        with torch.no_grad():
            theta -= got
    return trace


def state(target):
    return getattr(target, "state", ())


# torch.compile itself instantiates the autograd.Function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("make", [estimator, decorated, unfused])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_training(cpp, name, make, compiler):
    """One graph without a break; from the same seed the same losses, gradients and state."""
    function, target = make(name)
    expected = train(function, target)
    function, target = make(name)
    traced = torch.compile(function, fullgraph=True, backend=compiler)
    # inductor's random numbers are its own unless told otherwise.
    with torch._inductor.config.patch(fallback_random=True):
        assert_close(train(traced, target), expected)


@pytest.mark.parametrize("make", [estimator, decorated], ids=["topk", "decorator"])
@pytest.mark.parametrize("name", NAMES)
def test_two_calls_in_one_graph(cpp, name, make):
    """They draw apart, and each backward pass is a step of the rule."""
    function, target = make(name)

    def two(theta):
        return function(theta), function(theta)

    theta = torch.randn(5, 40, requires_grad=True)
    traced = torch.compile(two, fullgraph=True)
    first, second = traced(theta)
    assert not torch.equal(first, second)
    before = [x.clone() for x in state(target)]
    torch.autograd.grad((first * weights(first, 40)[:, 0].sum() + second).sum(), theta)
    if name == "aimle":
        assert abs(target.beta - before[0]) > 1.5 * target.rule.update_step


def test_compiled_accumulation(cpp):
    """Two forward passes of a compiled estimator before their backward passes."""
    results = []
    for compiled in (False, True):
        function, target = estimator("aimle")
        function = torch.compile(function, fullgraph=True) if compiled else function
        torch.manual_seed(3)
        theta = torch.randn(5, 30, requires_grad=True)
        with torch._inductor.config.patch(fallback_random=True):
            outputs = [function(theta) for _ in range(2)]
            dy = torch.randn(outputs[0].shape)
            got = [torch.autograd.grad(z, theta, dy)[0] for z in outputs]
        results.append((got, list(target.state)))
    assert results[0][0][0].any()
    assert_close(results[1], results[0])


def test_eval_and_train_are_two_graphs(cpp):
    """torch.compile guards on the mode of the target."""
    function, target = estimator("aimle")
    traced = torch.compile(function, fullgraph=True, backend="aot_eager")
    theta = torch.randn(5, 30, requires_grad=True)
    for mode in (True, False, True):
        target.train(mode)
        before = target.beta.clone()
        traced(theta).sum().backward()
        assert torch.equal(target.beta, before) != mode


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("randomness", ["different", "same"])
def test_vmap(backend, name, randomness):
    """A mapped call: k ones in every row, gradients, and the randomness that was asked for."""
    function, _ = estimator(name)
    theta = torch.zeros(6, 3, 30, requires_grad=True)
    if name == "aimle":
        theta = theta + 1
    z = torch.vmap(function, randomness=randomness, out_dims=1)(theta)
    assert z.shape == (2, 6, 3, 30)
    assert torch.equal(z.sum(-1), torch.full((2, 6, 3), 4.0))
    assert torch.equal(z[:, 0], z[:, 1]) == (randomness == "same")
    leaf = theta if theta.is_leaf else theta.grad_fn.next_functions[0][0].variable
    (got,) = torch.autograd.grad((z * torch.randn_like(z)).sum(), leaf)
    assert got.any()


@pytest.mark.parametrize("name", NAMES)
def test_func_grad(backend, name):
    """The gradient of torch.autograd, from the same noise; AIMLE with its step frozen."""
    dy = torch.randn(2, 3, 12)
    theta = torch.randn(3, 12)

    def loss(theta):
        return (function(theta) * dy).sum()

    function, target = estimator(name)
    torch.manual_seed(1)
    leaf = theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    function, target = estimator(name)
    if name == "aimle":
        with pytest.raises(RuntimeError, match="freeze it with"):
            torch.func.grad(loss)(theta)
        target.eval()
    torch.manual_seed(1)
    assert_close(torch.func.grad(loss)(theta), expected)
    assert expected.any()


@pytest.mark.parametrize("name", NAMES)
def test_func_grad_through_a_solver_that_leaves_torch(name):
    """The decorators' solvers get plain tensors, whatever transform is outside."""
    decorator = {"imle": dg.imle, "aimle": dg.aimle}[name]
    solve = decorator(lambda x: torch.from_numpy((x.numpy() > 0).astype("float32")))
    theta, dy = torch.randn(3, 12), torch.randn(3, 12)
    if name == "aimle":
        with pytest.raises(RuntimeError, match="freeze it with"):
            torch.func.grad(lambda x: (solve(x) * dy).sum())(theta)
        solve.target_distribution.eval()
    leaf = theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(solve(leaf), leaf, dy)
    assert expected.any()
    assert_close(torch.func.grad(lambda x: (solve(x) * dy).sum())(theta), expected)


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_is_an_error(backend, name):
    """A tangent of zero would be taken for an answer."""
    function, target = estimator(name)
    if name == "aimle":
        target.eval()
    theta = torch.randn(3, 12)
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(function, (theta,), (theta,))


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing(backend, name):
    """The recomputed forward pass draws the same subsets, and the state makes one step."""
    results = []
    for checkpointed in (False, True):
        function, target = estimator(name)
        torch.manual_seed(7)
        theta = torch.randn(3, 12, requires_grad=True)
        if checkpointed:
            z = torch.utils.checkpoint.checkpoint(function, theta, use_reentrant=False)
        else:
            z = function(theta)
        loss = (z * torch.linspace(-1, 1, 12)).square().sum()
        results.append((z.detach(), torch.autograd.grad(loss, theta)[0], list(state(target))))
    assert_close(results[1], results[0])


def test_a_generator_serves_the_eager_call_only(cpp):
    """What torch.compile cannot trace it says; nothing is drawn from another source instead."""
    function, _ = estimator("imle", generator=generator())
    with pytest.raises(Exception, match="enerator"):
        torch.compile(function, fullgraph=True, backend="aot_eager")(torch.randn(3, 12))


@pytest.mark.parametrize("randomness", ["different", "same"])
@pytest.mark.parametrize("kind", ["vmap", "vmap-grad", "grad-vmap"])
def test_both_passes_have_the_same_noise_under_transforms(backend, kind, randomness):
    """With lambda = 0 the two states are one: whatever else is left comes from other noise."""
    dy = torch.randn(2, 5, 12)
    theta = torch.randn(4, 5, 12)
    for step in (0.0, 20.0):
        target = dg.TargetDistribution(1.0, step)

        def loss(rows, target=target):
            return (dg.imle_topk(rows, 3, 2, target=target) * dy).sum()

        if kind == "vmap-grad":
            got = torch.vmap(torch.func.grad(loss), randomness=randomness)(theta)
        elif kind == "grad-vmap":
            mapped = torch.vmap(loss, randomness=randomness)
            got = torch.func.grad(lambda x, mapped=mapped: mapped(x).sum())(theta)
        else:
            leaf = theta.clone().requires_grad_()
            got = torch.autograd.grad(torch.vmap(loss, randomness=randomness)(leaf).sum(), leaf)[0]
        assert bool(got.any()) == (step > 0)
