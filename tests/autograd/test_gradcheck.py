# SPDX-License-Identifier: Apache-2.0
"""First and second derivatives against finite differences in float64: reverse, forward and
batched.
"""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

import discrete_grad as dg
from tests.autograd.functions import FUNCTIONS, INF, ROWS, batch, kl

EVERY_MODE = {
    "check_forward_ad": True,
    "check_batched_grad": True,
    "check_batched_forward_grad": True,
    "check_undefined_grad": False,
}


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck(backend, name, row):
    logits, k = ROWS[row]
    assert gradcheck(lambda x: FUNCTIONS[name](x, k), (leaf(logits),), **EVERY_MODE)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "covariance"])
def test_gradgradcheck(backend, name, row):
    logits, k = ROWS[row]
    assert gradgradcheck(
        lambda x: FUNCTIONS[name](x, k),
        (leaf(logits),),
        check_batched_grad=True,
        check_fwd_over_rev=True,
    )


@pytest.mark.parametrize(
    "name", ["log_partition", "marginals", "entropy", "marginals-linear", "marginals-recursion"]
)
def test_batches_with_a_k_for_each_row(backend, name):
    logits, sizes = batch()
    assert gradcheck(lambda x: FUNCTIONS[name](x, sizes), (leaf(logits),), **EVERY_MODE)
    assert gradgradcheck(lambda x: FUNCTIONS[name](x, sizes), (leaf(logits),))


@pytest.mark.parametrize(
    "row", ["normal", "k1", "all-but-one", "ties", "wide", "shifted", "masked"]
)
@pytest.mark.parametrize("which", ["p", "q", "both"])
def test_kl_divergence(backend, row, which):
    p, k = ROWS[row]
    q = torch.where(p.isinf(), p, p.flip(0).nan_to_num(0.0, 0.0, 0.0) + 0.5)
    inputs = (leaf(p) if which != "q" else p, leaf(q) if which != "p" else q)
    assert gradcheck(lambda a, b: kl(a, b, k), inputs, **EVERY_MODE)
    assert gradgradcheck(lambda a, b: kl(a, b, k), inputs)


@pytest.mark.parametrize("max_count", [0, 1, 3, 6])
def test_count_log_prob(backend, max_count):
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0, -0.25, 4.0], dtype=torch.float64)
    assert gradcheck(
        lambda x: dg.subset.count_log_prob(x, max_count), (leaf(logits),), **EVERY_MODE
    )
    assert gradgradcheck(lambda x: dg.subset.count_log_prob(x, max_count), (leaf(logits),))


def test_count_log_prob_of_masked_rows(backend):
    """The counts that can be: 1 forced, 3 undecided, 2 excluded items."""
    logits = torch.tensor([0.5, -INF, 2.0, INF, -0.25, -INF], dtype=torch.float64)

    def possible(x):
        return dg.subset.count_log_prob(x, 5)[1:5]

    assert gradcheck(possible, (leaf(logits),), **EVERY_MODE)
    assert gradgradcheck(possible, (leaf(logits),))


@pytest.mark.parametrize("row", ["normal", "k1", "wide", "masked"])
def test_log_prob_in_both_arguments(backend, row):
    """log_prob is linear in the subset; only points off the k-hot grid would be -inf, so its
    gradient is taken by torch.autograd.grad and compared with the logits.
    """
    logits, k = ROWS[row]
    subset = dg.subset.mode(logits, k).requires_grad_()
    theta = leaf(logits)
    value = dg.subset.log_prob(theta, k, subset)
    by_logits, by_subset = torch.autograd.grad(value, (theta, subset))
    mu = dg.subset.marginals(logits, k)
    live = logits.isfinite()
    torch.testing.assert_close(by_logits[live], (subset - mu)[live].detach(), rtol=0, atol=1e-12)
    assert not by_logits[~live].any()
    shift = (by_subset - logits)[live]  # up to one constant: the row's centre
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-9)


def test_a_wrong_factor_is_noticed(backend):
    """gradcheck itself sees a gradient that is off by a thousandth, in either order."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * 1.001

    def off(x):
        return Wrong.apply(dg.subset.marginals(x, 3))

    with pytest.raises(GradcheckError):
        gradcheck(off, (leaf(ROWS["normal"][0]),), atol=1e-6, rtol=1e-5)
