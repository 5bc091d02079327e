# SPDX-License-Identifier: Apache-2.0
"""What all solvers have in common: dtypes, batches, threads, no gradient, messages, import time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from discrete_grad import solvers
from discrete_grad.solvers import batched

CYCLE = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]
# name: the solver for a number of workers, and the shape of an instance
THREADED: dict[str, tuple[Callable[[int | None], batched.BatchedSolver], tuple[int, ...]]] = {
    "tree": (lambda workers: solvers.spanning_tree(workers=workers), (5, 5)),
    "tree-edges": (lambda workers: solvers.spanning_tree(CYCLE, workers=workers), (5,)),
    "path": (lambda workers: solvers.shortest_path(workers=workers), (4, 5)),
    "path-edges": (lambda workers: solvers.shortest_path(CYCLE, workers=workers), (5,)),
    "matching": (lambda workers: solvers.matching(workers=workers), (3, 4)),
}
ALL: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    **{name: (make(None), shape) for name, (make, shape) in THREADED.items()},
    "topk": (solvers.topk(2), (6,)),
}
each_solver = pytest.mark.parametrize(("solve", "shape"), ALL.values(), ids=list(ALL))
each_threaded = pytest.mark.parametrize(("make", "shape"), THREADED.values(), ids=list(THREADED))
Make = Callable[[int | None], batched.BatchedSolver]


@each_solver
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_rounding_is_the_only_difference(
    solve: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weights = (torch.rand(7, *shape) + 0.1).to(dtype)
    result = solve(weights)
    assert result.dtype == dtype
    assert result.shape == weights.shape
    assert torch.equal(result.double(), solve(weights.double()))
    assert set(result.unique().tolist()) == {0.0, 1.0}


@each_solver
def test_no_gradient_and_the_input_is_left_alone(
    solve: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    weights = torch.rand(3, *shape, dtype=torch.float64, requires_grad=True)
    before = weights.detach().clone()
    assert not solve(weights).requires_grad
    assert torch.equal(weights, before)


@each_solver
def test_leading_dimensions_and_strides(
    solve: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    weights = torch.rand(*shape, 3, 2).movedim((-2, -1), (0, 1))
    assert not weights.is_contiguous()
    result = solve(weights)
    for i in range(3):
        for j in range(2):
            assert torch.equal(result[i, j], solve(weights[i, j].contiguous()))


@each_solver
@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3)])
def test_empty_batch(
    solve: Callable[[Tensor], Tensor], shape: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    assert solve(torch.zeros(*batch, *shape)).shape == (*batch, *shape)


@each_solver
def test_a_compiled_model_calls_the_solver_between_graphs(
    solve: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    def model(weights: Tensor) -> Tensor:
        return solve(weights * 2 + 1) - weights

    compiled = torch.compile(model, backend="eager")
    for _ in range(3):
        weights = torch.rand(6, *shape)
        assert torch.equal(compiled(weights), model(weights))


@each_threaded
def test_workers_change_nothing(make: Make, shape: tuple[int, ...]) -> None:
    """Weights with many ties, so that an influence of the other instances would show."""
    weights = torch.randint(1, 4, (23, *shape)).float()
    alone = torch.stack([make(1)(one) for one in weights])
    for workers in (1, 2, 3, 23, 50, None):
        assert torch.equal(make(workers)(weights), alone)


@each_threaded
def test_instances_do_not_influence_each_other(make: Make, shape: tuple[int, ...]) -> None:
    weights = torch.randint(1, 4, (30, *shape)).float()
    order = torch.randperm(30)
    assert torch.equal(make(2)(weights[order]), make(2)(weights)[order])


@each_threaded
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_first_nan_is_named(make: Make, shape: tuple[int, ...], workers: int) -> None:
    weights = torch.rand(7, *shape)
    weights[4].view(-1)[0] = torch.nan
    weights[6].view(-1)[1] = torch.nan
    with pytest.raises(ValueError, match=r"must not be NaN, in batch element 4$"):
        make(workers)(weights)


@each_threaded
def test_threads_are_used(
    make: Make, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = []
    executor = batched._pool.executor()
    original = executor.submit

    def submit(*arguments: object) -> object:
        submitted.append(len(arguments[1]))  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(executor, "submit", submit)
    make(3)(torch.rand(8, *shape))
    assert submitted == [3, 3, 2]


@each_threaded
def test_integers_are_refused(make: Make, shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match="must have dtype float64, float32"):
        make(1)(torch.ones(2, *shape, dtype=torch.int64))


def test_default_workers() -> None:
    assert solvers.matching().workers == os.cpu_count()
    assert solvers.spanning_tree().workers == os.cpu_count()
    assert solvers.shortest_path().workers == 1


def test_settings_are_shown() -> None:
    assert repr(solvers.matching(workers=2)) == "matching(workers=2)"
    assert repr(solvers.spanning_tree(workers=2)) == "spanning_tree(workers=2)"
    assert repr(solvers.spanning_tree(CYCLE, workers=2)) == (
        "spanning_tree(<5 edges>, num_vertices=4, workers=2)"
    )
    assert repr(solvers.shortest_path(minimum=0.1)) == (
        "shortest_path(neighbours=8, source=(0, 0), target=(-1, -1), minimum=0.1, workers=1)"
    )
    assert repr(solvers.shortest_path(CYCLE)) == (
        "shortest_path(<5 edges>, num_vertices=4, source=0, target=3, minimum=None, workers=1)"
    )


def test_import_is_without_the_parts_of_scipy_that_solve() -> None:
    program = (
        "import sys, discrete_grad; print({'scipy.sparse', 'scipy.optimize'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "set()"), run.stderr


def test_forked_process_makes_its_own_threads() -> None:
    """As a data loader's worker does; with the parent's pool it would wait for ever."""
    program = """
import os, torch
from discrete_grad import solvers
solve = solvers.matching(workers=2)
solve(torch.rand(4, 3, 3))
child = os.fork()
if child == 0:
    solve(torch.rand(4, 3, 3))
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert run.stdout.strip() == "7", run.stderr
