# SPDX-License-Identifier: Apache-2.0
"""The tilted contour: log Z, marginals and their derivative in O(n) for any k.

With q_i = sigmoid(theta_i + s), p_i = 1 - q_i, S the sum of independent Bernoulli(q_i) and
V = sum_i q_i p_i its variance,

    log Z = sum_i softplus(theta_i + s) - k s + log P(S = k),
    P(S = k) = (1/M) sum_{m=0}^{M-1} phi(t_m) exp(-i k t_m),      t_m = 2 pi m / M,
    phi(t) = prod_i u_i(t),        u_i(t) = 1 + q_i (e^{it} - 1),

exactly for every s once M > n, and to working precision for an M of order sqrt(V) when s puts the
mean of S near k. docs/mathematics.md derives all of it and bounds the errors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .items import Items, best_score, centre, keep_in_unit_interval, tilt_items
from .rows import Rows, classify, mark_invalid
from .sums import wide_sum
from .tilt import solve_tilt

__all__ = [
    "Contour",
    "NodeRule",
    "Phi",
    "characteristic",
    "integrate",
    "marginals_by_contour",
    "node_rule",
    "probability",
    "vjp",
    "weights",
]


class NodeRule(NamedTuple):
    """M = the next odd number after ``slope sqrt(V) + offset``, at most the first odd above n.

    Nodes with 2 V sin^2(t/2) > ``cut`` are left out; at most ``most`` nodes with m >= 1 remain.
    """

    slope: float
    offset: float
    cut: float
    most: int


_RULES = {
    torch.float32: NodeRule(slope=6.0, offset=4.0, cut=18.0, most=11),
    torch.float64: NodeRule(slope=8.0, offset=9.0, cut=37.0, most=22),
}


def node_rule(dtype: torch.dtype) -> NodeRule:
    """The rule whose aliasing and truncation errors are below the rounding of ``dtype``."""
    return _RULES[dtype]


class Phi(NamedTuple):
    """The characteristic function of S at the nodes t_m, m = 1 .. J, of each row.

    ``weight`` and ``angle`` are functions of theta, the others constants.
    """

    m: Tensor  # [..., J] int64
    nodes: Tensor  # [...] int64, M
    turns: Tensor  # [...] int64, whole turns e^{it} taken out of the angle
    cot: Tensor  # [..., J] tau = cot(t/2)
    weight: Tensor  # [..., J] 2 |phi|, 0 where the node is not kept; float64
    angle: Tensor  # [..., J] arg phi - turns t; float64


class Contour(NamedTuple):
    """The normalised weights W^_m = W_m / Re sum W at the nodes m >= 1 of each row.

    The weight of m = 0 is never needed: d_i0 = 0.
    """

    cot: Tensor  # [..., J] tau
    real: Tensor  # [..., J]
    imag: Tensor  # [..., J]
    log_probability: Tensor  # [...] log P(S = k); float64


def characteristic(items: Items, live: Tensor, rule: NodeRule, spread: Tensor | None = None) -> Phi:
    """Evaluate phi at the nodes of the rule.

    Args:
        items: ``[..., n]``.
        live: ``[...]`` int64, how many of them are live: the largest value S can take.
        rule: the node rule.
        spread: ``[...]``, the variance that sets the number M of nodes, V if not given; the
            truncation always goes by V.

    Returns:
        phi at J = min(``rule.most``, ceil(n / 2)) nodes a row.
    """
    n = items.w.shape[-1]
    variance = wide_sum(items.variance.detach())
    width = variance if spread is None else spread
    odd = 2 * torch.ceil((rule.slope * width.sqrt() + rule.offset - 1) / 2) + 1
    nodes = torch.minimum(odd.to(torch.int64), live + 1 + live % 2)

    m = torch.arange(1, min(rule.most, (n + 1) // 2) + 1, device=items.w.device)
    inside = 2 * m < nodes.unsqueeze(-1)
    step = math.pi / nodes.to(torch.float64).unsqueeze(-1)
    half = torch.where(inside, m * step, math.pi / 4)  # t / 2
    half_sin2 = half.sin().square()
    kept = inside & (2 * variance.unsqueeze(-1) * half_sin2 <= rule.cut)

    # Only w = min(q, p) enters: where q > 1/2, u = e^{it} (1 + p (e^{-it} - 1)).
    dtype = items.w.dtype
    w = items.w.unsqueeze(-2)  # [..., 1, n]
    sine = (2 * half).sin().to(dtype).unsqueeze(-1)  # [..., J, 1]
    sin2 = half_sin2.to(dtype).unsqueeze(-1)
    modulus = (0.5 * wide_sum(torch.log1p(-4 * w * (1 - w) * sin2))).exp()
    angle = wide_sum(items.sign.unsqueeze(-2) * torch.atan(w * sine / (1 - 2 * w * sin2)))
    return Phi(
        m=m.expand(half.shape),
        nodes=nodes,
        turns=(items.sign < 0).sum(-1),
        cot=(half.cos() / half.sin()).to(dtype),
        weight=torch.where(kept, 2 * modulus, torch.zeros_like(modulus)),
        angle=angle,
    )


def weights(phi: Phi, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real and imaginary part of W_m = 2 phi(t_m) e^{-i k t_m}, and Re sum W with W_0 = 1.

    The whole turns and -k t are reduced modulo 2 pi in integers.
    """
    nodes = phi.nodes.unsqueeze(-1)
    turns = (phi.turns - k).unsqueeze(-1) * phi.m % nodes
    phase = phi.angle + turns * (2 * math.pi / nodes.to(torch.float64))
    real, imag = phi.weight * phase.cos(), phi.weight * phase.sin()
    return real, imag, 1 + real.sum(-1)


