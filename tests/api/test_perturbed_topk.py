# SPDX-License-Identifier: Apache-2.0
"""dg.perturbed_topk and its indices: law, ties, invalid rows, seeds, transforms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import discrete_grad as dg
from tests.stats import P_VALUE, chi_square_p, subset_codes

INF = float("inf")
NOISES = ("gumbel", "sum_of_gamma", "normal", "logistic", "laplace")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plackett_luce(theta, k):
    """The law of the set of the k first items of a Plackett-Luce order, by bit mask."""
    weight = np.exp(np.asarray(theta))
    law: dict[int, float] = {}
    for order in itertools.permutations(range(len(theta)), k):
        left, p = weight.sum(), 1.0
        for i in order:
            p *= weight[i] / left
            left -= weight[i]
        code = sum(1 << i for i in order)
        law[code] = law.get(code, 0.0) + p
    return law


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_gumbel_noise_gives_plackett_luce(backend, k, temperature):
    theta = torch.tensor([1.0, 0.3, -0.4, 0.0, -2.0])
    hot = dg.perturbed_topk(theta, k, 40_000, temperature=temperature, generator=seeded(k))
    law = plackett_luce(theta.double() / temperature, k)
    assert chi_square_p(subset_codes(hot.numpy()), law) > P_VALUE


def test_for_k_above_1_it_is_not_the_k_subset_law():
    """The test above has the power to tell the two laws apart."""
    theta = torch.tensor([2.0, 0.3, -0.4, 0.0, -2.0])
    exact = dg.subset.sample(theta, 2, 40_000, generator=seeded())
    assert chi_square_p(subset_codes(exact.numpy()), plackett_luce(theta, 2)) < 1e-9


@pytest.mark.parametrize("noise", NOISES)
def test_the_same_seed_gives_the_same_subsets_on_both_backends(noise):
    """But for the rounding of a logarithm next to a tie: at most one row in 10^4."""
    logits = torch.randn(200, 40)
    hot = {}
    for name in ("reference", "cpp"):
        with dg.backend(name):
            hot[name] = dg.perturbed_topk(logits, 7, 50, noise=noise, generator=seeded(5))
    assert bool((hot["cpp"].sum(-1) == 7).all())
    differ = (hot["reference"] != hot["cpp"]).any(-1)
    assert differ.sum() <= 1


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n", [5, 70, 3000])
def test_indices_are_those_of_the_k_hot_samples(backend, noise, n):
    logits = torch.randn(3, n, dtype=torch.float64)
    k = n // 3
    hot = dg.perturbed_topk(logits, k, 4, noise=noise, generator=seeded(n))
    indices = dg.perturbed_topk_indices(logits, k, 4, noise=noise, generator=seeded(n))
    assert indices.shape == (4, 3, k)
    assert indices.dtype == torch.int64
    assert torch.equal(torch.zeros_like(hot).scatter(-1, indices, 1.0), hot)
    assert bool((indices.diff(dim=-1) > 0).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_without_noise_it_is_the_mode_with_ties_to_the_lowest_index(backend, dtype):
    logits = torch.randint(-2, 3, (50, 33)).to(dtype)
    order = logits.double().argsort(dim=-1, descending=True, stable=True)
    for k in (0, 1, 7, 33):
        hot = dg.perturbed_topk(logits, k, temperature=0.0)
        assert hot.dtype == dtype
        assert hot.shape == logits.shape
        assert torch.equal(hot, torch.zeros_like(logits).scatter(-1, order[:, :k], 1.0))
        assert torch.equal(hot, dg.subset.mode(logits, k))


def test_masks_and_a_k_for_each_row(backend):
    logits = torch.randn(4, 6)
    logits[:, 0], logits[:, 1] = -INF, INF
    hot = dg.perturbed_topk(logits, torch.tensor([1, 2, 4, 5]), 200)
    assert bool((hot[..., 0] == 0).all())
    assert bool((hot[..., 1] == 1).all())
    assert torch.equal(hot.sum(-1), torch.tensor([1.0, 2.0, 4.0, 5.0]).expand(200, 4))


def test_a_row_without_a_subset_is_nan_and_no_other(backend):
    logits = torch.zeros(5, 4)
    logits[0, 2] = torch.nan
    logits[1, :3] = -INF  # one item left for two places
    logits[2, :3] = INF  # three forced into two places
    hot = dg.perturbed_topk(logits, 2, 3)
    assert bool(hot[:, :3].isnan().all())
    assert bool((hot[:, 3:].sum(-1) == 2).all())
    indices = dg.perturbed_topk_indices(logits, 2, 3)
    assert bool((indices[:, :3] == -1).all())
    assert bool((indices[:, 3:] >= 0).all())
    outside = dg.perturbed_topk(torch.zeros(3, 4), torch.tensor([-1, 5, 4]))
    assert outside.isnan().all(-1).tolist() == [True, True, False]


class Steps(dg.BaseNoiseDistribution):
    """Noise of a user's own: item i of every row gets -i, so without logits the first k win."""

    def sample(self, shape):
        return -torch.arange(float(shape[-1])).expand(shape)


