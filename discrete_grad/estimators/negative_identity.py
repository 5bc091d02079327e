# SPDX-License-Identifier: Apache-2.0
"""Solvers whose backward pass is the identity, up to its sign, on projected costs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from discrete_grad import checks
from discrete_grad.estimators import surrogate

Solver = Callable[..., Tensor]


# Projections of each instance: of the entries that are ``live``, the others being 0.


def _mean(values: Tensor, live: Tensor) -> Tensor:
    mean = values.flatten(1).sum(-1) / live.flatten(1).sum(-1).clamp_min(1)
    return torch.where(live, values - mean.reshape(-1, *(1,) * (values.dim() - 1)), 0.0)


def _norm(values: Tensor, live: Tensor) -> Tensor:
    length = values.flatten(1).norm(dim=-1)
    length = torch.where(length == 0, 1.0, length)  # zeros stay zeros
    return values / length.reshape(-1, *(1,) * (values.dim() - 1))


_PROJECTIONS: dict[str | None, Callable[[Tensor, Tensor], Tensor]] = {
    None: lambda values, live: values,
    "mean": _mean,
    "norm": _norm,
    "std": lambda values, live: _norm(_mean(values, live), live),
}


@overload
def identity(fn: Solver, *, minimize: bool = ..., projection: str | None = ...) -> Solver: ...


@overload
def identity(
    fn: None = ..., *, minimize: bool = ..., projection: str | None = ...
) -> Callable[[Solver], Solver]: ...


def identity(
    fn: Solver | None = None, *, minimize: bool = False, projection: str | None = "std"
) -> Solver | Callable[[Solver], Solver]:
    """The solver y(P(theta)), differentiated as if y were the identity (minus it for minimisers).

    With g = dL/dy, and P' the Jacobian of the projection P, dL/dtheta = P'^T g for a solver that
    maximises <theta, y> and -P'^T g for one that minimises it (``minimize``, the paper's
    convention). A projection that leaves the solution as it is takes those directions out of the
    gradient that cannot change it: a shift of all entries ("mean": theta less its mean), a scale
    ("norm": theta over its Euclidean length), or both ("std": "norm" of "mean").

    Also a decorator: ``@identity(minimize=True)``. Costs one solution forward, none backward.

    Args:
        fn: a batched solver: maps theta [batch, *instance] (and arguments that it is passed as they
            are) to solutions of the shape of theta. Called without gradients.
        minimize: whether ``fn`` minimises.
        projection: "std", "mean", "norm" or None, of each instance by itself. "mean" and "std" fit
            solvers that no shift concerns: all solutions have equally many ones.

    Returns:
        A function of theta and further arguments. Infinite entries of theta stay so, count in no
        projection and get gradient 0.

    Raises:
        ValueError, TypeError: a bad argument, named in the message; solutions of another shape.

    Source:
        Sahoo, Paulus, Vlastelica, Musil, Kuleshov, Martius, "Backpropagation through Combinatorial
        Algorithms: Identity with Projection Works", ICLR 2023, arXiv:2205.15213, section 3.
    """
    checks.one_of("projection", projection, tuple(_PROJECTIONS))
    if fn is None:
        return functools.partial(identity, minimize=minimize, projection=projection)
    checks.function("fn", fn)
    project = _PROJECTIONS[projection]

    @functools.wraps(fn, updated=())
    def passed_on(theta: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        checks.examples("theta", theta)
        live = ~theta.isinf()
        projected = project(surrogate.finite(theta), live)
        with torch.no_grad():
            solution = fn(torch.where(live, projected, theta), *args, **kwargs)
        solution = checks.returned("fn", solution, theta.shape).to(theta.dtype)
        return surrogate.straight_through(solution, -projected if minimize else projected)

    return passed_on
