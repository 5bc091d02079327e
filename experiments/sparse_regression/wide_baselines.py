# SPDX-License-Identifier: Apache-2.0
"""What learnt supports of very many columns are compared with."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, orthogonal_mp
from torch import Tensor

from experiments.session import JSON
from experiments.sparse_regression.wide_problem import Problem

_MOST_STEPS = 100


def matching_pursuit(problem: Problem, k: int) -> list[int]:
    """Orthogonal matching pursuit of scikit-learn, k columns one after the other."""
    columns, target = problem.columns.numpy().T, problem.target.numpy()
    found = orthogonal_mp(columns, target, n_nonzero_coefs=k, precompute=False)
    support: list[int] = np.flatnonzero(found).tolist()
    return support


def lasso(problem: Problem, k: int, penalty: float) -> list[int]:
    """The k largest coefficients of scikit-learn's Lasso.

    Args:
        penalty: over the least one with which all coefficients are 0.
    """
    columns, target = problem.columns.numpy().T, problem.target.numpy()
    largest = float((problem.columns @ problem.target).abs().max()) / len(target)
    model = Lasso(
        alpha=penalty * largest, fit_intercept=False, tol=1e-3, max_iter=200, copy_X=False
    )
    with warnings.catch_warnings():
        # The order of the coefficients is settled long before their digits are.
        warnings.simplefilter("ignore", ConvergenceWarning)
        size = np.abs(model.fit(columns, target).coef_)
    largest_first = np.argsort(-size, kind="stable")[:k]
    return sorted(int(j) for j in largest_first if size[j] > 0)


def hard_thresholding(problem: Problem, k: int) -> list[int]:
    """Normalised iterative hard thresholding: gradient steps, of each the k largest entries kept.

    Source:
        Blumensath and Davies, "Normalized iterative hard thresholding: guaranteed stability and
        performance", IEEE J. Sel. Top. Signal Process. 4(2), 2010.
    """
    columns, target = problem.columns, problem.target
    x = torch.zeros(len(columns))
    support = _largest(columns @ target, k)
    residual = target
    for _ in range(_MOST_STEPS):
        g = columns @ residual
        step = g[support].square().sum() / (g[support] @ columns[support]).square().sum()
        new = _keep(x + step * g, k)
        # A step that changes the support may be too long; the paper's bound, with its c = 0.01.
        while new.nonzero()[:, 0].tolist() != support.tolist():
            change = new - x
            moved = change.nonzero()[:, 0]
            bound = change.square().sum() / (change[moved] @ columns[moved]).square().sum()
            if step <= 0.99 * bound:
                break
            step = step / 2
            new = _keep(x + step * g, k)
        settled = (new - x).norm() <= 1e-4 * new.norm()
        x, support = new, new.nonzero()[:, 0]
        residual = target - x[support] @ columns[support]
        if settled:
            break
    found: list[int] = support.tolist()
    return found


def hard_thresholding_pursuit(problem: Problem, k: int) -> list[int]:
    """The same with least squares on the support after each step, until the support stays.

    Source:
        Foucart, "Hard thresholding pursuit: an algorithm for compressive sensing", SIAM J. Numer.
        Anal. 49(6), 2011 (its normalised form).
    """
    columns, target = problem.columns, problem.target
    x, support, residual = torch.zeros(len(columns)), _largest(columns @ target, k), target
    for i in range(_MOST_STEPS):
        g = columns @ residual
        step = g[support].square().sum() / (g[support] @ columns[support]).square().sum()
        new = _largest(x + step * g, k)
        chosen = columns[new]
        x = torch.zeros_like(x)
        x[new] = torch.linalg.solve(chosen @ chosen.T, chosen @ target)
        residual = target - x[new] @ chosen
        # The first step, from 0, leads to the support that it starts with.
        if i > 0 and new.equal(support):
            break
        support = new
    found: list[int] = support.tolist()
    return found


def timed(method: Callable[[], list[int]]) -> JSON:
    """The support, and the CPU seconds that it took."""
    start = time.process_time()
    support = method()
    return {"support": support, "seconds": time.process_time() - start}


def _largest(values: Tensor, k: int) -> Tensor:
    return values.abs().topk(k).indices.sort().values


def _keep(values: Tensor, k: int) -> Tensor:
    kept = _largest(values, k)
    return torch.zeros_like(values).scatter(0, kept, values[kept])