def probability(phi: Phi, k: Tensor) -> Tensor:
    """P(S = k) in float64, with the absolute accuracy of the rule."""
    return weights(phi, k)[2] / phi.nodes


def integrate(rows: Rows, items: Items) -> Contour:
    """The contour of each row at its own k, by the node rule of its dtype."""
    dtype = items.w.dtype
    phi = characteristic(items, rows.live_count, node_rule(dtype))
    real, imag, total = weights(phi, rows.k)
    return Contour(
        cot=phi.cot,
        real=(real / total.unsqueeze(-1)).to(dtype),
        imag=(imag / total.unsqueeze(-1)).to(dtype),
        log_probability=total.log() - phi.nodes.to(total.dtype).log(),
    )


def _deviation(items: Items, contour: Contour) -> tuple[Tensor, Tensor]:
    """d_im = q p (e^{it} - 1) / u = 2 q p / (delta - i tau), as real and imaginary [..., J, n].

    No cancellation anywhere, and delta^2 + tau^2 = |u|^2 / sin^2(t/2) > 0.
    """
    skew, cot = items.skew.unsqueeze(-2), contour.cot.unsqueeze(-1)
    scale = 2 * items.variance.unsqueeze(-2) / (skew * skew + cot * cot)
    return scale * skew, scale * cot


def _shift(contour: Contour, real: Tensor, imag: Tensor) -> Tensor:
    """r_i = Re sum_m W^_m d_im, how far the mean of X_i moves when S = k becomes known."""
    weighted = contour.real.unsqueeze(-1) * real - contour.imag.unsqueeze(-1) * imag
    return weighted.sum(-2)


def marginals_by_contour(rows: Rows) -> tuple[Tensor, Tensor]:
    """Marginals of the live items (0 elsewhere) and log Z, from the kept nodes."""
    items = tilt_items(rows, solve_tilt(rows))
    contour = integrate(rows, items)
    shifted = items.q + _shift(contour, *_deviation(items, contour))
    marginals = centre(keep_in_unit_interval(shifted), items.variance, rows)
    return marginals, best_score(rows, items) + contour.log_probability


def vjp(logits: Tensor, k: int | Tensor, grad: Tensor) -> Tensor:
    """Covariance of the k-hot vector times ``grad``: the gradient that SIMPLE uses.

        g^ = g - (sum_l q_l p_l g_l) / V,      D_m = sum_l g^_l d_lm,      R = sum_l r_l g^_l,
        (Cov g)_i = Re sum_m W^_m d_im (D_m - g^_i d_im) - r_i (R - r_i g^_i)
                    + mu_i (1 - mu_i) g^_i.

    The covariance is symmetric, so this is the Jacobian-vector product as well.

    Args:
        logits: ``[..., n]``.
        k: int, or integer tensor that broadcasts to ``[...]``.
        grad: ``[..., n]``.

    Returns:
        ``[..., n]``, 0 at settled items, NaN in invalid rows. O(n) time and memory.
    """
    rows = classify(logits, k)
    items = tilt_items(rows, solve_tilt(rows))
    contour = integrate(rows, items)
    d_real, d_imag = _deviation(items, contour)
    r = _shift(contour, d_real, d_imag)
    mu = items.q + r

    variance = items.variance
    total = wide_sum(variance).unsqueeze(-1)
    random = total > 0
    grad = torch.where(rows.live, grad.to(r.dtype), torch.zeros_like(r))
    mean = wide_sum(variance * grad).unsqueeze(-1) / torch.where(random, total, 1)
    g = grad - mean.to(r.dtype)

    sum_real = (g.unsqueeze(-2) * d_real).sum(-1, keepdim=True)  # D_m
    sum_imag = (g.unsqueeze(-2) * d_imag).sum(-1, keepdim=True)
    other_real = sum_real - g.unsqueeze(-2) * d_real
    other_imag = sum_imag - g.unsqueeze(-2) * d_imag
    pair_real = d_real * other_real - d_imag * other_imag
    pair_imag = d_real * other_imag + d_imag * other_real
    pairs = _shift(contour, pair_real, pair_imag)
    moved = (r * g).sum(-1, keepdim=True)  # R
    product = pairs - r * (moved - r * g) + mu * (1 - mu) * g
    settled = torch.zeros_like(product)
    product = torch.where(rows.live & random, product, settled)
    return mark_invalid(product, rows, logits, per_item=True)
