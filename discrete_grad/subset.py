# SPDX-License-Identifier: Apache-2.0
"""The k-subset law, function by function.

p(S) = exp(sum_{i in S} theta_i) / Z_k(theta) over the subsets S of {1..n} with |S| = k; Z_k is the
elementary symmetric polynomial e_k(exp theta). It is the law of n independent
Bernoulli(sigmoid(theta_i)) given that their sum is k (conditional Poisson sampling).

Throughout, ``logits`` is theta, [..., n]: the last dimension holds the n items, the leading ones
are batch. ``k`` is an int from 0 to n or an integer tensor that broadcasts to [...]. A logit of
-inf excludes its item; one of +inf forces it in: it counts towards k and adds 0 to log Z. float64,
float32, bfloat16 and float16; 16-bit inputs are computed in float32 and returned in their own
dtype. Arguments that are wrong by type, shape or an int out of range raise TypeError or ValueError.
Values are never read on the host: a row that has no k-subset (a NaN logit, fewer than k items that
are not excluded, more than k forced, an element of a k tensor out of range) gives NaN in that row
alone. docs/mathematics.md derives what is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks, likelihood, ops
from discrete_grad.inverse import logits_from_marginals
from discrete_grad.rng import seed_for

__all__ = [
    "count_log_prob",
    "covariance",
    "entropy",
    "kl_divergence",
    "log_partition",
    "log_prob",
    "logits_from_marginals",
    "marginals",
    "mode",
    "sample",
    "sample_indices",
]


def log_partition(logits: Tensor, k: int | Tensor, *, method: str = "auto") -> Tensor:
    """log Z_k(theta) = log sum_{|S| = k} exp(sum_{i in S} theta_i), [...].

    Its gradient is the marginals; 0 at a forced item (+inf), which adds 0 whatever its logit.

    Args:
        logits: theta, [..., n].
        k: size of the subsets.
        method: "contour" (O(n), any k), "linear" or "recursion" (O(n k): a polynomial product tree
            on tilted probabilities, or in log space), or "auto", the fastest for the shape.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.row_counts(k, logits)
    checks.method(method)
    return ops.marginals(logits, k, method)[1]


def marginals(logits: Tensor, k: int | Tensor, *, method: str = "auto") -> Tensor:
    """Inclusion probabilities mu_i = P(i in S), [..., n]: each in [0, 1], summing to k.

    The vector-Jacobian product is exact (the Jacobian is the covariance of the k-hot vector), and
    twice differentiable. Time O(n) per row by the contour; saved for the backward pass: O(1) per
    row beyond ``logits``.

    Args:
        logits: theta, [..., n].
        k: size of the subsets.
        method: "contour" promises absolute accuracy (1e-13 in float64, 1e-6 in float32) in O(n);
            "recursion" relative accuracy, of tiny marginals too, in O(n k); "linear" is the
            recursion on tilted probabilities, for small n k; "auto" takes the fastest for the
            shape.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.row_counts(k, logits)
    checks.method(method)
    return ops.marginals(logits, k, method)[0]


def sample(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent exact draws S ~ p as k-hot vectors, [num_samples, ..., n], without a gradient.

    They have the dtype of ``logits``. Every draw has exactly k ones. The same generator state gives
    the same subsets on every backend, up to the rounding of the probabilities. Time O(n) per draw.

    Args:
        logits: theta, [..., n].
        k: size of the subsets.
        num_samples: number of draws per row; None makes one and drops the leading dimension.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.row_counts(k, logits)
    draws = checks.num_samples(num_samples)
    hot = ops.sample(logits.detach(), k, draws, seed_for(logits, generator))
    return hot[0] if num_samples is None else hot


def sample_indices(
    logits: Tensor,
    k: int,
    num_samples: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The draws of ``sample`` as ascending indices of their items, int64 [num_samples, ..., k].

    The same generator state gives the same subsets as ``sample``. A row that has no k-subset gives
    -1.

    Args:
        logits: theta, [..., n].
        k: size of the subsets, an int: it is the last dimension of the result.
        num_samples, generator: as in ``sample``.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.single_count(k, logits, "sample_indices")
    draws = checks.num_samples(num_samples)
    indices = ops.sample_indices(logits.detach(), k, draws, seed_for(logits, generator))
    return indices[0] if num_samples is None else indices


def log_prob(logits: Tensor, k: int | Tensor, subset: Tensor) -> Tensor:
    """log p(S) = sum_{i in S} theta_i - log Z_k(theta), [...].

    The batch shapes of ``logits`` and ``subset`` broadcast. -inf where ``subset`` is no k-hot
    vector, picks an excluded item or misses a forced one. Differentiable in ``logits`` (gradient:
    subset - mu) and linear in ``subset``. Costs two evaluations of the marginals per row of
    ``logits``, whatever the number of subsets; nothing is lost where all logits share a large
    offset.

    Args:
        logits: theta, [..., n].
        k: size of the subsets.
        subset: k-hot, [..., n], of any real dtype or bool.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.row_counts(k, logits)
    checks.subset(subset, logits)
    return likelihood.returned(likelihood.log_prob(logits, k, subset), logits)


