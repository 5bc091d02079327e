# SPDX-License-Identifier: Apache-2.0
"""KSubset as a torch.distributions.Distribution, against the list of all subsets."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import Distribution, constraints, kl_divergence
from torch.testing import assert_close

import discrete_grad as dg
from tests.api import enumeration as exact

INF = float("inf")
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def logits():
    return torch.randn(2, 3, 6, dtype=torch.float64)


def test_moments_and_entropy(backend, logits):
    d = dg.KSubset(2, logits=logits)
    assert_close(d.mean, exact.marginals(logits, 2), **EXACT)
    covariance = exact.covariance(logits, 2)
    assert_close(d.covariance_matrix, covariance, **EXACT)
    assert_close(d.variance, covariance.diagonal(dim1=-2, dim2=-1), **EXACT)
    assert_close(d.stddev, d.variance.sqrt(), **EXACT)
    assert_close(d.entropy(), exact.entropy(logits, 2), **EXACT)
    assert_close(d.perplexity(), exact.entropy(logits, 2).exp(), **EXACT)
    assert torch.equal(d.mode, dg.subset.mode(logits, 2))


def test_log_prob_over_the_enumerated_support(backend, logits):
    d = dg.KSubset(2, logits=logits)
    hot, log_p = exact.law(logits, 2)
    support = d.enumerate_support()
    assert support.shape == (math.comb(6, 2), 2, 3, 6)
    assert torch.equal(support[:, 1, 2], hot)
    assert_close(d.log_prob(support), log_p.movedim(-1, 0), **EXACT)
    assert_close(d.log_prob(support).exp().sum(0), torch.ones(2, 3).double(), **EXACT)
    narrow = d.enumerate_support(expand=False)
    assert narrow.shape == (15, 1, 1, 6)
    assert torch.equal(narrow.expand(-1, 2, 3, -1), support)
    assert d.support.check(support).all()


@pytest.mark.parametrize(("n", "k"), [(4, 0), (4, 4), (1, 1), (0, 0)])
def test_enumerated_support_at_the_ends(n, k):
    d = dg.KSubset(k, logits=torch.zeros(n))
    assert d.enumerate_support().tolist() == [[1.0 if k else 0.0] * n]


def test_enumerated_support_of_rows_with_different_k():
    d = dg.KSubset(torch.tensor([1, 2]), logits=torch.zeros(3))
    with pytest.raises(NotImplementedError, match=r"same k in every row, got \[1, 2\]"):
        d.enumerate_support()
    same = dg.KSubset(torch.tensor([2, 2]), logits=torch.zeros(3))
    assert same.enumerate_support().shape == (3, 2, 3)


@pytest.mark.parametrize("batch", [(), (1,), (0,), (4,), (3, 0, 5), (2, 3)], ids=str)
def test_batch_shapes(backend, batch):
    logits = torch.randn(*batch, 5, requires_grad=True)
    d = dg.KSubset(2, logits=logits)
    assert d.batch_shape == batch
    assert d.event_shape == (5,)
    assert d.param_shape == (*batch, 5)
    assert d.mean.shape == d.variance.shape == d.mode.shape == (*batch, 5)
    assert d.covariance_matrix.shape == (*batch, 5, 5)
    assert d.entropy().shape == batch
    for sample_shape in ((), (7,), (2, 0), (2, 3)):
        for draw in (d.sample, d.rsample):
            z = draw(sample_shape)
            assert z.shape == (*sample_shape, *batch, 5)
            assert d.log_prob(z).shape == (*sample_shape, *batch)
            assert (z.sum(-1) == 2).all()
    assert not d.sample().requires_grad
    assert d.rsample().requires_grad


def test_rsample_is_simple(backend, logits):
    logits.requires_grad_()
    d = dg.KSubset(3, logits=logits)
    assert d.has_rsample
    torch.manual_seed(3)
    z = d.rsample((4,))
    torch.manual_seed(3)
    assert torch.equal(z, dg.simple(logits, 3, 4))
    torch.manual_seed(3)
    assert torch.equal(z, d.sample((4,)))
    g = torch.randn(4, 2, 3, 6, dtype=torch.float64)
    (ours,) = torch.autograd.grad(z, logits, g)
    sigma = exact.covariance(logits.detach(), 3)
    assert_close(ours, (sigma @ g.sum(0).unsqueeze(-1)).squeeze(-1), **EXACT)


def test_probs_are_those_of_the_bernoulli_variables(backend):
    probs = torch.tensor([0.1, 0.5, 0.9, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    d = dg.KSubset(2, probs=probs)
    bernoulli = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert d.logits[3:].tolist() == [-INF, INF]
    assert_close(d.logits[:3], torch.logit(bernoulli), **EXACT)
    # By hand: the Bernoulli law of the three, given that one of them is 1.
    weights = torch.stack(
        [(bernoulli if i == j else 1 - bernoulli)[i] for j in range(3) for i in range(3)]
    )
    weights = weights.reshape(3, 3).prod(-1)
    assert_close(d.mean[:3], weights / weights.sum(), **EXACT)
    assert d.mean[3:].tolist() == [0.0, 1.0]
    (gradient,) = torch.autograd.grad((d.mean * torch.randn(5)).sum(), probs)
    assert gradient.isfinite().all()
    assert gradient[3:].tolist() == [0.0, 0.0]
    assert gradient[:3].abs().min() > 0
    back = dg.KSubset(2, logits=d.logits)
    assert_close(back.probs, probs, **EXACT)


def test_k_and_parameters_broadcast(backend):
    logits = torch.randn(4, 1, 5, dtype=torch.float64)
    k = torch.tensor([1, 2, 4], dtype=torch.int32)
    d = dg.KSubset(k, logits=logits)
    assert d.batch_shape == (4, 3)
    assert d.k.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            row = logits[i, 0]
            assert_close(d.mean[i, j], exact.marginals(row, int(k[j])), **EXACT)
            assert_close(d.entropy()[i, j], exact.entropy(row, int(k[j])), **EXACT)
    z = d.sample((6,))
    assert torch.equal(z.sum(-1).int(), k.expand(6, 4, 3))
    assert d.log_prob(z).isfinite().all()
    assert dg.KSubset(torch.tensor(2), logits=logits).batch_shape == (4, 1)
    assert dg.KSubset(torch.tensor([[1, 2]]), probs=torch.full((3,), 0.5)).batch_shape == (1, 2)


@pytest.mark.parametrize("parameter", ["logits", "probs"])
@pytest.mark.parametrize("k", [2, torch.tensor([1, 2, 3])], ids=["int", "per row"])
def test_expand(backend, parameter, k):
    d = dg.KSubset(k, **{parameter: torch.rand(3, 5).double()})
    wide = d.expand((4, 3))
    assert type(wide) is dg.KSubset
    assert wide.batch_shape == (4, 3)
    assert wide.event_shape == (5,)
    assert wide._validate_args == d._validate_args
    assert_close(wide.mean, d.mean.expand(4, 3, 5), **EXACT)
    assert_close(wide.entropy(), d.entropy().expand(4, 3), **EXACT)
    assert wide.sample((2,)).shape == (2, 4, 3, 5)
    assert wide.logits.data_ptr() == d.logits.data_ptr() or parameter == "probs"
    assert_close(wide.expand((2, 4, 3)).mean, d.mean.expand(2, 4, 3, 5), **EXACT)


def test_expand_of_a_subclass_must_be_its_own():
    class Child(dg.KSubset):
        def __init__(self):
            super().__init__(1, logits=torch.zeros(3))

    with pytest.raises(NotImplementedError, match="Subclass"):
        Child().expand((2,))


def test_support_and_sample_validation(backend, logits):
    d = dg.KSubset(2, logits=logits)
    assert d.support.is_discrete
    assert d.support.event_dim == 1
    assert constraints.is_dependent(dg.KSubset.support)
    check = d.support.check
    good = torch.tensor([1.0, 1, 0, 0, 0, 0])
    bad = torch.tensor([[1.0, 1, 1, 0, 0, 0], [2.0, 0, 0, 0, 0, 0], [0.5, 0.5, 1, 0, 0, 0]])
    assert check(good).all()
    assert not check(bad).any()
    per_row = dg.KSubset(torch.tensor([1, 2]), logits=torch.zeros(6)).support
    assert per_row.check(torch.stack([good, good])).tolist() == [False, True]
    for value in bad:
        with pytest.raises(ValueError, match=r"within the support \(KHot\(k=2\)\)"):
            d.log_prob(value)
    quiet = dg.KSubset(2, logits=logits, validate_args=False)
    assert (quiet.log_prob(bad[0]) == -INF).all()
    with pytest.raises(ValueError, match="shape"):
        d.log_prob(torch.zeros(2, 3, 5))


def test_arg_constraints_are_checkable(logits):
    d = dg.KSubset(2, logits=logits)
    assert set(d.arg_constraints) == {"k", "logits", "probs"}
    assert d.arg_constraints["logits"].check(d.logits).shape == d.batch_shape
    assert d.arg_constraints["probs"].check(d.probs).all()
    assert constraints.is_dependent(d.arg_constraints["k"])


def test_repr_names_the_parameters(logits):
    assert repr(dg.KSubset(2, logits=logits)) == "KSubset(k: 2, logits: (2, 3, 6))"
    d = dg.KSubset(torch.tensor([1, 2]), probs=torch.full((3,), 0.5))
    d.logits  # noqa: B018 - computed on demand, and not the parameter that was given
    assert repr(d) == "KSubset(k: (2,), probs: (2, 3))"


def test_copies_and_pickles(logits):
    d = dg.KSubset(torch.tensor([1, 2, 3]), logits=logits)
    for other in (copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        assert torch.equal(other.logits, d.logits)
        assert torch.equal(other.mean, d.mean)


def test_validation_default_follows_torch(logits):
    assert dg.KSubset(2, logits=logits)._validate_args == Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        d = dg.KSubset(2, logits=torch.full((3,), float("nan")))
        assert d.mean.isnan().all()
    finally:
        Distribution.set_default_validate_args(True)


def test_kl_of_the_same_k(backend, logits):
    other = torch.randn(3, 6, dtype=torch.float64)
    value = kl_divergence(dg.KSubset(2, logits=logits), dg.KSubset(2, logits=other))
    assert value.shape == (2, 3)
    assert_close(value, exact.kl_divergence(logits, other.expand(2, 3, 6), 2), **EXACT)


def test_kl_of_another_k_is_infinite(backend, logits):
    p, q = dg.KSubset(2, logits=logits), dg.KSubset(3, logits=logits[0])
    assert torch.equal(kl_divergence(p, q), torch.full((2, 3), INF).double())


def test_kl_row_by_row(backend):
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    other = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    # In row 1 q has fewer live items than p has chosen: its own k fits, p's would not.
    masked = torch.where(
        torch.tensor([[False] * 4, [False, True, True, True], [False] * 4]), -INF, other
    )
    p = dg.KSubset(torch.tensor([1, 2, 3]), logits=logits)
    q = dg.KSubset(torch.tensor([1, 1, 3]), logits=masked)
    value = kl_divergence(p, q)
    assert value[1] == INF
    for row, k in ((0, 1), (2, 3)):
        assert_close(value[row], exact.kl_divergence(logits[row], other[row], k), **EXACT)
    for gradient in torch.autograd.grad(value[[0, 2]].sum(), (logits, other)):
        assert gradient.isfinite().all()
        assert gradient[1].abs().sum() == 0
    mixed = kl_divergence(dg.KSubset(2, logits=logits), p)
    assert mixed.isinf().tolist() == [True, False, True]


def test_kl_of_different_items_is_refused():
    with pytest.raises(ValueError, match="same number of items, got 3 and 4"):
        kl_divergence(dg.KSubset(1, logits=torch.zeros(3)), dg.KSubset(1, logits=torch.zeros(4)))


def test_from_marginals(backend):
    wanted = torch.tensor(
        [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], dtype=torch.float64, requires_grad=True
    )
    d = dg.KSubset.from_marginals(wanted)
    assert d.k == 1
    assert_close(d.mean, wanted, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(d.entropy().sum(), wanted)
    # The maximum entropy H(t) has gradient -theta, up to a constant.
    offset = gradient + d.logits.detach()
    assert_close(offset, offset.mean(-1, keepdim=True).expand(2, 3), rtol=0, atol=1e-8)
    rows = dg.KSubset.from_marginals(torch.tensor([[0.5, 0.5, 1.0], [0.0, 0.25, 0.75]]))
    assert rows.k.tolist() == [2, 1]
    assert_close(rows.mean, torch.tensor([[0.5, 0.5, 1.0], [0.0, 0.25, 0.75]]), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="marginals must sum to an integer"):
        dg.KSubset.from_marginals(torch.tensor([0.5, 0.6]))


def test_independent_and_other_torch_wrappers(backend, logits):
    d = torch.distributions.Independent(dg.KSubset(2, logits=logits), 1)
    assert d.batch_shape == (2,)
    assert d.event_shape == (3, 6)
    assert_close(d.entropy(), exact.entropy(logits, 2).sum(-1), **EXACT)
    uniform = torch.distributions.Independent(dg.KSubset(2, logits=torch.zeros_like(logits)), 1)
    # KL to the uniform law is log C(n, k) - H.
    expected = (math.log(math.comb(6, 2)) - exact.entropy(logits, 2)).sum(-1)
    assert_close(kl_divergence(d, uniform), expected, **EXACT)
    assert d.rsample((5,)).shape == (5, 2, 3, 6)
