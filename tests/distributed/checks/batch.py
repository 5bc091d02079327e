# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training, and DTensors sharded over the batch, against one process."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import discrete_grad as dg
from tests.distributed.program import World, check

EXAMPLES, ITEMS, K, STEPS = 8, 12, 4, 12


class Network(nn.Module):
    """Chooses K of ITEMS by SIMPLE, or by AIMLE where it has a target, and reads what is chosen."""

    def __init__(self, target: dg.AdaptiveTargetDistribution | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.score = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, ITEMS)).double()
        self.read = nn.Linear(ITEMS, 1).double()
        self.target = target

    def forward(self, x, generator):
        logits = self.score(x)
        if self.target is None:
            chosen = dg.simple(logits, K, generator=generator)
        else:  # without noise: the rows of another rank would draw another one
            chosen = dg.aimle(dg.solvers.topk(K), self.target)(logits)
        return self.read(chosen).squeeze(-1)


def _batch(step):
    rng = torch.Generator().manual_seed(step)
    x = torch.randn(EXAMPLES, 6, generator=rng, dtype=torch.float64)
    return x, x[:, 0] * x[:, 1] + x[:, 2]


def _generator(step, part):
    """The generator of one part of the batch of one step, on whichever rank that part is."""
    return torch.Generator().manual_seed(1000 * step + part)


