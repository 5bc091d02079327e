# SPDX-License-Identifier: Apache-2.0
"""The k-subset law of rows whose items are sharded, function by function.

As ``dg.subset`` and ``dg.simple``, for rows that no rank has whole. ``logits`` is either a plain
tensor ``[..., n_r]`` of the items of this rank, with the process group that shares the row in
``group`` (None: all processes), or a DTensor ``[..., n]`` with ``Shard(-1)`` on one mesh dimension.
Every rank of the group makes the same call with the same batch shape, dtype and ``k``, the size of
the subsets of the whole row; it may have any number of items, none too.

Results ``[..., n_r]`` are of this rank's items; results ``[...]`` are the same on all ranks, and so
must be the gradients that come back to them. DTensors in give DTensors out. Rows without a k-subset
(a NaN, too few items, too many forced) are NaN, on all ranks. First derivatives only.
docs/distributed.md has what is sent, and why it is exact.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from discrete_grad import checks
from discrete_grad.distributed import agreement, autograd
from discrete_grad.distributed.layout import open_call
from discrete_grad.rng import seed_for

__all__ = ["entropy", "log_partition", "log_prob", "marginals", "mode", "sample", "simple"]

Group: TypeAlias = dist.ProcessGroup | str | None


def marginals(logits: Tensor, k: int | Tensor, *, group: Group = None) -> Tensor:
    """Inclusion probabilities mu_i of this rank's items, ``[..., n_r]``; over all ranks they sum
    to k.

    Args:
        logits: theta; see the module.
        k: size of the subsets: an int, or an integer tensor that broadcasts to ``[...]``.
        group: the process group that shares the rows.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    layout, local, k = open_call(logits, k, group)
    agreement.check(layout.ranks, "marginals", local, k)
    return layout.of_items(autograd.marginals(local, k, layout.ranks)[0])


def log_partition(logits: Tensor, k: int | Tensor, *, group: Group = None) -> Tensor:
    """log Z_k, ``[...]``, the same on all ranks; its gradient is the marginals.

    Args, Raises: as ``marginals``.
    """
    layout, local, k = open_call(logits, k, group)
    agreement.check(layout.ranks, "log_partition", local, k)
    return layout.of_rows(autograd.marginals(local, k, layout.ranks)[1])


def entropy(logits: Tensor, k: int | Tensor, *, group: Group = None) -> Tensor:
    """H = log Z_k - <theta, mu> in nats, ``[...]``, the same on all ranks.

    Args, Raises: as ``marginals``.
    """
    layout, local, k = open_call(logits, k, group)
    agreement.check(layout.ranks, "entropy", local, k)
    return layout.of_rows(autograd.entropy(local, k, layout.ranks))


def log_prob(logits: Tensor, k: int | Tensor, subset: Tensor, *, group: Group = None) -> Tensor:
    """log p(S), the same on all ranks; -inf where ``subset`` is no k-hot vector of the law.

    Args:
        logits, k, group: as in ``marginals``.
        subset: k-hot, this rank's items ``[..., n_r]`` of any real dtype or bool, whose batch shape
            broadcasts with that of ``logits``; or a DTensor ``[*leading, *logits.shape]``. It has
            no gradient.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    layout, local, k = open_call(logits, k, group)
    chosen, leading = layout.subset(subset)
    checks.subset(chosen, local)
    agreement.check(layout.ranks, "log_prob", local, k)
    value = autograd.log_prob(local, k, chosen, layout.ranks)
    return layout.of_rows(value, leading)


def mode(logits: Tensor, k: int | Tensor, *, group: Group = None) -> Tensor:
    """The most probable subset: the k largest logits of all ranks, k-hot ``[..., n_r]``.

    No gradient. Among equal logits the lowest rank wins, then the lowest index.

    Args, Raises: as ``marginals``.
    """
    layout, local, k = open_call(logits, k, group)
    agreement.check(layout.ranks, "mode", local, k)
    return layout.of_items(autograd.mode(local.detach(), k, layout.ranks))


def sample(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    group: Group = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Exact draws S ~ p, the k-hot vectors of this rank's items, ``[num_samples, ..., n_r]``.

    Over all ranks every draw has exactly k ones. No gradient. The ranks may have seeded their
    generators alike or not: the first rank's decides, and all advance by one draw.

    Args:
        logits, k, group: as in ``marginals``.
        num_samples: draws per row, the same on all ranks; None makes one and drops the leading
            dimension.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.
    """
    draws = checks.num_samples(num_samples)
    layout, local, k = open_call(logits, k, group)
    agreement.check(layout.ranks, "sample", local, k, num_samples=num_samples)
    seed = layout.seed(seed_for(local, generator))
    hot = autograd.sample(local.detach(), k, draws, seed, layout.ranks)
    return layout.of_items(hot[0]) if num_samples is None else layout.of_items(hot, draws=True)


def simple(
    logits: Tensor,
    k: int | Tensor,
    num_samples: int | None = None,
    *,
    group: Group = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """SIMPLE: the draws of ``sample``, through which the gradient of the exact marginals flows.

    Args, Raises: as ``sample``.

    Source:
        Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: A Gradient Estimator for k-Subset Sampling",
        ICLR 2023, arXiv:2210.01941.
    """
    draws = checks.num_samples(num_samples)
    layout, local, k = open_call(logits, k, group)
    agreement.check(layout.ranks, "simple", local, k, num_samples=num_samples)
    seed = layout.seed(seed_for(local, generator))
    hot = autograd.simple(local, k, draws, seed, layout.ranks)
    return layout.of_items(hot[0]) if num_samples is None else layout.of_items(hot, draws=True)
