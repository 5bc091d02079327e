# SPDX-License-Identifier: Apache-2.0
"""The k-subset law as a ``torch.distributions.Distribution``."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import lazy_property

from discrete_grad import checks, subset
from discrete_grad.estimators.simple import simple

_Shape = torch.Size | list[int] | tuple[int, ...]


class _KHot(constraints.Constraint):
    """k-hot vectors: entries 0 or 1, k of them 1."""

    is_discrete = True
    event_dim = 1

    def __init__(self, k: int | Tensor) -> None:
        self.k = k
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        binary = ((value == 0) | (value == 1)).all(-1)
        checked: Tensor = binary & (value.sum(-1) == self.k)
        return checked

    def __repr__(self) -> str:
        return f"KHot(k={self.k})"


class KSubset(Distribution):
    """p(S) = exp(sum_{i in S} theta_i) / Z_k(theta) over the k-subsets S of n items, k-hot.

    The law of n independent Bernoulli variables given that k of them are 1. Parametrised, as
    ``torch.distributions.Bernoulli`` is, by their ``logits`` theta or their ``probs``, which are
    sigmoid(theta): *not* by the inclusion probabilities, which are ``mean`` and which
    ``from_marginals`` starts from. An event is [n].

    Args:
        k: size of the subsets, an int or an integer tensor (one per row). Broadcasts with the batch
            shape of the other parameter.
        logits: theta, [..., n]. -inf excludes an item, +inf forces it in.
        probs: sigmoid(theta), [..., n], in place of ``logits``. 0 excludes an item, 1 forces it in.
        validate_args: check values too, reading them on the host: NaN, rows without a k-subset,
            samples outside the support. None takes the default of ``torch.distributions``. Inside
            ``torch.compile(fullgraph=True)`` pass False, as for every distribution.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    ``rsample`` is SIMPLE (``dg.simple``): exact k-hot draws, with the gradient of the exact
    marginals.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "k": constraints.dependent,  # 0 <= k <= n, and the row must have a k-subset: see checks
        "logits": constraints.real_vector,  # infinities included
        "probs": constraints.independent(constraints.unit_interval, 1),
    }
    has_rsample = True
    has_enumerate_support = True

    def __init__(
        self,
        k: int | Tensor,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError(
                "exactly one of logits and probs must be given, got "
                + ("neither" if logits is None else "both")
            )
        name, param = ("logits", logits) if probs is None else ("probs", probs)
        assert param is not None
        checks.floating(name, param)
        if isinstance(k, Tensor):
            k, param = _broadcast(k, name, param)
        self._k = checks.row_counts(k, param)
        self._set(name, param)
        validate = self._validate_args if validate_args is None else validate_args
        if validate:
            if name == "probs":
                checks.probabilities("probs", param)
            checks.k_subset_values(self._k, self.logits)
        # The checks above cover arg_constraints, and empty batches too, where torch's own fails.
        super().__init__(param.shape[:-1], param.shape[-1:], validate_args=False)
        self._validate_args = validate

    @classmethod
    def from_marginals(cls, marginals: Tensor, validate_args: bool | None = None) -> KSubset:
        """The law of maximum entropy with these inclusion probabilities, [..., n].

        Differentiable in them. k is their sum: an int where all rows agree, else a tensor with one
        per row. Reads values on the host.

        Raises:
            ValueError: a row does not sum to an integer, or has an entry outside [0, 1].
            RuntimeError: the inversion did not converge in a row. See
                ``dg.subset.logits_from_marginals``.
        """
        logits = subset.logits_from_marginals(marginals)
        counts = marginals.detach().double().sum(-1).round().to(torch.int64)
        distinct = counts.unique().tolist()
        k = int(distinct[0]) if len(distinct) == 1 else counts
        return cls(k, logits=logits, validate_args=validate_args)

    def _set(self, name: str, param: Tensor) -> None:
        """Store the given one of ``logits`` and ``probs``; the other is computed on demand."""
        self.__dict__[name] = param
        self._param = param

    def expand(self, batch_shape: _Shape, _instance: Any = None) -> KSubset:
        """The same law with its batch dimensions expanded to ``batch_shape``, not copied."""
        new: KSubset = self._get_checked_instance(KSubset, _instance)  # type: ignore[no-untyped-call]
        batch_shape = torch.Size(batch_shape)
        new._k = self._k.expand(batch_shape) if isinstance(self._k, Tensor) else self._k
        for name in ("logits", "probs"):
            if name in self.__dict__:
                new._set(name, self.__dict__[name].expand((*batch_shape, *self.event_shape)))
        super(KSubset, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        given = "logits" if self._param is self.__dict__.get("logits") else "probs"
        k = tuple(self._k.shape) if isinstance(self._k, Tensor) else self._k
        return f"KSubset(k: {k}, {given}: {tuple(self._param.shape)})"

    @property
    def k(self) -> int | Tensor:
        """Size of the subsets: the int, or the tensor expanded to the batch shape."""
        return self._k

    @lazy_property
    def logits(self) -> Tensor:
        """theta = log(probs / (1 - probs)), [..., n]."""
        probs = self.probs
        certain = (probs == 0) | (probs == 1)
        # Infinite where the item is excluded or forced, and without the infinite derivative there.
        finite = torch.logit(torch.where(certain, 0.5, probs))
        return torch.where(certain, torch.where(probs == 0, -torch.inf, torch.inf), finite)

    @lazy_property
    def probs(self) -> Tensor:
        """sigmoid(theta), [..., n]: of the unconditioned Bernoulli variables, unlike ``mean``."""
        return torch.sigmoid(self.logits)

    @property
    def param_shape(self) -> torch.Size:
        """Shape of the parameter that was given, broadcast with k."""
        return self._param.shape

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """k-hot vectors."""
        return _KHot(self._k)

    @property
    def mean(self) -> Tensor:
        """The marginals P(i in S), [..., n]."""
        return subset.marginals(self.logits, self._k)

    @property
    def variance(self) -> Tensor:
        """mu (1 - mu), [..., n]: the diagonal of ``covariance_matrix``."""
        mean = self.mean
        return mean * (1 - mean)

    @property
    def covariance_matrix(self) -> Tensor:
        """Cov(z_i, z_j), [..., n, n]."""
        return subset.covariance(self.logits, self._k)

    @property
    def mode(self) -> Tensor:
        """The most probable subset, lowest indices first among equals."""
        return subset.mode(self.logits, self._k)

    def sample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Exact k-hot draws, [*sample_shape, ..., n], without a gradient."""
        with torch.no_grad():
            return self._drawn(subset.sample, sample_shape)

    def rsample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Exact k-hot draws, [*sample_shape, ..., n], with the SIMPLE gradient."""
        return self._drawn(simple, sample_shape)

    def _drawn(self, draw: Any, sample_shape: _Shape) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        hot: Tensor = draw(self.logits, self._k, torch.Size(sample_shape).numel())
        return hot.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), [...]; without validation -inf outside the support."""
        if self._validate_args:
            self._validate_sample(value)
        return subset.log_prob(self.logits, self._k, value)

    def entropy(self) -> Tensor:
        """Entropy in nats, [...]."""
        return subset.entropy(self.logits, self._k)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All C(n, k) k-hot vectors in lexicographic order of their items, [C(n, k), *batch, n].

        With ``expand=False`` the batch dimensions are 1.

        Raises:
            NotImplementedError: k differs between rows.
        """
        n = self.event_shape[0]
        k = self._k
        if isinstance(k, Tensor):
            counts = k.unique().tolist()
            if len(counts) != 1:
                raise NotImplementedError(
                    f"enumerate_support needs the same k in every row, got {counts or 'no row'}"
                )
            k = int(counts[0])
        items = list(itertools.combinations(range(n), k))
        index = torch.tensor(items, dtype=torch.int64, device=self._param.device)
        index = index.reshape(len(items), k)
        values = self._param.new_zeros(len(items), n).scatter(-1, index, 1.0)
        values = values.reshape(len(items), *(1 for _ in self.batch_shape), n)
        return values.expand(-1, *self.batch_shape, -1) if expand else values


def _broadcast(k: Tensor, name: str, param: Tensor) -> tuple[Tensor, Tensor]:
    """``k`` and ``param`` [..., n] with their batch shapes broadcast to each other."""
    checks.batch("k", k, name, param)
    batch = torch.broadcast_shapes(k.shape, param.shape[:-1])
    return k.expand(batch), param.expand(*batch, param.size(-1))


@register_kl(KSubset, KSubset)  # type: ignore[untyped-decorator]
def _kl_k_subset(p: KSubset, q: KSubset) -> Tensor:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL divergence of KSubset laws needs the same number of items, "
            f"got {p.event_shape[0]} and {q.event_shape[0]}"
        )
    logits_p, logits_q = torch.broadcast_tensors(p.logits, q.logits)
    if not isinstance(p.k, Tensor) and not isinstance(q.k, Tensor):
        if p.k == q.k:
            return subset.kl_divergence(logits_p, logits_q, p.k)
        return torch.full(
            logits_p.shape[:-1], torch.inf, dtype=logits_p.dtype, device=logits_p.device
        )
    same = torch.as_tensor(p.k == q.k, device=logits_p.device).expand(logits_p.shape[:-1])
    # Other rows have no common subset. A row of zeros in their place keeps NaN out of the gradient.
    apart = ~same.unsqueeze(-1)
    value = subset.kl_divergence(
        logits_p.masked_fill(apart, 0.0), logits_q.masked_fill(apart, 0.0), p.k
    )
    return torch.where(same, value, torch.inf)