def entropy(logits: Tensor, k: int | Tensor) -> Tensor:
    """H = -sum_S p(S) log p(S) = log Z_k - <theta, mu> in nats, [...], from 0 to log C(n, k).

    The gradient is -Cov(z) theta. KL to the uniform law over k-subsets is log C(n, k) - H. Costs
    two evaluations of the marginals; nothing is lost where all logits share a large offset or one
    of them is huge.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.row_counts(k, logits)
    return likelihood.returned(likelihood.entropy(logits, k), logits)


def kl_divergence(logits_p: Tensor, logits_q: Tensor, k: int | Tensor) -> Tensor:
    """KL(p || q) = log Z_k(theta_q) - log Z_k(theta_p) + <theta_p - theta_q, mu_p> in nats, [...].

    +inf where p gives a positive probability to a subset that q excludes. Costs four evaluations of
    the marginals.

    Args:
        logits_p, logits_q: theta of p and of q, [..., n], of one dtype; batch shapes broadcast.
        k: size of the subsets of both; a tensor broadcasts to the common batch shape.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    checks.paired("logits_p", logits_p, "logits_q", logits_q)
    logits_p, logits_q = torch.broadcast_tensors(logits_p, logits_q)
    k = checks.row_counts(k, logits_p)
    return likelihood.returned(likelihood.kl_divergence(logits_p, logits_q, k), logits_p)


def covariance(logits: Tensor, k: int | Tensor) -> Tensor:
    """Cov(z_i, z_j) of the k-hot vector z, [..., n, n]: symmetric, rows summing to 0.

    It is the Jacobian of the marginals. O(n^2) time and memory; a product with a vector alone is
    the backward pass of ``marginals``, in O(n).

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.row_counts(k, logits)
    n = logits.size(-1)
    rows = logits.unsqueeze(-2).expand(*logits.shape[:-1], n, n)
    basis = torch.eye(n, dtype=logits.dtype, device=logits.device).expand(rows.shape)
    product = ops.vjp(rows, k.unsqueeze(-1) if isinstance(k, Tensor) else k, basis)
    return (product + product.mT) / 2  # rounding leaves it symmetric only to the last digit


def count_log_prob(logits: Tensor, max_count: int) -> Tensor:
    """log P(sum_i X_i = j), j = 0..max_count, of independent X_i ~ Bernoulli(sigmoid(theta_i)).

    The Poisson-binomial law, [..., max_count + 1]; differentiable. Time O(n max_count) per row.

    Args:
        logits: theta, [..., n]; -inf and +inf are X_i = 0 and X_i = 1.
        max_count: largest count asked for, an int >= 0; counts above n have probability 0.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    checks.floating("logits", logits)
    max_count = checks.count("max_count", max_count)
    return ops.count_log_prob(logits, max_count)


def mode(logits: Tensor, k: int | Tensor) -> Tensor:
    """The most probable subset: k-hot of the k largest logits, [..., n]; no gradient.

    Among equal logits the lowest index wins. O(n) time per row.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    k = checks.row_counts(k, logits)
    unused = torch.zeros(1, dtype=torch.int64, device=logits.device)
    return ops.perturbed_topk(logits, k, 1, None, 0.0, unused)[0]
