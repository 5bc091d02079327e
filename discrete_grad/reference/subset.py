# SPDX-License-Identifier: Apache-2.0
"""Functions of the k-subset distribution p(S) = exp(sum_{i in S} theta_i) / Z, |S| = k."""

from __future__ import annotations

import torch
from torch import Tensor

from .contour import marginals_by_contour
from .items import Items, tilt_items
from .recursion import build_tree, descend, leaves, log_leaves, marginals_by_recursion
from .rows import broadcast_k, classify, mark_invalid, place
from .semirings import EXPECTATION, LOG, MAX, REAL
from .tilt import solve_tilt

__all__ = ["count_log_prob", "entropy", "marginals", "mode"]


def marginals(logits: Tensor, k: int | Tensor, method: str = "contour") -> tuple[Tensor, Tensor]:
    """Inclusion probabilities P(i in S), which sum to k, and the log-partition log Z_k.

    Both are ordinary differentiable functions of ``logits``, to any order; the gradient of log Z
    is the marginals, and the Jacobian of the marginals the covariance of the k-hot vector.

    Args:
        logits: ``[..., n]`` floating; -inf excludes an item, +inf forces it in.
        k: int, or integer tensor that broadcasts to ``[...]``.
        method: "contour" (O(n), absolute accuracy); "linear" (O(nk), the recursion in linear
            space on tilted logits); "recursion" (O(nk), in log space: relative accuracy for the
            smallest marginals).

    Returns:
        ``[..., n]`` and ``[...]``, in the dtype of ``logits``; NaN in invalid rows.

    Raises:
        ValueError: for an unknown ``method``.
    """
    rows = classify(logits, k)
    if method == "contour":
        live, log_partition = marginals_by_contour(rows)
    elif method in ("linear", "recursion"):
        most = logits.shape[-1] if isinstance(k, Tensor) else k
        semiring = REAL if method == "linear" else LOG
        live, log_partition = marginals_by_recursion(rows, most, semiring)
    else:
        raise ValueError(f"method is {method!r}; it must be 'contour', 'linear' or 'recursion'")
    return (
        mark_invalid(place(rows, live), rows, logits, per_item=True),
        mark_invalid(log_partition, rows, logits, per_item=False),
    )


def count_log_prob(logits: Tensor, max_count: int) -> Tensor:
    """log P(X_1 + ... + X_n = j) for j = 0 .. max_count: the Poisson-binomial law.

    X_i are independent Bernoulli(sigmoid(logits_i)). By the recursion in the log semiring, so each
    entry has relative accuracy in the probability, however small.

    Args:
        logits: ``[..., n]`` floating; -inf is never 1, +inf always.
        max_count: the last count, at least 0; counts above n have probability 0.

    Returns:
        ``[..., max_count + 1]``, in the dtype of ``logits``; NaN in rows that hold a NaN.
        O(n max_count) time and memory.
    """
    wide = logits.to(torch.float64)  # errors of float32 would add up over the levels of the tree
    n = wide.shape[-1]
    finite = wide.isfinite()
    x = torch.where(finite, wide, torch.zeros_like(wide))
    sign = torch.where(x > 0, -1.0, 1.0).to(x.dtype)
    items = Items(x, sign, (sign * x).sigmoid())
    settled = leaves(
        torch.where(wide > 0, -torch.inf, 0.0).to(x.dtype),
        torch.where(wide > 0, 0.0, -torch.inf).to(x.dtype),
    )
    leaf = torch.where(finite.unsqueeze(-1), log_leaves(items), settled)
    counts = build_tree(LOG, leaf, max(1, min(max_count, n)))[-1].squeeze(-2)
    counts = counts[..., : max_count + 1]
    impossible = max_count + 1 - counts.shape[-1]
    counts = torch.nn.functional.pad(counts, (0, impossible), value=-torch.inf)
    nan = logits.isnan().any(-1, keepdim=True)
    poison = torch.where(nan, wide, torch.zeros_like(wide)).sum(-1, keepdim=True)
    return torch.where(nan, poison * torch.nan, counts).to(logits.dtype)


def mode(logits: Tensor, k: int | Tensor) -> Tensor:
    """The most probable subset, the k largest logits, as a k-hot vector; in a tie the lowest index.

    By the recursion in the max semiring. The best subset depends on the order of the logits alone,
    so their ranks stand for them: every sum is then an exact integer and no tie is left.

    Returns:
        ``[..., n]`` in the dtype of ``logits``, without a gradient; NaN in invalid rows.
    """
    n = logits.shape[-1]
    rows = classify(logits.detach(), k)
    order = logits.detach().sort(dim=-1, descending=True, stable=True).indices
    score = torch.arange(n, 0, -1, dtype=torch.float64, device=logits.device).expand(order.shape)
    rank = torch.zeros_like(score).scatter(-1, order, score)
    total = torch.where(rows.valid, broadcast_k(logits, k), 0)
    most = n if isinstance(k, Tensor) else max(1, min(k, n))
    levels = build_tree(MAX, leaves(torch.zeros_like(rank), rank), most)
    chosen = descend(MAX, levels, total, lambda weight, _: weight.argmax(-1))
    hot = chosen[..., :n].to(rows.theta.dtype)
    return mark_invalid(hot, rows, logits.detach(), per_item=True)


def entropy(logits: Tensor, k: int | Tensor) -> Tensor:
    """H = -sum_S p(S) log p(S), by the recursion in the expectation semiring.

    With w(S) the product of the tilted Bernoulli probabilities, p(S) = w(S) / P(S = k) and
    H = log P(S = k) - E[log w(S)]. An independent check of log Z - <theta, mu>.

    Returns:
        ``[...]`` in the dtype of ``logits``; NaN in invalid rows. Differentiable to any order.
    """
    n = logits.shape[-1]
    rows = classify(logits, k)
    items = tilt_items(rows, solve_tilt(rows))
    logs = log_leaves(items)
    probabilities = leaves(items.p, items.q)
    leaf = torch.stack([probabilities, probabilities * logs]).to(torch.float64)
    most = n if isinstance(k, Tensor) else k
    root = build_tree(EXPECTATION, leaf, max(1, min(most, n)))[-1].squeeze(-2)
    at_k = rows.k.unsqueeze(-1)
    probability = root[0].gather(-1, at_k).squeeze(-1)
    expectation = root[1].gather(-1, at_k).squeeze(-1)
    return mark_invalid(probability.log() - expectation / probability, rows, logits, per_item=False)
