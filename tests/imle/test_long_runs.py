# SPDX-License-Identifier: Apache-2.0
"""No drift over 1,000 steps; threads that share an estimator do not disturb each other."""

from __future__ import annotations

import gc
import resource
import threading

import pytest
import torch
from torch.testing import assert_close

import discrete_grad as dg
from tests.imle.problems import generator

THREADS = 8


def training_step(function, theta):
    loss = (function(theta) * torch.randn(theta.shape[-1])).square().sum()
    (got,) = torch.autograd.grad(loss, theta)
    return got


@pytest.mark.parametrize("path", ["fused", "unfused"])
def test_memory_over_1000_steps(backend, path):
    """Neither more tensors alive nor a larger process."""
    solver = dg.solvers.topk(5) if path == "fused" else lambda x: dg.subset.mode(x, 5)
    solve = dg.aimle(solver, noise_distribution=dg.GumbelNoiseDistribution(), nb_samples=2)
    # The reference is slow, and keeps nothing that Python does not know of.
    shape = (8, 512) if backend == "cpp" else (2, 16)
    theta = torch.randn(shape, requires_grad=True)

    def run(steps):
        for _ in range(steps):
            training_step(solve, theta)
        gc.collect()
        # Not isinstance, which asks objects for a __class__ that some refuse with a warning.
        alive = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        return alive, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    alive, peak = run(50)
    alive_after, peak_after = run(1000)
    # Fewer where what an earlier test left behind is freed meanwhile.
    assert alive_after <= alive
    # One [B, n] tensor of the larger shape kept at each step would be 16 MB (ru_maxrss: kB).
    assert peak_after - peak < 4_000


def in_threads(work):
    """work(0), ..., work(THREADS - 1), each in a thread of its own, at the same time."""
    start, results, errors = threading.Barrier(THREADS), {}, []

    def run(index):
        try:
            start.wait()
            results[index] = work(index)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return [results[index] for index in range(THREADS)]


@pytest.mark.parametrize("name", ["perturbed_topk", "imle_topk", "aimle_topk", "imle"])
def test_threads(backend, name):
    """Each with its own generator and state: the results of a serial run."""
    shared = dg.TargetDistribution(1.0, 3.0)
    law = dg.SumOfGammaNoiseDistribution(6)

    def work(index):
        draws = generator(index)
        adaptive = dg.AdaptiveTargetDistribution(1.0, 3.0)
        theta = torch.randn(5, 40, generator=draws).requires_grad_()
        function = {
            "perturbed_topk": lambda x: x * dg.perturbed_topk(x, 6, generator=draws),
            "imle_topk": lambda x: dg.imle_topk(x, 6, 2, target=shared, noise=law, generator=draws),
            "aimle_topk": lambda x: dg.aimle_topk(x, 6, 2, target=adaptive, generator=draws),
            "imle": dg.imle(lambda x: dg.subset.mode(x, 6), shared, law, 2, generator=draws),
        }[name]
        trace = []
        for _ in range(5):
            z = function(theta)
            trace += [z.detach(), *torch.autograd.grad(z.square().sum(), theta)]
        return trace

    serial = [work(index) for index in range(THREADS)]
    assert_close(in_threads(work), serial)


def test_threads_share_one_decorated_solver(backend):
    """Without noise there is nothing to tell the calls apart but theta."""
    solve = dg.imle(lambda x: dg.subset.mode(x, 6), dg.TargetDistribution(1.0, 30.0), nb_samples=2)

    def work(index):
        theta = torch.randn(5, 200, generator=generator(index)).requires_grad_()
        results = []
        for _ in range(20):
            z = solve(theta)
            dy = torch.linspace(-1, 1, 200).expand(z.shape)
            results.append(torch.autograd.grad(z, theta, dy)[0])
        return results

    serial = [work(index) for index in range(THREADS)]
    assert serial[0][0].any()
    assert_close(in_threads(work), serial)