def _one_process(network, parts):
    """The losses of the whole batch; its parts draw from the generators that the ranks have."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5)
    losses = []
    for step in range(STEPS):
        x, y = _batch(step)
        outputs = [
            network(rows, _generator(step, part)) for part, rows in enumerate(x.chunk(parts))
        ]
        loss = (torch.cat(outputs) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _many_processes(network, world):
    """The losses of the same steps, each rank with its part of the batch; their mean."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5)
    losses = []
    for step in range(STEPS):
        x, y = (part.chunk(world.size)[world.rank] for part in _batch(step))
        loss = (network(x, _generator(step, world.rank)) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / world.size
        dist.all_reduce(mean, group=world.group)
        losses.append(mean.item())
    return losses


def _same_curve(got, expected):
    assert len(set(expected)) == STEPS, "the loss does not change"
    off = max(abs(a - b) / b for a, b in zip(got, expected, strict=True))
    print(f"{STEPS} losses, {expected[0]:.3f} to {expected[-1]:.3f}: off by {off:.1e}")
    assert off < 1e-11


@check(2, 4)
def ddp_has_the_losses_of_one_process(world: World) -> None:
    network = DistributedDataParallel(Network(), process_group=world.group)
    _same_curve(_many_processes(network, world), _one_process(Network(), world.size))


def _sharded_network(world, target=None):
    network = Network(target)
    mesh = DeviceMesh.from_group(world.group, "cpu")
    for module in (network.score, network.read, network):
        fully_shard(module, mesh=mesh)
    return network


@check(2, 4)
def fsdp2_has_the_losses_of_one_process(world: World) -> None:
    network = _sharded_network(world)
    _same_curve(_many_processes(network, world), _one_process(Network(), world.size))
    assert isinstance(network.read.weight, DTensor)


def _target(group):
    return dg.AdaptiveTargetDistribution(1.0, 2.0, 1.0, 0.05, 0.5, process_group=group)


@check(2, 4)
def aimle_under_fsdp2_agrees_and_is_saved(world: World) -> None:
    target = _target(world.group)
    network = _sharded_network(world, target)
    alone = _target(None)
    whole = Network(alone)
    _same_curve(_many_processes(network, world), _one_process(whole, 1))
    state, expected = torch.stack(list(target.state)), torch.stack(list(alone.state))
    assert torch.allclose(state, expected, rtol=1e-12)
    assert state[0] != 2.0
    everyones = [torch.empty_like(state) for _ in range(world.size)]
    dist.all_gather(everyones, state, group=world.group)
    assert all(torch.equal(state, one) for one in everyones)

    folder = Path(world.folder) / f"aimle-{world.size}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, on its own use of storages
        saved = get_model_state_dict(network)
        dcp.save(saved, checkpoint_id=folder, process_group=world.group)
        fresh = _sharded_network(world, _target(world.group))
        loaded = get_model_state_dict(fresh)
        dcp.load(loaded, checkpoint_id=folder, process_group=world.group)
        set_model_state_dict(fresh, loaded)
    assert torch.equal(torch.stack(list(fresh.target.state)), state)
    weights = (network.read.weight, fresh.read.weight)
    assert torch.equal(*(weight.full_tensor() for weight in weights))


@check(2, 4)
def aimle_under_ddp_agrees(world: World) -> None:
    network = DistributedDataParallel(Network(_target(world.group)), process_group=world.group)
    whole = Network(_target(None))
    _same_curve(_many_processes(network, world), _one_process(whole, 1))
    states = [torch.stack(list(n.target.state)) for n in (network.module, whole)]
    assert torch.allclose(*states, rtol=1e-12)


def _sides(mesh):
    """The same logits [5, 3, 12] in one process and sharded over the batch, and sizes by row."""
    logits = torch.randn(5, 3, ITEMS, dtype=torch.float64)
    k = torch.randint(0, ITEMS, (5, 3))
    return logits, distribute_tensor(logits, mesh, [Shard(0)]), k


@check(2, 4)
def dtensors_of_a_sharded_batch_are_not_gathered(world: World) -> None:
    mesh = DeviceMesh.from_group(world.group, "cpu")
    whole, sharded, k = _sides(mesh)
    hot = dg.subset.mode(whole, K)
    others = {
        type_: (hot if type_ is torch.Tensor else distribute_tensor(hot, mesh, [Shard(0)]))
        for type_ in (torch.Tensor, DTensor)
    }
    functions = {
        "marginals": lambda x: dg.subset.marginals(x, K),
        "marginals, k by row": lambda x: dg.subset.marginals(x, k),
        "marginals, recursion": lambda x: dg.subset.marginals(x, K, method="recursion"),
        "log_partition": lambda x: dg.subset.log_partition(x, k),
        "entropy": lambda x: dg.subset.entropy(x, k),
        "log_prob": lambda x: dg.subset.log_prob(x, K, others[type(x)]),
        "kl_divergence": lambda x: dg.subset.kl_divergence(x, 2 * others[type(x)], K),
        "covariance": lambda x: dg.subset.covariance(x, K),
        "count_log_prob": lambda x: dg.subset.count_log_prob(x, 6),
    }
    for name, function in functions.items():
        sides = []
        for logits in (whole, sharded):
            leaf = logits.detach().requires_grad_()
            with CommDebugMode() as communication:
                value = function(leaf)
                (grad,) = torch.autograd.grad(value.square().sum(), leaf)
            sides.append((value.detach(), grad))
        assert communication.get_total_counts() == 0, name
        for mine, theirs in zip(sides[1], sides[0], strict=True):
            assert mine.placements == (Shard(0),), name
            assert torch.allclose(mine.full_tensor(), theirs, rtol=1e-12, atol=1e-12), name


@check(2, 4)
def draws_of_a_sharded_batch_are_not_gathered(world: World) -> None:
    mesh = DeviceMesh.from_group(world.group, "cpu")
    whole, sharded, k = _sides(mesh)
    functions = {
        "sample": lambda x, s: dg.subset.sample(x, K, s),
        "simple": lambda x, s: dg.simple(x, K, s),
        "simple, order 2": lambda x, s: dg.simple(x, K, s, order=2),
        "perturbed_topk": lambda x, s: dg.perturbed_topk(x, K, s),
        "perturbed_topk, table": lambda x, s: dg.perturbed_topk(x, K, s, noise="sum_of_gamma"),
        "imle_topk": lambda x, s: dg.imle_topk(x, K, s),
        "straight_through_topk": lambda x, s: dg.straight_through_topk(x, K, s),
        "simple, k by row": lambda x, s: dg.simple(x, k, s),
    }
    for name, function in functions.items():
        for samples in (None, 2, 3):
            leaf = sharded.detach().requires_grad_()
            with CommDebugMode() as communication:
                hot = function(leaf, samples)
                if hot.requires_grad:
                    (grad,) = torch.autograd.grad((hot * hot.detach().cumsum(-1)).sum(), leaf)
                    assert grad.placements == (Shard(0),), name
                    assert grad.shape == sharded.shape
            assert communication.get_total_counts() == 0, name
            assert hot.shape == (*(() if samples is None else (samples,)), *sharded.shape), name
            assert hot.placements == (Shard(0 if samples is None else 1),), name
            sizes = hot.detach().full_tensor().sum(-1)
            assert torch.equal(
                sizes, (k if "by row" in name else K + 0 * k).expand_as(sizes).double()
            )
    mode = dg.subset.mode(sharded, K)
    assert mode.placements == (Shard(0),)
    assert torch.equal(mode.full_tensor(), dg.subset.mode(whole, K))
    indices = dg.subset.sample_indices(sharded, K, 2).full_tensor()
    assert indices.shape == (2, 5, 3, K)
    assert (indices.diff(dim=-1) > 0).all()


@check(2, 4)
def aimle_of_a_sharded_batch_has_one_state(world: World) -> None:
    """The mesh's ranks share the state, which takes the steps of one process with all rows."""
    mesh = DeviceMesh.from_group(world.group, "cpu")
    whole, sharded, k = _sides(mesh)
    targets = [_target(None) for _ in range(2)]
    for size in (K, k):
        grads = []
        for logits, target in zip((whole, sharded), targets, strict=True):
            leaf = logits.detach().requires_grad_()
            hot = dg.aimle_topk(leaf, size, 2, target=target, temperature=0.0)
            weights = leaf.detach().cumsum(-1)
            (grad,) = torch.autograd.grad((hot * weights).sum(), leaf)
            grads.append(grad)
        assert hot.placements == (Shard(1),)
        assert grads[1].placements == (Shard(0),)
        assert torch.allclose(grads[1].full_tensor(), grads[0], rtol=1e-12)
    states = [torch.stack(list(target.state)) for target in targets]
    assert torch.equal(*states)
    assert states[0][0] != 2.0


@check(4)
def rows_of_every_rank_draw_their_own_noise(world: World) -> None:
    mesh = DeviceMesh.from_group(world.group, "cpu")
    alike = distribute_tensor(torch.zeros(8, 60), mesh, [Shard(0)])
    for draws in (dg.subset.sample(alike, 30), dg.perturbed_topk(alike, 30)):
        assert len(draws.full_tensor().unique(dim=0)) == 8
    copies = DTensor.from_local(torch.zeros(2, 60), mesh, [Replicate()])
    torch.manual_seed(world.rank)  # the first rank's generator decides for copies of the same rows
    local = dg.subset.sample(copies, 30).to_local()
    everyones = [torch.empty_like(local) for _ in range(4)]
    dist.all_gather(everyones, local, group=world.group)
    assert all(torch.equal(local, one) for one in everyones)