def test_noise_of_ones_own(backend):
    hot = dg.perturbed_topk(torch.zeros(3, 6), 2, 4, noise=Steps())
    assert torch.equal(hot, torch.tensor([1.0, 1, 0, 0, 0, 0]).expand(4, 3, 6))
    logits = torch.tensor([0.0, 0.0, 2.5, 0.0])
    assert dg.perturbed_topk(logits, 1, noise=Steps()).tolist() == [0, 0, 1, 0]
    indices = dg.perturbed_topk_indices(logits, 2, noise=Steps(), temperature=0.1)
    assert indices.tolist() == [0, 2]


def test_fused_noise_is_not_changed_by_a_subclass():
    """The ops would go on making the parent's noise."""
    with pytest.raises(TypeError, match="derive it from BaseNoiseDistribution"):

        class Halved(dg.GumbelNoiseDistribution):
            def sample(self, shape, *, generator=None):
                return super().sample(shape) / 2


def test_a_scale_multiplies_the_temperature(backend):
    logits = torch.randn(10, 20)
    wide = dg.GumbelNoiseDistribution(location=3.0, scale=2.0)
    one = dg.perturbed_topk(logits, 4, 5, noise=wide, temperature=0.5, generator=seeded())
    assert torch.equal(one, dg.perturbed_topk(logits, 4, 5, generator=seeded()))


def test_seeds(backend):
    logits = torch.randn(8, 30)
    torch.manual_seed(3)
    first, second = dg.perturbed_topk(logits, 4), dg.perturbed_topk(logits, 4)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, dg.perturbed_topk(logits, 4))
    # The draws of a row do not depend on how many there are.
    few = dg.perturbed_topk(logits, 4, 2, generator=seeded(1))
    many = dg.perturbed_topk(logits, 4, 6, generator=seeded(1))
    assert torch.equal(few, many[:2])


def test_no_gradient(backend):
    logits = torch.randn(2, 5, requires_grad=True)
    assert not dg.perturbed_topk(logits, 2).requires_grad
    assert not dg.perturbed_topk_indices(logits, 2).requires_grad


@pytest.mark.parametrize("noise", ["gumbel", "sum_of_gamma"])
def test_compiled_whole(noise):
    torch._dynamo.reset()
    logits = torch.randn(6, 25)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def draw(x):
        return dg.perturbed_topk(x, 5, 3, noise=noise), dg.perturbed_topk_indices(x, 5, noise=noise)

    with dg.backend("cpp"):
        hot, indices = draw(logits)
        again, _ = draw(logits)
    assert bool((hot.sum(-1) == 5).all())
    assert indices.shape == (6, 5)
    assert not torch.equal(hot, again)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_vmap(backend, randomness):
    # equal rows, so that only the randomness tells the slices apart
    logits = torch.zeros(5, 3, 40)
    with torch.random.fork_rng():
        hot = torch.vmap(lambda x: dg.perturbed_topk(x, 8, 2), randomness=randomness)(logits)
    assert hot.shape == (5, 2, 3, 40)
    assert bool((hot.sum(-1) == 8).all())
    equal = bool((hot == hot[:1]).all())
    assert equal == (randomness == "same")


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 4), (0,)])
def test_nothing_to_choose_from(backend, shape):
    logits = torch.zeros(shape)
    assert dg.perturbed_topk(logits, 0, 2).shape == (2, *shape)
    assert dg.perturbed_topk_indices(logits, 0, 2).shape == (2, *shape[:-1], 0)
    assert dg.perturbed_topk(torch.zeros(3, 4), 2, 0).shape == (0, 3, 4)


BAD_NOISE = [("uniform", ValueError), (3, TypeError), (torch.rand, TypeError)]


@pytest.mark.parametrize(("noise", "error"), BAD_NOISE)
@pytest.mark.parametrize("function", [dg.perturbed_topk, dg.perturbed_topk_indices])
def test_bad_noise(function, noise, error):
    with pytest.raises(error, match=r"^noise must be"):
        function(torch.zeros(3), 1, noise=noise)


@pytest.mark.parametrize(
    ("temperature", "error"),
    [(-1.0, ValueError), (INF, ValueError), (float("nan"), ValueError), ("1", TypeError)],
)
@pytest.mark.parametrize("function", [dg.perturbed_topk, dg.perturbed_topk_indices])
def test_bad_temperature(function, temperature, error):
    with pytest.raises(error, match=r"^temperature must be"):
        function(torch.zeros(3), 1, temperature=temperature)


def test_sum_of_gamma_by_name_needs_one_k():
    with pytest.raises(ValueError, match="noise must be"):
        dg.perturbed_topk(torch.zeros(2, 3), torch.tensor([1, 2]), noise="sum_of_gamma")
