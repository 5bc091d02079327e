# SPDX-License-Identifier: Apache-2.0
"""Keeps the best k of all weights of a network that no process has whole.

A classifier of handwritten digits is trained by 4 processes, each with a quarter of the hidden
units (tensor parallelism). Then k of all its weights are to stay, wherever they are: one k-subset
of one row that is sharded over the processes. The weights are frozen and every weight gets a score;
SIMPLE (dg.distributed.simple) draws the k-subset in each step and learns the scores, starting from
the magnitudes of the weights. The script prints the test accuracy with all weights, with the k
largest ones, and with the k of the highest scores, and what the choice sends per step.

    python examples/global_pruning_sharded.py          # about a minute on two cores
    python examples/global_pruning_sharded.py --quick

It needs scikit-learn: pip install 'discrete-grad[demo]'.
"""

from __future__ import annotations

import argparse
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import discrete_grad.distributed as dd

PROCESSES, HIDDEN, CLASSES, BATCH = 4, 256, 10, 128
KEPT = 0.01  # of all weights


class Quarter(nn.Module):
    """This process's hidden units: the rows of the first layer and the columns of the second."""

    def __init__(self) -> None:
        super().__init__()
        units = HIDDEN // PROCESSES
        self.first = nn.Parameter(torch.randn(units, 64) / 8)
        self.bias = nn.Parameter(torch.zeros(units))
        self.second = nn.Parameter(torch.randn(CLASSES, units) / HIDDEN**0.5)

    def weights(self) -> Tensor:
        return torch.cat([self.first.flatten(), self.second.flatten()])

    def forward(self, x: Tensor, mask: Tensor | float = 1.0) -> Tensor:
        split = [self.first.numel(), self.second.numel()]
        first, second = (self.weights() * mask).split(split)
        hidden = functional.linear(x, first.view_as(self.first), self.bias).relu()
        part = functional.linear(hidden, second.view_as(self.second))
        total = part.detach().clone()
        dist.all_reduce(total)
        return part + (total - part).detach()  # the sum over the processes, this one's gradient


def train(parameters: list[Tensor], rate: float, steps: int, loss_of) -> None:
    optimizer = torch.optim.Adam(parameters, lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(step).backward()
        optimizer.step()


def work(rank: int, port: int, quick: bool) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=PROCESSES)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, rest = shuffled[:360], shuffled[360:]

    def loss(step: int, mask: Tensor | float = 1.0) -> Tensor:
        chosen = torch.Generator().manual_seed(step)  # the same examples on every process
        batch = rest[torch.randint(len(rest), (BATCH,), generator=chosen)]
        return functional.cross_entropy(model(images[batch], mask), labels[batch])

    def accuracy(mask: Tensor | float = 1.0) -> float:
        with torch.no_grad():
            right = model(images[test], mask).argmax(-1) == labels[test]
        return right.double().mean().item()

    torch.manual_seed(rank)  # the processes have different units; their draws differ anyway
    model = Quarter()
    train(list(model.parameters()), 3e-3, 100 if quick else 300, loss)
    weights = model.weights().detach()
    n = PROCESSES * weights.numel()
    k = round(KEPT * n)
    model.requires_grad_(False)
    magnitudes = weights.abs().log()
    scores = (2 * magnitudes).requires_grad_()
    with dd.traffic() as traffic:
        steps = 40 if quick else 600
        train([scores], 0.05, steps, lambda step: loss(step, dd.simple(scores, k)))
    kept = dd.mode(scores.detach(), k)
    results = {
        f"all {n} weights": accuracy(),
        f"the {k} largest": accuracy(dd.mode(magnitudes, k)),
        f"{k} chosen by SIMPLE": accuracy(kept),
    }
    counts = torch.zeros(PROCESSES, dtype=torch.int64)
    counts[rank] = int(kept.sum())
    dist.all_reduce(counts)
    if rank == 0:
        for name, value in results.items():
            print(f"test accuracy, {name}: {value:.1%}")
        print(f"of the {k} weights, by process: {counts.tolist()}")
        print(f"sent by a process to choose {k} of {n}: {traffic.bytes / steps:.0f} bytes a step")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, as the tests do")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, parser.parse_args().quick), nprocs=PROCESSES)
