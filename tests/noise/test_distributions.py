# SPDX-License-Identifier: Apache-2.0
"""Draws of the noise distributions: their laws, where they are made, and what they depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

import discrete_grad as dg
from discrete_grad.noise import (
    BaseNoiseDistribution,
    FusedNoise,
    GumbelNoiseDistribution,
    LaplaceNoiseDistribution,
    LogisticNoiseDistribution,
    NormalNoiseDistribution,
    SumOfGammaNoiseDistribution,
    resolve,
)
from discrete_grad.quantiles import quantile_table
from discrete_grad.reference import philox4x32
from discrete_grad.reference.noise import quantile
from tests import stats

DRAWS = 1_000_000
LAWS = {
    "gumbel": (GumbelNoiseDistribution, scipy.stats.gumbel_r),
    "normal": (NormalNoiseDistribution, scipy.stats.norm),
    "logistic": (LogisticNoiseDistribution, scipy.stats.logistic),
    "laplace": (LaplaceNoiseDistribution, scipy.stats.laplace),
}
SUMS = [(1, 10), (5, 10), (10, 10), (16, 100), (100, 10)]


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (-2.5, 0.75)])
def test_law(backend, name, location, scale):
    noise, law = LAWS[name]
    drawn = noise(location, scale).sample((DRAWS // 1000, 1000)).double().numpy().reshape(-1)
    p = scipy.stats.kstest(drawn, law(location, scale).cdf).pvalue
    assert p > stats.P_VALUE, p


@pytest.mark.parametrize("name", LAWS)
def test_law_in_the_upper_tail(backend, name):
    """Of what exceeds the 10^-3 quantile, the law too: where the winners of long rows live."""
    noise, law = LAWS[name]
    level = 1e-3
    drawn = noise().sample((DRAWS // 1000, 1000)).double().numpy().reshape(-1)
    excess = drawn[drawn > law.isf(level)]
    assert stats.poisson_two_sided_p(len(excess), level * drawn.size) > stats.P_VALUE
    p = scipy.stats.kstest(law.sf(excess) / level, "uniform").pvalue
    assert p > stats.P_VALUE, p


def test_largest_exponential_law(backend):
    """SoG(1, s) is the largest of s exponential variates, minus log s."""
    drawn = SumOfGammaNoiseDistribution(1).sample((DRAWS // 1000, 1000)).double().numpy()

    def cdf(x):
        return (-np.expm1(-(x + math.log(10)).clip(0))) ** 10

    p = scipy.stats.kstest(drawn.reshape(-1), cdf).pvalue
    assert p > stats.P_VALUE, p


def _sum_of_gammas(kappa: float, s: int, draws: int) -> np.ndarray:
    """SoG(kappa, s) by its definition, one gamma variate at a time."""
    rng = np.random.default_rng(draws)
    total = np.zeros(draws)
    for i in range(1, s + 1):
        total += rng.standard_gamma(1 / kappa, draws) * (kappa / i)
    return (total - math.log(s)) / kappa


def _two_sample_p(noise: FusedNoise, other: np.ndarray) -> tuple[float, float]:
    """The Kolmogorov-Smirnov statistic and its p-value, both samples rounded to 1e-5."""
    pieces = [noise.sample((1000, 1000)).double().numpy() for _ in range(other.size // 10**6)]
    result = scipy.stats.ks_2samp(
        np.concatenate(pieces).reshape(-1).round(5), other.round(5), method="asymp"
    )
    return float(result.statistic), float(result.pvalue)


@pytest.mark.parametrize(("kappa", "s"), SUMS)
def test_sum_of_gammas(backend, kappa, s):
    statistic, p = _two_sample_p(
        SumOfGammaNoiseDistribution(kappa, s), _sum_of_gammas(kappa, s, 10**6)
    )
    assert p > stats.P_VALUE, (statistic, p)


@pytest.mark.slow
@pytest.mark.parametrize(("kappa", "s"), SUMS)
def test_sum_of_gammas_at_ten_million_draws(kappa, s, record_property):
    statistic, p = _two_sample_p(
        SumOfGammaNoiseDistribution(kappa, s), _sum_of_gammas(kappa, s, 10**7)
    )
    record_property("ks", (statistic, p))
    assert p > stats.P_VALUE, (statistic, p)


def test_the_kolmogorov_smirnov_test_sees_a_wrong_law():
    """A sum of one term less is told apart at 10^6 draws."""
    other = _sum_of_gammas(5, 9, 10**6)
    with dg.backend("reference"):
        _, p = _two_sample_p(SumOfGammaNoiseDistribution(5), other)
    assert p < 1e-20


def _moments(kappa: float, s: int) -> tuple[float, float, float]:
    """Mean, variance and fourth cumulant of SoG(kappa, s), from those of its gamma variates."""
    i = np.arange(1, s + 1)
    mean = ((1 / i).sum() - math.log(s)) / kappa
    return mean, (i**-2.0).sum() / kappa, 6 * (i**-4.0).sum() / kappa


@pytest.mark.parametrize(("kappa", "s"), SUMS)
def test_moments_of_sums_of_gammas(backend, kappa, s):
    mean, variance, fourth = _moments(kappa, s)
    drawn = SumOfGammaNoiseDistribution(kappa, s).sample((1000, 1000)).double().numpy()
    centred = drawn.reshape(-1) - mean
    bound = stats.max_z_bound(2)
    assert abs(centred.mean()) < bound * math.sqrt(variance / centred.size)
    spread = math.sqrt((fourth + 2 * variance**2) / centred.size)
    assert abs((centred**2).mean() - variance) < bound * spread


@pytest.mark.parametrize("name", [*LAWS, "sum_of_gamma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_which_random_word_an_item_takes(backend, name, dtype):
    """Item i of row r = sample * rows + row: word i mod 4 of block (i div 4, r, purpose 3)."""
    samples, rows, n = 3, 2, 11
    noise = resolve(name, 5)
    seed = torch.tensor([(12345 << 32) + 6789])
    drawn = noise.draw((samples, rows, n), seed, dtype)
    assert drawn.shape == (samples, rows, n)
    assert drawn.dtype == dtype
    key = torch.tensor(6789), torch.tensor(12345)
    table = noise.quantiles(torch.device("cpu"), dtype)
    for sample, row, i in [(0, 0, 0), (0, 1, 3), (1, 0, 4), (2, 1, 10)]:
        counter = torch.tensor(i // 4), torch.tensor(sample * rows + row)
        word = philox4x32((*counter, torch.tensor(0), torch.tensor(3)), key)[i % 4]
        v = ((word.to(dtype) + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
        expected = quantile(v.reshape(1), table)[0]
        torch.testing.assert_close(drawn[sample, row, i], expected, rtol=1e-6, atol=1e-6)


def test_location_and_scale(backend):
    seed = torch.tensor([3])
    plain = NormalNoiseDistribution().draw((4, 6), seed, torch.float64)
    moved = NormalNoiseDistribution(2.0, 0.5).draw((4, 6), seed, torch.float64)
    assert torch.equal(moved, 2.0 + 0.5 * plain)


def test_sample_follows_the_generator(backend):
    noise = SumOfGammaNoiseDistribution(3)
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    first = noise.sample(torch.Size([2, 7]), generator=generator)
    second = noise.sample((2, 7), generator=generator)
    assert first.shape == (2, 7)
    assert first.dtype == torch.float32
    assert first.device.type == "cpu"
    assert not torch.equal(first, second)
    assert torch.equal(first, noise.sample([2, 7], generator=generator.set_state(state)))
    torch.manual_seed(9)
    default = noise.sample((2, 7))
    assert not torch.equal(default, noise.sample((2, 7)))
    torch.manual_seed(9)
    assert torch.equal(default, noise.sample((2, 7)))


@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 4), (4, 0), (2, 3, 4)])
def test_shapes(backend, shape):
    drawn = LogisticNoiseDistribution().sample(shape)
    assert drawn.shape == shape
    assert drawn.isfinite().all()


def test_device():
    noise = GumbelNoiseDistribution(device="meta")
    assert noise.device == torch.device("meta")
    assert GumbelNoiseDistribution().device is None
    with pytest.raises(ValueError, match="generator must be on the device"):
        noise.sample((2,), generator=torch.Generator())


def test_resolve():
    for name, (noise, _) in LAWS.items():
        assert type(resolve(name, torch.tensor([1, 2]))) is noise
    sums = resolve("sum_of_gamma", 7)
    assert isinstance(sums, SumOfGammaNoiseDistribution)
    assert (sums.k, sums.nb_iterations) == (7, 10)
    assert isinstance(resolve("sum_of_gamma", 0), SumOfGammaNoiseDistribution)
    own = GumbelNoiseDistribution(1.0, 2.0)
    assert resolve(own, 3) is own
    with pytest.raises(ValueError, match=r"noise must be one of 'gumbel', .*got 'uniform'"):
        resolve("uniform", 3)
    with pytest.raises(TypeError, match=r"noise must be the name of a law or a .*got int 3"):
        resolve(3, 3)
    with pytest.raises(TypeError, match="BaseNoiseDistribution"):
        resolve(GumbelNoiseDistribution, 3)
    with pytest.raises(ValueError, match=r"pass dg\.SumOfGammaNoiseDistribution"):
        resolve("sum_of_gamma", torch.tensor([1, 2]))


@pytest.mark.parametrize("noise", [noise for noise, _ in LAWS.values()])
def test_location_and_scale_are_checked(noise):
    with pytest.raises(ValueError, match="scale must be greater than 0, got 0"):
        noise(scale=0.0)
    with pytest.raises(ValueError, match="scale must be finite"):
        noise(scale=math.inf)
    with pytest.raises(ValueError, match="location must be finite, got nan"):
        noise(math.nan)
    with pytest.raises(TypeError, match="scale must be a float"):
        noise(scale="1")


def test_arguments_of_the_sum_of_gammas_are_checked():
    with pytest.raises(ValueError, match=r"k must be finite and at least 0\.5, got 0"):
        SumOfGammaNoiseDistribution(0)
    with pytest.raises(TypeError, match="k must be a float"):
        SumOfGammaNoiseDistribution(torch.tensor(3))
    with pytest.raises(ValueError, match="nb_iterations must be at least 1, got 0"):
        SumOfGammaNoiseDistribution(3, 0)
    with pytest.raises(TypeError, match="nb_iterations must be an int"):
        SumOfGammaNoiseDistribution(3, 2.5)
    with pytest.raises(ValueError, match="nb_iterations must be at most 1000 k = 500, got 501"):
        SumOfGammaNoiseDistribution(0.5, 501)


def test_draw_checks_the_dtype():
    with pytest.raises(ValueError, match=r"dtype must be one of torch\.float32, torch\.float64"):
        GumbelNoiseDistribution().draw((2, 3), torch.tensor([1]), torch.bfloat16)


def test_a_base_class_for_a_law_of_ones_own():
    class Mine(BaseNoiseDistribution):
        def sample(self, shape):
            return torch.zeros(shape)

    own = Mine()
    assert resolve(own, 4) is own
    with pytest.raises(TypeError, match="abstract"):
        BaseNoiseDistribution()


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", [*LAWS, "sum_of_gamma"])
def test_compile(name, dynamic):
    """By name inside the compiled function, and from an object made outside."""
    outside = resolve(name, 5)

    def by_name(theta, seed, k):
        return theta + resolve(name, k).draw(theta.shape, seed, theta.dtype)

    def by_object(theta, seed, k):
        return theta + outside.draw(theta.shape, seed, theta.dtype)

    seed = torch.tensor([4])
    for function in (by_name, by_object):
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for rows, n, k in [(2, 6, 5), (3, 7, 5), (3, 8, 4)]:
            theta = torch.randn(rows, n)
            assert torch.equal(compiled(theta, seed, k), function(theta, seed, k))


def test_a_compiled_graph_holds_the_table_itself():
    noise = NormalNoiseDistribution()
    theta = torch.zeros(3)

    @torch.compile(fullgraph=True, backend="eager")
    def first(theta):
        return theta + noise.quantiles(theta.device, theta.dtype)[:3, 0]

    table = quantile_table("normal", theta.device, theta.dtype)
    assert torch.equal(first(theta), table[:3, 0])
