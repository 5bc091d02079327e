# SPDX-License-Identifier: Apache-2.0
"""From inclusion probabilities back to logits: the k-subset law of maximum entropy.

Solve mu(theta) = t for theta. The map is the gradient of the convex log Z_k, so the solution is
unique up to a constant, and is the minimiser of log Z_k(theta) - <theta, t>; its Jacobian is the
covariance Sigma of the k-hot vector. With F = logit(t) - logit(mu(theta)):

- start at theta = logit(t), exact but for terms of the order of one over the variance of a row;
- step theta += F (Chen, Dempster, Liu, "Weighted finite population sampling to maximize entropy",
  Biometrika 81, 1994) while it at least halves the spread max F - min F: for rows of large variance
  a few steps are enough;
- half that step where the whole one overshoots (n = 2: by a factor of 2 for ever), until Newton's
  method is in reach: D^-1 Sigma = I - W with a stochastic matrix W, and theta += F / 2 leaves
  (I + W) F / 2, so that no spread grows;
- Newton then: Sigma d = D (F - c) with D = diag(mu (1 - mu)) and the constant c that makes
  both sides sum to 0, by conjugate gradients preconditioned with D (the eigenvalues of D^-1 Sigma
  lie in [0, 2]); Sigma times a vector is the O(n) backward pass of the marginals. To first order a
  step a d leaves (1 - a) of the spread of F, so halving a finds a step that shrinks it.

All in float64, over the rows that are not done yet. Values are read on the host.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from discrete_grad import checks, ops

_MAX_SIMPLE_STEPS = 40
_MAX_NEWTON_STEPS = 60
_MAX_HALVINGS = 30
_MAX_CG_STEPS = 1000
# A row is done when |mu - t| <= _GOAL_ABSOLUTE + _GOAL_RELATIVE t (1 - t) everywhere; a row that
# stops short of it, where rounding lets it get no nearer, is still good within _ACCEPTED.
_GOAL_ABSOLUTE = 2e-15
_GOAL_RELATIVE = 1e-12
_ACCEPTED = 1e-10
# Distance of a row's sum from an integer: rounding of the entries, and of the sum.
_SUM_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 1e-2,
}


def logits_from_marginals(marginals: Tensor) -> Tensor:
    """theta, [..., n], whose k-subset law has these inclusion probabilities; k is a row's sum.

    Of all laws over k-subsets with these marginals it is the one of maximum entropy. Mean-zero
    gauge: the finite logits of a row sum to 0. A marginal of exactly 0 or 1 gives -inf or +inf. The
    computation is in float64 for every dtype: the result reproduces the marginals to 1e-10 before
    it is rounded to their dtype.

    Twice differentiable, implicitly: the vector-Jacobian product solves Sigma x = v. A row whose
    sum is off its integer by rounding is first moved along t (1 - t) onto it, and the derivative is
    of that map; marginals of exactly 0 or 1 get gradient 0. Reads values on the host, so that it is
    not for use inside a compiled graph.

    Time: O(n) per step; a few steps for long rows, some tens of products with Sigma for short ones.

    Args:
        marginals: P(i in S), [..., n], floating, in [0, 1], each row summing to an integer.

    Raises:
        TypeError: ``marginals`` is no floating tensor.
        ValueError: an entry outside [0, 1], or a row (named) that does not sum to an integer.
        RuntimeError: a row (named, with its residual) in which the iteration did not converge.
    """
    checks.floating("marginals", marginals)
    checks.probabilities("marginals", marginals.detach())
    if marginals.numel() == 0:
        return marginals.clone()  # no rows, or rows of no items
    target, counts = _on_integer_plane(marginals)
    batch, n = target.shape[:-1], target.size(-1)
    theta: Tensor = _Inverse.apply(target.reshape(-1, n), counts.reshape(-1), batch)  # type: ignore[no-untyped-call]
    return theta.reshape(target.shape).to(marginals.dtype)


def _on_integer_plane(marginals: Tensor) -> tuple[Tensor, Tensor]:
    """float64 targets whose rows sum to integers to rounding, and those integers, int64 [...]."""
    target = marginals.double()
    detached = target.detach()
    # An entry of 0 or 1 is a constant of the row.
    moving = torch.where((detached > 0) & (detached < 1), target, detached)
    spread = moving * (1 - moving)
    variance = spread.sum(-1)
    total = moving.sum(-1)
    counts = total.detach().round()
    excess = counts - total
    relative = 4 * torch.finfo(marginals.dtype).eps
    allowed = (_SUM_TOLERANCE[marginals.dtype] + relative * counts).clamp(max=0.25)
    # A correction as large as the variance itself would change the row, not round it.
    allowed = torch.minimum(allowed, variance.detach() / 2)
    checks.integer_sums("marginals", total.detach(), allowed)
    shift = excess / torch.where(variance > 0, variance, 1.0)
    return moving + shift.unsqueeze(-1) * spread, counts.to(torch.int64)


class _Inverse(torch.autograd.Function):
    """theta(t), [rows, n], for targets on the plane sum t = k; derivative Sigma^+."""

    @staticmethod
    def forward(target: Tensor, counts: Tensor, batch: torch.Size) -> Tensor:
        theta, error = _solve(target, counts)
        checks.converged("logits_from_marginals", error.reshape(batch), _ACCEPTED)
        return theta

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        theta, counts = ctx.saved_tensors
        return _CovarianceSolve.apply(theta, counts, grad), None, None  # type: ignore[no-untyped-call]


class _CovarianceSolve(torch.autograd.Function):
    """Sigma(theta)^+ v, [rows, n], over the finite logits of a row; 0 at the others."""

    @staticmethod
    def forward(theta: Tensor, counts: Tensor, v: Tensor) -> Tensor:
        interior = theta.isfinite()
        x, residual = _conjugate_gradients(theta, counts, _mean_zero(v, interior), 1e-14)
        checks.converged("the gradient of logits_from_marginals", residual, 1e-6)
        return _mean_zero(x, interior)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        theta, counts, _ = inputs
        ctx.save_for_backward(theta, counts, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        theta, counts, x = ctx.saved_tensors
        w: Tensor = _CovarianceSolve.apply(theta, counts, grad)  # type: ignore[no-untyped-call]
        # d(Sigma x) = 0 at fixed v: the change of x is -Sigma^+ dSigma x.
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            (grad_theta,) = torch.autograd.grad(ops.vjp(leaf, counts, x), leaf, -w)
        return grad_theta, None, w


def _mean_zero(values: Tensor, interior: Tensor) -> Tensor:
    """``values`` less their mean over the interior items, 0 elsewhere."""
    values = torch.where(interior, values, 0.0)
    mean = values.sum(-1, keepdim=True) / interior.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(interior, values - mean, 0.0)


def _solve(target: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """theta [rows, n] and the largest |mu - t| of each row."""
    interior = (target > 0) & (target < 1)
    theta = torch.logit(target)
    state = _State(theta, target, counts, interior)
    state.simple_steps(1.0, enough=0.0)
    state.simple_steps(0.5, enough=0.5)
    state.newton_steps()
    finite = _mean_zero(state.theta, interior)
    return torch.where(interior, finite, theta), state.error


class _State:
    """The iterates of all rows, and how far each one is from its target."""

    def __init__(self, theta: Tensor, target: Tensor, counts: Tensor, interior: Tensor) -> None:
        self.theta = theta.clone()
        self.target, self.counts, self.interior = target, counts, interior
        self.logit_target = torch.where(interior, torch.logit(target), 0.0)
        self.goal = _GOAL_ABSOLUTE + _GOAL_RELATIVE * target * (1 - target)
        self.mismatch = torch.zeros_like(target)  # F
        self.spread = target.new_full((target.size(0),), math.inf)  # max F - min F
        self.error = torch.full_like(self.spread, math.inf)
        self.done = torch.zeros_like(self.spread, dtype=torch.bool)
        rows = torch.arange(target.size(0), device=target.device)
        self.accept(rows, *self.evaluate(rows, theta))

    def evaluate(self, rows: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``theta`` of these rows, its F and its marginals.

        F is 0 where an item is as near its target as it can get: the logit of a marginal near 1
        magnifies the last digit of that marginal, and that noise is not to steer the others.
        """
        mu, _ = ops.marginals(theta, self.counts[rows])
        # A marginal that rounds to 0 or 1 is infinitely far off: keep the step finite.
        tiny, below_one = torch.finfo(mu.dtype).tiny, 1 - torch.finfo(mu.dtype).eps / 2
        gap = self.logit_target[rows] - torch.logit(mu.clamp(tiny, below_one))
        open_items = (mu - self.target[rows]).abs() > self.goal[rows]
        return theta, torch.where(open_items & self.interior[rows], gap, 0.0), mu

    def spread_of(self, rows: Tensor, mismatch: Tensor) -> Tensor:
        interior = self.interior[rows]
        high = torch.where(interior, mismatch, -math.inf).amax(-1)
        low = torch.where(interior, mismatch, math.inf).amin(-1)
        return high - low

    def accept(self, rows: Tensor, theta: Tensor, mismatch: Tensor, mu: Tensor) -> None:
        error = torch.where(self.interior[rows], (mu - self.target[rows]).abs(), 0.0)
        self.theta[rows], self.mismatch[rows] = theta, mismatch
        self.spread[rows] = self.spread_of(rows, mismatch)
        self.error[rows] = error.amax(-1)
        self.done[rows] = (error <= self.goal[rows]).all(-1)

    def keep(self, rows: Tensor, trial: tuple[Tensor, Tensor, Tensor], bound: Tensor) -> Tensor:
        """Accept the trial rows whose spread is below ``bound``; returns which ones."""
        better = self.spread_of(rows, trial[1]) < bound
        self.accept(rows[better], *(part[better] for part in trial))
        return better

    def simple_steps(self, fraction: float, enough: float) -> None:
        """Steps theta += fraction F, row by row, while they halve a spread that is above enough."""
        rows = (~self.done & (self.spread > enough)).nonzero().squeeze(-1)
        for _ in range(_MAX_SIMPLE_STEPS):
            if rows.numel() == 0:
                return
            trial = self.evaluate(rows, self.theta[rows] + fraction * self.mismatch[rows])
            rows = rows[self.keep(rows, trial, self.spread[rows] / 2)]
            rows = rows[~self.done[rows] & (self.spread[rows] > enough)]

    def newton_steps(self) -> None:
        rows = (~self.done).nonzero().squeeze(-1)
        for _ in range(_MAX_NEWTON_STEPS):
            if rows.numel() == 0:
                return
            before = self.spread[rows]
            moved = self.line_search(rows, self.newton_direction(rows))
            # A good row that hardly gets better has met the rounding of its marginals.
            stalled = (self.error[rows] <= _ACCEPTED) & (self.spread[rows] > 0.9 * before)
            rows = rows[moved & ~stalled & ~self.done[rows]]

    def newton_direction(self, rows: Tensor) -> Tensor:
        theta, counts, mismatch = self.theta[rows], self.counts[rows], self.mismatch[rows]
        mu, _ = ops.marginals(theta, counts)
        weight = torch.where(self.interior[rows], mu * (1 - mu), 0.0)
        total = weight.sum(-1, keepdim=True)
        constant = (weight * mismatch).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)
        step, _ = _conjugate_gradients(theta, counts, weight * (mismatch - constant), 1e-8)
        return step

    def line_search(self, rows: Tensor, step: Tensor) -> Tensor:
        """Halve the step of each row until the spread shrinks; returns which rows moved."""
        moved = torch.zeros_like(rows, dtype=torch.bool)
        pending = torch.arange(rows.numel(), device=rows.device)
        fraction = 1.0
        for _ in range(_MAX_HALVINGS):
            here = rows[pending]
            trial = self.evaluate(here, self.theta[here] + fraction * step[pending])
            better = self.keep(here, trial, (1 - 0.1 * fraction) * self.spread[here])
            moved[pending[better]] = True
            pending = pending[~better]
            if pending.numel() == 0:
                break
            fraction /= 2
        return moved


