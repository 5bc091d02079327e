# SPDX-License-Identifier: Apache-2.0
"""Blackbox differentiation of solvers: the gradient of a piecewise linear interpolation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from discrete_grad import checks
from discrete_grad.estimators import surrogate

Solver = Callable[..., Tensor]


@overload
def blackbox(fn: Solver, *, lambda_: float = ..., minimize: bool = ...) -> Solver: ...


@overload
def blackbox(
    fn: None = ..., *, lambda_: float = ..., minimize: bool = ...
) -> Callable[[Solver], Solver]: ...


def blackbox(
    fn: Solver | None = None, *, lambda_: float = 1.0, minimize: bool = False
) -> Solver | Callable[[Solver], Solver]:
    """The solver y(theta) with the gradient of its loss's piecewise linear interpolation.

    With g = dL/dy, a solver that maximises <theta, y> gets

        dL/dtheta = (1/lambda) [y(theta) - y(theta - lambda g)],

    and one that minimises it (``minimize``, the paper's convention)

        dL/dtheta = -(1/lambda) [y(theta) - y(theta + lambda g)].

    Also a decorator: ``@blackbox(lambda_=10.0)``. Costs one solution forward, one backward.

    Args:
        fn: a batched solver: maps theta (and arguments that it is passed as they are) to solutions
            of the shape of theta. Called without gradients.
        lambda_: the interpolation's length, > 0.
        minimize: whether ``fn`` minimises.

    Returns:
        A function of theta and further arguments. Infinite entries of theta stay so.

    Raises:
        ValueError, TypeError: a bad argument, named in the message; solutions of another shape.

    Source:
        Pogančić, Paulus, Musil, Martius, Rolínek, "Differentiation of Blackbox Combinatorial
        Solvers", ICLR 2020, Algorithm 1.
    """
    step = checks.positive("lambda_", lambda_)
    if fn is None:
        return functools.partial(blackbox, lambda_=step, minimize=minimize)
    checks.function("fn", fn)
    towards = 1 if minimize else -1

    @functools.wraps(fn, updated=())
    def interpolated(theta: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        checks.examples("theta", theta)
        fixed = theta.detach()
        with torch.no_grad():
            here = checks.returned("fn", fn(fixed, *args, **kwargs), theta.shape)

        def difference(theta: Tensor, grad: Tensor) -> Tensor:
            with torch.no_grad():
                there = fn(theta.detach() + towards * step * grad, *args, **kwargs)
                return (there - here) * (towards / step)

        return surrogate.with_gradient(theta, here.to(theta.dtype), difference)

    return interpolated
