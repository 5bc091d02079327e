# SPDX-License-Identifier: Apache-2.0
"""SIMPLE: an exact subset forward, exact marginals' gradient backward; its second-order form."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks, ops
from discrete_grad.likelihood import working
from discrete_grad.rng import seed_for


def simple(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    order: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """An exact k-subset draw z ~ p(S), k-hot [num_samples, ..., n], through which gradients flow.

    With g = dL/dz of a draw, mu the marginals and Sigma = Cov(z), the gradient with respect to
    theta is

    - order 1, SIMPLE: Sigma g, the exact vector-Jacobian product of the marginals (unbiased for
      losses linear in z, low variance);
    - order 2: (1/2) [Sigma g + (z - mu) <z - mu, g>], unbiased for every quadratic loss, at a
      higher variance; z - mu counts as a constant when this gradient is itself differentiated.

    Draws add up in the gradient: to average over them is the loss's part. Time O(n) per draw; kept
    for the backward pass are ``logits`` and O(1) per row (order 2: the draws too).

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in. See
            ``discrete_grad.subset``.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        order: 1 or 2.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Sources:
        Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: A Gradient Estimator for k-Subset Sampling",
        ICLR 2023, arXiv:2210.01941. Order 2 carries ReinMax (Liu, Dong, Liu, Yu, Gao, "Bridging
        Discrete and Backpropagation: Straight-Through and Beyond", NeurIPS 2023, arXiv:2304.08612)
        from k = 1 to any k.
    """
    k = checks.row_counts(k, logits)
    draws = checks.num_samples(num_samples)
    checks.one_of("order", order, (1, 2))
    seed = seed_for(logits, generator)
    if order == 1:
        hot = ops.simple(logits, k, draws, seed)
    else:
        hot = _second_order(logits, k, ops.sample(logits.detach(), k, draws, seed))
    return hot[0] if num_samples is None else hot


def _second_order(logits: Tensor, k: int | Tensor, hot: Tensor) -> Tensor:
    """``hot`` [S, ..., n] itself, with the second-order vector-Jacobian product in ``logits``.

    Each term added is x - x with the gradient of the first x alone: it is exactly 0.
    """
    theta = working(logits)
    # A forced or excluded item is the same in every draw: no gradient, and inf - inf avoided.
    theta = torch.where(theta.isinf(), theta.detach(), theta)
    marginals, _ = ops.marginals(theta, k)
    deviation = hot.to(theta.dtype) - marginals.detach()
    finite = torch.where(theta.isinf(), 0.0, theta)
    along = (deviation * (finite - finite.detach())).sum(-1, keepdim=True)
    surrogate = (marginals - marginals.detach()) + deviation * along
    return hot + (surrogate / 2).to(hot.dtype)
