# SPDX-License-Identifier: Apache-2.0
"""The functions of sharded rows with their derivatives: first ones only, whose cost is O(n_r).

Gradients of results that every rank has alike ([...]) must be alike on all ranks too, as those of a
replicated DTensor: a loss that all ranks compute from log Z counts once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from discrete_grad import ops
from discrete_grad.distributed.contour import Law, RowState, shares, solve, vjp
from discrete_grad.distributed.counts import rank_counts
from discrete_grad.distributed.ranks import Ranks
from discrete_grad.distributed.rows import Kinds, best_items, classify, split
from discrete_grad.ops import sharding
from discrete_grad.reference.items import tilt_items
from discrete_grad.reference.rows import broadcast_k, place
from discrete_grad.reference.sums import wide_sum

__all__ = ["entropy", "log_prob", "marginals", "mode", "sample", "simple"]


def _keep(ctx: Any, logits: Tensor, state: RowState, *more: Tensor) -> None:
    ctx.save_for_backward(logits, *state.kinds, *state[1:], *more)


def _kept(ctx: Any) -> tuple[Tensor, RowState, list[Tensor]]:
    logits, *rest = ctx.saved_tensors
    kinds, end = len(Kinds._fields), len(Kinds._fields) + len(RowState._fields) - 1
    return logits, RowState(Kinds(*rest[:kinds]), *rest[kinds:end]), rest[end:]


def _of_rows(values: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` in ``dtype``, NaN in rows that have no law."""
    return torch.where(valid, values, torch.nan).to(dtype)


def _placed_marginals(logits: Tensor, state: RowState) -> Tensor:
    """mu of all items of this rank: those of settled ones are 0 or 1."""
    rows = split(logits, state.kinds)
    q, r = shares(tilt_items(rows, state.tilt.to(rows.theta.dtype)), state)
    return place(rows, (q + r).clamp(0, 1))


class _Marginals(torch.autograd.Function):
    """(mu [..., n_r], log Z [...])."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int | Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        law = solve(logits, k, ranks)
        _keep(ctx, logits, law.state)
        ctx.ranks = ranks
        ctx.set_materialize_grads(False)
        valid = law.rows.valid
        mu = _of_rows(_placed_marginals(logits, law.state), valid.unsqueeze(-1), logits.dtype)
        return mu, _of_rows(law.score + law.rest, valid, logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_mu: Tensor | None, grad_log: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        logits, state, _ = _kept(ctx)
        grad: Tensor | None = None
        if grad_mu is not None:
            grad = vjp(logits, state, grad_mu, ctx.ranks)
        if grad_log is not None:
            # A forced item (+inf) adds 0 to log Z whatever its logit.
            mu = torch.where(logits.isinf(), 0.0, _placed_marginals(logits, state))
            part = grad_log.unsqueeze(-1).to(mu.dtype) * mu
            grad = part if grad is None else grad + part
        if grad is None:
            return None, None, None
        return _of_rows(grad, state.kinds.valid.unsqueeze(-1), logits.dtype), None, None


def _draw(logits: Tensor, law: Law, num_samples: int, seed: Tensor, ranks: Ranks) -> Tensor:
    """Exact k-hot draws of this rank's items, ``[S, ..., n_r]``."""
    counts, seed = rank_counts(law, num_samples, seed, ranks)
    rows = law.rows
    mine = counts + rows.forced.sum(-1)
    valid = rows.valid.expand(counts.shape)
    # A stream of random numbers of its own for each rank; the counts are drawn from the seed as it
    # is.
    own = sharding.own_seed(seed, ranks.rank + 1)
    usable = torch.where(rows.valid.unsqueeze(-1), logits, torch.zeros_like(logits))
    draws = usable.expand(num_samples, *logits.shape)
    hot = ops.sample(draws, torch.where(valid, mine, 0), 1, own)[0]
    return _of_rows(hot, valid.unsqueeze(-1), logits.dtype)


def sample(logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor, ranks: Ranks) -> Tensor:
    """Exact k-hot draws ``[S, ..., n_r]``, without a gradient."""
    with torch.no_grad():
        law = solve(logits, k, ranks)
        return _draw(logits, law, num_samples, seed, ranks)


def mode(logits: Tensor, k: int | Tensor, ranks: Ranks) -> Tensor:
    """The k largest of all ranks' logits, ``[..., n_r]``; in a tie the lowest rank and index."""
    with torch.no_grad():
        kinds = classify(logits, k, ranks)
        rows = split(logits, kinds)
        best = best_items(rows, ranks)
        equal = rows.live & ~best.above & ~best.below
        before = ranks.everyones(equal.sum(-1))[: ranks.rank].sum(0)
        first = equal & (equal.cumsum(-1) <= (best.inside - before).unsqueeze(-1))
        hot = place(rows, (best.above | first).to(rows.theta.dtype))
        return _of_rows(hot, rows.valid.unsqueeze(-1), logits.dtype)


