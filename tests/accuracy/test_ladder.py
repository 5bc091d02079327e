# SPDX-License-Identifier: Apache-2.0
"""The rungs below the package: enumeration holds the oracle, the oracle holds the closed form for
long rows, known good and known bad samplers hold the statistics, and memory is seen to be
poisoned.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from tests import oracle, stats
from tests.cases import CASES, padded

SMALL = [c for c in CASES if len(c.logits) <= 9]


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.id)
def test_oracle_equals_enumeration(case):
    law = oracle.enumerate_subsets(case.logits, case.k)
    exact = oracle.subset_cached(case.logits, case.k, case.grad)
    grad = [mpf(g) for g in case.grad.tolist()]
    n = len(case.logits)
    mu = [mp.fsum(p for s, p in law.items() if i in s) for i in range(n)]
    score = {s: mp.fsum(grad[j] for j in s) for s in law}
    mean = mp.fsum(p * score[s] for s, p in law.items())
    cov = [mp.fsum(p * score[s] for s, p in law.items() if i in s) - mu[i] * mean for i in range(n)]
    tiny = mpf(10) ** -50
    assert all(abs(a - b) < tiny for a, b in zip(mu, exact.marginals, strict=True))
    assert all(abs(a - b) < tiny for a, b in zip(cov, exact.vjp, strict=True))
    live = np.isfinite(case.logits)
    for s, p in law.items():  # p(S) = exp(sum of the live logits in S - log Z)
        log_p = mp.fsum(mpf(case.logits[i]) for i in s if live[i]) - exact.log_partition
        assert abs(mp.exp(log_p) - p) < tiny


def test_oracle_refuses_an_empty_law():
    with pytest.raises(ValueError, match="no subset"):
        oracle.subset([0.0, -np.inf], 2)


@pytest.mark.parametrize(("n1", "n2", "k"), [(4, 6, 1), (4, 6, 5), (7, 5, 11), (30, 20, 24)])
def test_two_groups_equals_oracle(n1, n2, k):
    a, b = 1.5, -0.75
    logits = np.array([a] * n1 + [b] * n2)
    grad = np.random.RandomState(k).uniform(-1, 1, n1 + n2)
    exact = oracle.subset(logits, k, grad)
    groups = oracle.two_groups(n1, n2, a, b, k)
    tiny = mpf(10) ** -48
    assert abs(groups.log_partition - exact.log_partition) < tiny
    assert abs(groups.mu1 - exact.marginals[0]) < tiny
    assert abs(groups.mu2 - exact.marginals[-1]) < tiny
    assert np.abs(groups.vjp(grad, n1) - oracle.as_floats(exact.vjp)).max() < 1e-16


def test_count_oracle_equals_binomial():
    got = oracle.count_log_prob([0.0] * 7, 9)
    want = [mp.log(mp.binomial(7, j)) - 7 * mp.log(2) for j in range(8)]
    assert all(abs(a - b) < mpf(10) ** -50 for a, b in zip(got[:8], want, strict=True))
    assert got[8] == got[9] == -mp.inf


def test_padding_keeps_the_rows():
    rows = tuple(c for c in CASES if len(c.logits) <= 5)
    logits, k, grad = padded(rows)
    for row, case in enumerate(rows):
        full = oracle.subset(logits[row], int(k[row]), grad[row])
        alone = oracle.subset(case.logits, case.k, case.grad)
        assert full.vjp[: len(case.logits)] == alone.vjp
        assert full.log_partition == alone.log_partition


class TestStatistics:
    """The tests of samplers must pass a right sampler and fail the wrong ones that people use."""

    logits = np.array([2.0, 1.0, 0.0, 0.0, -1.0, -2.0])
    k, draws = 3, 400_000

    def law(self) -> dict[int, float]:
        law = oracle.enumerate_subsets(self.logits, self.k)
        return {sum(1 << i for i in s): float(p) for s, p in law.items()}

    def test_exact_draws_pass(self):
        law = self.law()
        rng = np.random.RandomState(1)
        codes = rng.choice(list(law), size=self.draws, p=list(law.values()))
        assert stats.chi_square_p(codes, law) > stats.P_VALUE

    def test_gumbel_top_k_fails(self):
        noise = np.random.RandomState(2).gumbel(size=(self.draws, 6))
        top = np.argsort(-(self.logits + noise), axis=1)[:, : self.k]
        khot = np.zeros((self.draws, 6))
        np.put_along_axis(khot, top, 1.0, axis=1)
        assert stats.chi_square_p(stats.subset_codes(khot), self.law()) < 1e-100

    def test_temperature_off_by_two_percent_fails(self):
        off = oracle.enumerate_subsets(self.logits * 1.02, self.k)
        codes_law = {sum(1 << i for i in s): float(p) for s, p in off.items()}
        rng = np.random.RandomState(3)
        codes = rng.choice(list(codes_law), size=self.draws, p=list(codes_law.values()))
        assert stats.chi_square_p(codes, self.law()) < stats.P_VALUE

    def test_subset_outside_the_law_fails(self):
        law = self.law()
        assert stats.chi_square_p(np.append(np.array(list(law) * 1000), 1), law) == 0.0

    def test_rare_pool_is_seen(self):
        law = {1: 1 - 1e-6, 2: 1e-6}
        codes = np.ones(10_000, dtype=np.int64)
        assert stats.chi_square_p(codes, law) > stats.P_VALUE
        codes[:5] = 2
        assert stats.chi_square_p(codes, law) < stats.P_VALUE

    def test_covariance_z_tells_independent_from_conditioned(self):
        law = self.law()
        rng = np.random.RandomState(4)
        codes = rng.choice(list(law), size=self.draws, p=list(law.values()))
        z = (codes[:, None] >> np.arange(6)) & 1
        exact = oracle.subset(self.logits, self.k, [1.0, 0, 0, 0, 0, 0])
        mu = oracle.as_floats(exact.marginals)
        cov = oracle.as_floats(exact.vjp)[1]
        independent = rng.uniform(size=(self.draws, 6)) < mu
        for sample, passes in ((z, True), (independent, False)):
            both = (sample[:, 0] * sample[:, 1]).mean()
            score = stats.covariance_z(
                both, mu[0], mu[1], sample[:, 0].mean(), sample[:, 1].mean(), cov, self.draws
            )
            assert bool(abs(score) < stats.max_z_bound(1)) == passes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_uninitialised_memory_is_nan(dtype):
    """at::empty, which every kernel allocates by, is filled with NaN here: unwritten outputs cannot
    pass.
    """
    like = torch.zeros(3, 5, dtype=dtype)
    for made in (
        torch.empty(1000, dtype=dtype),
        torch.ops.aten.empty.memory_format([1000], dtype=dtype),
        torch.empty_like(like),
        like.new_empty(7),
        torch.empty_strided((4, 3), (1, 4), dtype=dtype),
    ):
        assert made.isnan().all()
    assert (torch.empty(1000, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()


def test_two_threads():
    assert torch.get_num_threads() == 2
