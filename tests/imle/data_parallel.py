# SPDX-License-Identifier: Apache-2.0
"""AIMLE runs for test_distributed; as a program, one of the processes of a process group.

python data_parallel.py RANK PORT FOLDER
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist

import discrete_grad as dg

RANKS, EXAMPLES, STEPS = 2, 6, 12
CASES = [
    (name, path, per_example)
    for name in ("reference", "cpp")
    for path in ("fused", "unfused")
    for per_example in (False, True)
]


def problem():
    """theta [B, n] and dL/dz of the mean loss over the whole batch, for each step; no noise: rows
    of another rank would draw another one.
    """
    rng = torch.Generator().manual_seed(9)
    theta = torch.randn(EXAMPLES, 10, generator=rng)
    grads = torch.randn(STEPS, EXAMPLES, 10, generator=rng)
    return theta, grads


def run(case, rows, group, overflow=None):
    """The trajectory of the state, and the gradients, over the examples ``rows``."""
    backend, path, per_example = case
    theta, grads = problem()
    examples = len(range(EXAMPLES)[rows])
    target = dg.AdaptiveTargetDistribution(
        1.0, 3.0, 1.0, 0.05, 0.5, per_example=per_example, process_group=group
    )
    solver = dg.solvers.topk(3) if path == "fused" else lambda x: dg.subset.mode(x, 3)
    solve = dg.aimle(solver, target)
    theta = theta[rows].clone().requires_grad_()
    trajectory, gradients = [], []
    with dg.backend(backend):
        for step in range(STEPS):
            # The mean over the local examples, as each rank's loss has it.
            local = grads[step, rows] / examples
            if step == overflow:
                local[0, 0] = torch.inf
            (got,) = torch.autograd.grad(solve(theta), theta, local)
            trajectory.append(torch.stack(list(target.state)).clone())
            gradients.append(got)
            with torch.no_grad():
                theta -= 0.1 * examples / EXAMPLES * got.nan_to_num(0.0)
    return torch.stack(trajectory), torch.stack(gradients)


def main(rank, port, folder):
    """Writes the results of one rank, which has its part of the examples, to FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    half = EXAMPLES // RANKS
    rows = slice(rank * half, (rank + 1) * half)
    results = {case: run(case, rows, dist.group.WORLD) for case in CASES}
    # One rank overflows: no rank may count that step.
    overflow = run(CASES[0], rows, dist.group.WORLD, overflow=4 if rank == 0 else None)
    results["overflow"] = overflow
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