class _Simple(torch.autograd.Function):
    """The draws of ``sample`` with the vector-Jacobian product of the marginals."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor, ranks: Ranks
    ) -> Tensor:
        law = solve(logits, k, ranks)
        _keep(ctx, logits, law.state)
        ctx.ranks = ranks
        return _draw(logits, law, num_samples, seed, ranks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, state, _ = _kept(ctx)
        product = vjp(logits, state, grad.to(state.cot.dtype).sum(0), ctx.ranks)
        product = _of_rows(product, state.kinds.valid.unsqueeze(-1), logits.dtype)
        return product, None, None, None, None


class _Entropy(torch.autograd.Function):
    """H = log Z - <theta, mu>, in nats, [...]; its gradient is -Cov(z) theta."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int | Tensor, ranks: Ranks) -> Tensor:
        law = solve(logits, k, ranks)
        best, rows = law.best, law.rows
        q, r = shares(law.items, law.state)
        # sum_i (T_i - mu_i)(theta_i - pivot): no term is negative, none of the pivot's own counts.
        distance = (rows.theta - best.pivot.unsqueeze(-1)).abs()
        missed = torch.where(best.above, law.items.p - r, q + r)
        terms = torch.where(best.above | best.below, missed * distance, torch.zeros_like(q))
        value = law.rest + ranks.total(wide_sum(terms))
        _keep(ctx, logits, law.state, best.pivot)
        ctx.ranks = ranks
        return _of_rows(value, rows.valid, logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, state, (pivot,) = _kept(ctx)
        theta = split(logits, state.kinds).theta - pivot.unsqueeze(-1)
        product = vjp(logits, state, theta, ctx.ranks) * -grad.to(theta.dtype).unsqueeze(-1)
        return _of_rows(product, state.kinds.valid.unsqueeze(-1), logits.dtype), None, None


class _LogProb(torch.autograd.Function):
    """log p(subset), [...]; its gradient is subset - mu."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int | Tensor, subset: Tensor, ranks: Ranks) -> Tensor:
        law = solve(logits, k, ranks)
        best, rows = law.best, law.rows
        z = subset.to(rows.theta.dtype)
        # sum_i (z_i - T_i)(theta_i - pivot): no term is positive.
        moved = torch.where(best.above, z - 1, torch.where(best.below, z, torch.zeros_like(z)))
        score = wide_sum(moved * (rows.theta - best.pivot.unsqueeze(-1)))
        bad = ((z != 0) & (z != 1)) | ((z == 0) & (logits == torch.inf))
        bad = bad | ((z == 1) & (logits == -torch.inf))
        sums = torch.stack([score, wide_sum(z.nan_to_num()), bad.sum(-1).double()], -1)
        score, size, bad_items = ranks.total(sums).unbind(-1)
        outside = (bad_items > 0) | (size != broadcast_k(logits, k))
        value = torch.where(outside, -torch.inf, score - law.rest)
        _keep(ctx, logits, law.state, subset, outside)
        return _of_rows(value, rows.valid, logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, state, (subset, outside) = _kept(ctx)
        mu = _placed_marginals(logits, state)
        grad = torch.where(outside, 0.0, grad.to(mu.dtype)).unsqueeze(-1)
        product = (grad * (subset.to(mu.dtype) - mu)).sum_to_size(logits.shape)
        product = torch.where(logits.isinf(), 0.0, product)
        product = _of_rows(product, state.kinds.valid.unsqueeze(-1), logits.dtype)
        return product, None, None, None


def marginals(logits: Tensor, k: int | Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """mu of this rank's items ``[..., n_r]`` and log Z ``[...]``."""
    mu, log_partition = _Marginals.apply(logits, k, ranks)  # type: ignore[no-untyped-call]
    return mu, log_partition


def entropy(logits: Tensor, k: int | Tensor, ranks: Ranks) -> Tensor:
    """H, ``[...]``."""
    value: Tensor = _Entropy.apply(logits, k, ranks)  # type: ignore[no-untyped-call]
    return value


def log_prob(logits: Tensor, k: int | Tensor, subset: Tensor, ranks: Ranks) -> Tensor:
    """log p of ``subset``, this rank's items of it, ``[...]``."""
    value: Tensor = _LogProb.apply(logits, k, subset, ranks)  # type: ignore[no-untyped-call]
    return value


def simple(logits: Tensor, k: int | Tensor, num_samples: int, seed: Tensor, ranks: Ranks) -> Tensor:
    """The draws of ``sample``, through which the gradient of the marginals flows."""
    hot: Tensor = _Simple.apply(logits, k, num_samples, seed, ranks)  # type: ignore[no-untyped-call]
    return hot
