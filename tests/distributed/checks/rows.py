# SPDX-License-Identifier: Apache-2.0
"""Sharded rows against the same rows in one process: values, derivatives, what is sent."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import discrete_grad as dg
import discrete_grad.distributed as dd
from discrete_grad.distributed import agreement
from tests import cases
from tests.distributed.program import World, check
from tests.tolerances import bound

# Uneven parts of 300 items; the second of four ranks has none.
_CUTS = {1: (0, 300), 2: (0, 7, 300), 3: (0, 3, 3, 300), 4: (0, 20, 20, 33, 300)}
BYTES = 4096  # most that a float32 row may cost, whatever n and k


def _part(world: World) -> slice:
    return slice(*_CUTS[world.size][world.rank : world.rank + 2])


def _adversarial(dtype):
    table = cases.CASES if dtype == torch.float64 else cases.FLOAT32_CASES
    logits, k, grad = cases.padded(table)
    assert logits.shape[-1] == 300
    return torch.tensor(logits, dtype=dtype), torch.tensor(k), torch.tensor(grad, dtype=dtype)


def _derivative(function, logits, grad=None):
    logits = logits.clone().requires_grad_()
    value = function(logits)
    upstream = torch.ones_like(value) if grad is None else grad
    return value.detach(), torch.autograd.grad(value, logits, upstream)[0]


def _error(got, expected, *, relative=False):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    off = (got.double() - expected.double()).abs()
    if relative:
        off = off / expected.double().abs().clamp(min=1)
    off = torch.where((got == expected) | (got.isnan() & expected.isnan()), 0.0, off)
    return off.amax().item() if off.numel() else 0.0


@check(1, 2, 3, 4)
def marginals_and_their_derivative(world: World) -> None:
    for dtype in (torch.float64, torch.float32):
        logits, k, grad = _adversarial(dtype)
        part = _part(world)
        whole, product = _derivative(
            lambda x, k=k: dg.subset.marginals(x, k, method="contour"), logits, grad
        )
        got = _derivative(
            lambda x, k=k: dd.marginals(x, k, group=world.group), logits[:, part], grad[:, part]
        )
        errors = _error(got[0], whole[:, part]), _error(got[1], product[:, part])
        print(f"{dtype}: off by {errors[0]:.1e} (marginals), {errors[1]:.1e} (VJP)")
        assert errors[0] <= bound("marginals", dtype), errors
        assert errors[1] <= bound("vjp", dtype), errors


@check(1, 2, 3, 4)
def log_partition_entropy_and_log_prob(world: World) -> None:
    logits, k, _ = _adversarial(torch.float64)
    part = _part(world)
    hot = dg.subset.mode(logits, k)
    pairs = {
        "log_partition": (
            lambda x: dg.subset.log_partition(x, k, method="contour"),
            lambda x: dd.log_partition(x, k, group=world.group),
        ),
        "entropy": (
            lambda x: dg.subset.entropy(x, k),
            lambda x: dd.entropy(x, k, group=world.group),
        ),
        "log_prob": (
            lambda x: dg.subset.log_prob(x, k, hot),
            lambda x: dd.log_prob(x, k, hot[:, part], group=world.group),
        ),
    }
    for name, (unsharded, sharded) in pairs.items():
        value, grad = _derivative(unsharded, logits)
        got = _derivative(sharded, logits[:, part])
        errors = _error(got[0], value, relative=True), _error(got[1], grad[:, part], relative=True)
        print(f"{name}: off by {errors[0]:.1e}, gradient by {errors[1]:.1e}")
        assert errors[0] <= 2e-13, (name, errors)
        assert errors[1] <= 2e-13, (name, errors)


@check(1, 3, 4)
def the_mode_is_that_of_one_process(world: World) -> None:
    for dtype in (torch.float64, torch.float32):
        logits, k, _ = _adversarial(dtype)
        part = _part(world)
        got = dd.mode(logits[:, part], k, group=world.group)
        assert torch.equal(got, dg.subset.mode(logits, k)[:, part])  # many of the rows have ties


@check(3)
def a_subset_outside_the_law_has_no_probability(world: World) -> None:
    logits = torch.tensor([[0.5, -torch.inf, 1.0, torch.inf, 0.0, 2.0]], dtype=torch.float64)
    mine = slice(2 * world.rank, 2 * world.rank + 2)
    subsets = torch.tensor(
        [
            [1, 0, 0, 1, 0, 1],  # of the law
            [0, 1, 0, 1, 0, 1],  # an excluded item
            [1, 0, 1, 0, 0, 1],  # not the forced one
            [1, 0, 0, 1, 0, 0],  # two items
            [2, 0, 0, 1, 0, 0],  # no k-hot vector
        ],
        dtype=torch.float64,
    )
    expected = dg.subset.log_prob(logits, 3, subsets)
    got = dd.log_prob(logits[:, mine], 3, subsets[:, mine], group=world.group)
    assert _error(got, expected) < 1e-14
    assert got[1:].isneginf().all()


@check(2)
def every_dtype_and_rows_without_a_law(world: World) -> None:
    logits = torch.randn(6, 4, 10, dtype=torch.float64)
    k = torch.randint(1, 9, (4,))
    logits[0, 0, 7] = torch.nan  # on the second rank only
    logits[1, 1, :] = -torch.inf
    logits[2, 2, :] = torch.inf
    mine = slice(0, 3) if world.rank == 0 else slice(3, 10)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        rows = logits.to(dtype)
        whole, product = _derivative(lambda x: dg.subset.marginals(x, k), rows)
        got = _derivative(lambda x: dd.marginals(x, k, group=world.group), rows[..., mine])
        assert got[0].dtype == got[1].dtype == dtype
        assert _error(got[0], whole[..., mine]) <= 2 * bound("marginals", dtype)
        assert _error(got[1], product[..., mine]) <= 2 * bound("vjp", dtype)
        for row in ((0, 0), (1, 1), (2, 2)):
            assert got[0][row].isnan().all()
        draws = dd.sample(rows[..., mine], k, 2, group=world.group)
        assert draws.dtype == dtype
        assert torch.equal(draws.isnan(), got[0].isnan().expand_as(draws))
        total = draws.sum(-1)
        dist.all_reduce(total, group=world.group)
        assert ((total == k) | total.isnan()).all()


@check(1, 4)
def what_is_sent(world: World) -> None:
    seen = set()
    for n, k in ((100, 7), (40_000, 1), (40_000, 13_000), (400_000, 399_999)):
        logits = torch.randn(2, n // world.size).requires_grad_()
        with dd.traffic() as forward:
            mu = dd.marginals(logits, k, group=world.group)
        with dd.traffic() as backward:
            mu.backward(torch.randn_like(mu))
        with dd.traffic() as draw:
            dd.sample(logits, k, group=world.group)
        counters = (forward, backward, draw)
        seen.add(tuple((one.bytes, *sorted(one.collectives.items())) for one in counters))
        assert max(one.bytes for one in counters) / 2 <= BYTES
        assert (forward.bytes + backward.bytes + draw.bytes) / 2 <= BYTES
    assert len(seen) == 1, f"depends on n or k: {seen}"
    for name, one in zip(("marginals", "VJP", "sample"), counters, strict=True):
        print(f"{name}: {one.bytes / 2:.0f} bytes a row in {dict(one.collectives)}")


@check(2, 4)
def dtensors(world: World) -> None:
    mesh = init_device_mesh("cpu", (4,)) if world.size == 4 else None
    if world.size == 2:
        from torch.distributed.device_mesh import DeviceMesh

        mesh = DeviceMesh.from_group(world.group, "cpu")
    for n in (11, 3):  # uneven; and fewer items than four ranks
        torch.manual_seed(n)
        logits = torch.randn(5, n, dtype=torch.float64)
        grad = torch.randn(5, n, dtype=torch.float64)
        k = torch.randint(0, n + 1, (5,))
        sharded = distribute_tensor(logits, mesh, [Shard(-1)])
        upstream = distribute_tensor(grad, mesh, [Shard(-1)])
        whole, product = _derivative(lambda x, k=k: dg.subset.marginals(x, k), logits, grad)
        with CommDebugMode() as communication:
            got = _derivative(lambda x, k=k: dd.marginals(x, k), sharded, upstream)
        kinds = {str(kind) for kind in communication.get_comm_counts()}
        assert all("all_reduce" in kind for kind in kinds), kinds
        for mine, theirs in zip(got, (whole, product), strict=True):
            assert mine.placements == (Shard(1),)
            assert mine.to_local().shape == sharded.to_local().shape
            assert _error(mine.full_tensor(), theirs) < 1e-13

        value, slope = _derivative(lambda x, k=k: dd.entropy(x, k), sharded)
        expected = _derivative(lambda x, k=k: dg.subset.entropy(x, k), logits)
        assert value.placements == (Replicate(),)
        assert _error(value.full_tensor(), expected[0], relative=True) < 1e-13
        assert _error(slope.full_tensor(), expected[1], relative=True) < 1e-13

        draws = dd.sample(sharded, k, 3)
        assert draws.placements == (Shard(2),)
        assert torch.equal(draws.full_tensor().sum(-1), k.expand(3, 5).double())
        log_prob = dd.log_prob(sharded, k, draws).full_tensor()
        assert _error(log_prob, dg.subset.log_prob(logits, k, draws.full_tensor())) < 1e-12
        hot = dd.simple(sharded.detach().requires_grad_(), k)
        assert hot.shape == logits.shape
        assert hot.requires_grad


@check(4)
def a_mesh_of_batch_and_items(world: World) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("batch", "items"))
    logits = torch.randn(5, 3, 9, dtype=torch.float64)
    k = torch.randint(0, 10, (5, 1))
    sharded = distribute_tensor(logits, mesh, [Shard(0), Shard(2)])
    got = _derivative(lambda x: dd.marginals(x, k), sharded)[0]
    assert got.placements == (Shard(0), Shard(2))
    assert _error(got.full_tensor(), dg.subset.marginals(logits, k)) < 1e-13
    value, slope = _derivative(lambda x: dd.log_partition(x, k), sharded)
    expected = _derivative(lambda x: dg.subset.log_partition(x, k), logits)
    assert value.placements == (Shard(0), Replicate())
    assert _error(value.full_tensor(), expected[0]) < 1e-12
    assert _error(slope.full_tensor(), expected[1]) < 1e-13
    alike = distribute_tensor(torch.zeros(2, 40), mesh, [Shard(0), Shard(1)])
    draws = dd.sample(alike, 20).full_tensor()
    assert (draws.sum(-1) == 20).all()
    assert not torch.equal(draws[0], draws[1]), "two parts of the batch drew the same noise"
    copies = distribute_tensor(torch.zeros(2, 40), mesh, [Replicate(), Shard(1)])
    torch.manual_seed(world.rank)
    local = dd.sample(copies, 20).to_local()
    parts = [torch.empty_like(local) for _ in range(4)]
    dist.all_gather(parts, local)
    assert torch.equal(parts[0], parts[2]), "copies of the same rows drew different subsets"


def _refused(call, kind, *texts: str) -> None:
    with pytest.raises(kind) as error:
        call()
    for text in texts:
        assert text in str(error.value), f"{text!r} is not in {error.value}"


@check(3)
def debug_mode_names_what_differs(world: World) -> None:
    rank, group = world.rank, world.group
    rows = torch.randn(2, 4)
    last = rank == 2
    with dd.debug():
        dd.marginals(rows, 5, group=group)
        dd.sample(rows, torch.tensor([1, 2]), group=group)
        _refused(
            lambda: dd.marginals(rows, 6 if last else 5, group=group),
            RuntimeError,
            "k must be the same on all ranks",
            "5 on rank 0, 5 on rank 1, 6 on rank 2",
        )
        _refused(
            lambda: dd.marginals(rows.double() if last else rows, 5, group=group),
            RuntimeError,
            "the dtype of logits",
            "torch.float64 on rank 2",
        )
        _refused(
            lambda: dd.marginals(rows[: 1 if last else 2], 5, group=group),
            RuntimeError,
            "the batch shape of logits",
            "(1,) on rank 2",
        )
        k = torch.tensor([1, 3 if last else 2])
        _refused(lambda: dd.entropy(rows, k, group=group), RuntimeError, "[1, 3] on rank 2")
        _refused(
            lambda: dd.sample(rows, 5, 3 if last else 4, group=group), RuntimeError, "num_samples"
        )
        _refused(
            lambda: (dd.entropy if last else dd.marginals)(rows, 5, group=group),
            RuntimeError,
            "dg.distributed.entropy on rank 2",
        )
        _refused(lambda: dd.marginals(rows, 13, group=group), ValueError, "n = 12", "got 13")
    dd.marginals(rows, 13, group=group)  # not in debug mode: rows without a law, no error
    os.environ[agreement.VARIABLE] = "1"
    try:
        _refused(lambda: dd.marginals(rows, 13, group=group), ValueError, "got 13")
    finally:
        del os.environ[agreement.VARIABLE]


@check(1)
def bad_arguments_are_named(world: World) -> None:
    rows, group = torch.randn(2, 4), world.group
    _refused(lambda: dd.marginals(rows, -1, group=group), ValueError, "k must be at least 0")
    _refused(lambda: dd.marginals(rows, 1.5, group=group), TypeError, "k must be an int")
    _refused(lambda: dd.marginals(rows.long(), 1, group=group), TypeError, "logits must have dtype")
    _refused(lambda: dd.marginals(rows, 1, group=3), TypeError, "group must be")
    _refused(lambda: dd.sample(rows, 1, -2, group=group), ValueError, "num_samples must be")
    k = torch.ones(3, dtype=torch.int64)
    _refused(lambda: dd.marginals(rows, k, group=group), ValueError, "k must broadcast")
    short = torch.zeros(2, 3)
    _refused(lambda: dd.log_prob(rows, 1, short, group=group), ValueError, "subset must be k-hot")
    from torch.distributed.device_mesh import DeviceMesh

    mesh = DeviceMesh.from_group(group, "cpu")
    whole = DTensor.from_local(rows, mesh, [Replicate()])
    _refused(lambda: dd.marginals(whole, 1), ValueError, "exactly one mesh dimension")
    sharded = DTensor.from_local(rows, mesh, [Shard(1)])
    _refused(lambda: dd.marginals(sharded, 1, group=group), ValueError, "group must be None")
    _refused(lambda: dd.marginals(sharded, 5), ValueError, "n = 4")
    _refused(lambda: dd.log_prob(sharded, 1, rows), TypeError, "subset must be a DTensor")


@check(2)
def a_second_derivative_is_refused(world: World) -> None:
    logits = torch.randn(2, 4, requires_grad=True)
    mu = dd.marginals(logits, 3, group=world.group)
    (first,) = torch.autograd.grad(mu.square().sum(), logits, create_graph=True)
    _refused(lambda: first.sum().backward(), RuntimeError, "once_differentiable")


@check(2)
def an_empty_batch(world: World) -> None:
    logits = torch.randn(0, 4, requires_grad=True)
    mu = dd.marginals(logits, 3, group=world.group)
    mu.sum().backward()
    assert mu.shape == logits.grad.shape == (0, 4)
    assert dd.sample(logits, 3, 2, group=world.group).shape == (2, 0, 4)
    assert dd.log_partition(logits, 3, group=world.group).shape == (0,)


@check(2, slow=True)
def a_compiled_training_step(world: World) -> None:
    def loss(logits):
        mu = dd.marginals(logits, 5, group=world.group)
        return (mu * mu).sum() + dd.log_partition(logits, 5, group=world.group).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    logits = torch.randn(3, 4 + world.rank, dtype=torch.float64)
    plain, graph = (_derivative(function, logits) for function in (loss, compiled))
    for got, expected in zip(graph, plain, strict=True):
        assert _error(got, expected) < 1e-14