def _conjugate_gradients(
    theta: Tensor, counts: Tensor, rhs: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Solve Sigma x = rhs row by row, rhs summing to 0: x (up to a constant), relative residual.

    Preconditioned with diag(Sigma); the residual is measured in the norm of its inverse. A row
    stops when it is below ``tolerance`` or no longer shrinks.
    """
    mu, _ = ops.marginals(theta, counts)
    diagonal = torch.where(theta.isfinite(), mu * (1 - mu), 0.0)
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0)
    x = torch.zeros_like(rhs)
    residual = torch.where(diagonal > 0, rhs, 0.0)
    direction = inverse * residual
    rho = (residual * direction).sum(-1, keepdim=True)
    start = torch.where(rho > 0, rho, 1.0)
    best, best_x, stale = rho.clone(), x.clone(), torch.zeros_like(rho)
    for _ in range(_MAX_CG_STEPS):
        active = (rho > tolerance**2 * start) & (stale < 8)
        if not bool(active.any()):
            break
        product = ops.vjp(theta, counts, direction)
        curvature = (direction * product).sum(-1, keepdim=True)
        active &= curvature > 0
        length = torch.where(active, rho / torch.where(active, curvature, 1.0), 0.0)
        x = x + length * direction
        residual = residual - length * product
        preconditioned = inverse * residual
        updated = (residual * preconditioned).sum(-1, keepdim=True)
        shrank = updated < best
        best_x = torch.where(shrank, x, best_x)
        best = torch.where(shrank, updated, best)
        stale = torch.where(shrank, 0.0, stale + 1)
        direction = preconditioned + updated / torch.where(rho > 0, rho, 1.0) * direction
        rho = updated
    return best_x, (best / start).sqrt().squeeze(-1)
