# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels of perturb-and-MAP for the k largest: noise, selection, difference.

The noise is held to its formula; given the noise, every subset and every difference must be exactly
what comparisons of floats say. Beside the reference, whose noise differs in the last bits, subsets
may differ only where two values all but tie.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_grad import reference
from discrete_grad.quantiles import PIECES, quantile_table
from discrete_grad.reference.philox import uniform_row

OPS = torch.ops.discrete_grad
CPU = torch.device("cpu")
SEED = torch.tensor([0x1234_5678_9ABC_DEF])
DTYPES = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
LAWS = (None, "sum_of_gamma 5 10")
PURPOSE = 3
INF, NAN = float("inf"), float("nan")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def table(law: str | None, dtype: torch.dtype) -> Tensor | None:
    return None if law is None else quantile_table(law, CPU, compute_dtype(dtype))


def uniforms(rows: int, n: int, dtype: torch.dtype) -> Tensor:
    return uniform_row(SEED, torch.arange(rows), PURPOSE, 0, n, dtype)


def noise_like(logits: Tensor, samples: int, law: str | None) -> Tensor:
    """The noise of all samples, by the op, in the shape of the samples."""
    rows, n, dtype = logits.shape[:-1].numel(), logits.shape[-1], compute_dtype(logits.dtype)
    noise = OPS.perturbation_noise(samples * rows, n, table(law, dtype), SEED, dtype)
    return noise.reshape(samples, *logits.shape)


def subsets(theta: Tensor, x: Tensor, k: int | Tensor) -> Tensor:
    """bool, where valid, by sorting: the selection among given values."""
    return reference.top_k(torch.where(theta.isinf(), theta, x), k)


def as_row_k(k: int | Tensor) -> tuple[int, Tensor | None]:
    return (int(k.max()), k) if isinstance(k, Tensor) else (k, None)


def forward(
    logits: Tensor, k: int | Tensor, samples: int, law: str | None, temperature: float
) -> Tensor:
    bound, row_k = as_row_k(k)
    quantiles = table(law, logits.dtype)
    return OPS.perturbed_topk(logits, bound, row_k, samples, quantiles, temperature, SEED)


# ---- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "n"), [(1, 1), (3, 7), (70, 20), (5, 1023), (2, 3000), (1, 40_001)]
)
def test_table_noise_takes_the_bits_of_its_word(rows, n, dtype):
    """Pieces that hold their own number, then the place in the piece: both exact, and together all
    bits of the uniform number.
    """
    v = uniforms(rows, n, dtype)
    pieces = torch.zeros(PIECES, 4, dtype=dtype)
    pieces[:, 0] = torch.arange(PIECES)
    places = torch.zeros(PIECES, 4, dtype=dtype)
    places[:, 1] = 1
    for quantiles in (pieces, places):
        got = OPS.perturbation_noise(rows, n, quantiles, SEED, dtype)
        assert got.shape == (rows, n)
        assert got.dtype == dtype
        assert torch.equal(got, reference.noise.quantile(v, quantiles))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (70, 20), (100, 1000), (2, 40_001)])
def test_gumbel_noise_is_accurate(rows, n, dtype):
    v = uniforms(rows, n, dtype).numpy().astype(np.longdouble)
    exact = -np.log(-np.log1p(-v))
    got = OPS.perturbation_noise(rows, n, None, SEED, dtype).numpy().astype(np.longdouble)
    unit = np.maximum(np.abs(exact), 1) * np.finfo(str(dtype).removeprefix("torch.")).eps
    assert float((np.abs(got - exact) / unit).max()) <= 2.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", ["normal", "sum_of_gamma 5 10"])
def test_table_noise_is_accurate(law, dtype):
    quantiles = table(law, dtype)
    want = reference.noise.quantile(uniforms(50, 1001, dtype), quantiles)
    got = OPS.perturbation_noise(50, 1001, quantiles, SEED, dtype)
    # Of the largest coefficient of a piece, since the sum of its terms may cancel.
    unit = quantiles.abs().max() * torch.finfo(dtype).eps
    assert float((got - want).abs().max() / unit) <= 2.0


# ---- selection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [*range(1, 40), 63, 64, 65, 100, 127, 200, 255, 256, 300])
@pytest.mark.parametrize("kind", ["spread", "ties"])
def test_mode_is_the_top_k_for_every_k(n, dtype, kind):
    values = torch.randn(n + 1, n, dtype=dtype)
    if kind == "ties":
        values = (2 * values).round()  # -0 among them
    k = torch.arange(n + 1)
    hot = forward(values, k, 1, None, 0.0)[0]
    assert torch.equal(hot.bool(), reference.top_k(values, k))
    for row in range(n + 1):
        largest = values[row].topk(row).values.sort().values
        assert torch.equal(values[row][hot[row].bool()].sort().values, largest)


def rows_of_trouble(n: int, dtype: torch.dtype) -> Tensor:
    """Rows on which a search by interpolation, or a sample of the row, is of no help."""
    ramp = torch.linspace(-3, 3, n, dtype=dtype)
    largest = torch.finfo(dtype).max
    alternating = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).to(dtype)
    rows = [
        ramp,
        ramp.flip(0),
        torch.zeros(n, dtype=dtype),
        0.0 * alternating,
        alternating,
        alternating * largest,
        torch.where(torch.arange(n) < n // 3, 5.0, ramp),
        (40 * ramp).exp(),
        -(40 * ramp).exp(),
        torch.randn(n, dtype=dtype) * torch.finfo(dtype).tiny / 8,
        torch.randn(n, dtype=dtype) / torch.randn(n, dtype=dtype).abs() ** 8,
        torch.where(torch.arange(n) == n - 1, largest, ramp),
        torch.where(torch.rand(n) < 0.3, -INF, ramp),
        torch.where(torch.rand(n) < 0.9, -INF, torch.randn(n, dtype=dtype)),
        torch.where(torch.arange(n) == n // 2, INF, alternating),
        torch.where(torch.rand(n) < 0.2, -INF, alternating).index_fill(0, torch.tensor([0]), INF),
    ]
    return torch.stack([row.to(dtype) for row in rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [5, 31, 33, 100, 1000, 1025, 8191, 20_000])
def test_rows_of_trouble(n, dtype):
    rows = rows_of_trouble(n, dtype)
    for k in sorted({1, 2, 16, n // 10, n // 3, n // 2, n - 1} & set(range(n))):
        hot = forward(rows, k, 1, None, 0.0)[0]
        possible = ((rows > -INF).sum(-1) >= k) & ((rows == INF).sum(-1) <= k)
        assert torch.equal(hot[possible].bool(), reference.top_k(rows, k)[possible]), k
        assert hot[~possible].isnan().all()


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("batch", "n", "k", "samples"),
    [
        ((), 1, 1, 3),
        ((), 10, 5, 200),
        ((300,), 4, 2, 5),
        ((40, 3), 17, 8, 3),
        ((100,), 33, 1, 2),
        ((31,), 100, 10, 7),
        ((16,), 1024, 16, 4),
        ((3,), 1500, 700, 2),
        ((2,), 20_000, 300, 2),
        ((1,), 40_000, 15_000, 1),
    ],
)
def test_subsets_are_the_largest_perturbed_logits(batch, n, k, samples, law, dtype):
    logits = torch.randn(*batch, n).to(dtype)
    theta = logits.to(compute_dtype(dtype))
    noise = noise_like(logits, samples, law)
    for temperature in (0.0, 0.1, 1.0, 10.0):
        chosen = subsets(theta, theta + temperature * noise, k)
        hot = forward(logits, k, samples, law, temperature)
        assert hot.dtype == dtype
        assert torch.equal(hot, chosen.to(dtype))
        indices = OPS.perturbed_topk_indices(
            logits, k, samples, table(law, dtype), temperature, SEED
        )
        assert indices.shape == (samples, *batch, k)
        assert torch.equal(indices, chosen.nonzero()[:, -1].reshape(indices.shape))


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])
@pytest.mark.parametrize("law", LAWS)
def test_reference_chooses_the_same_subsets(law, dtype):
    rows = differing = 0
    for n, k, samples in [(4, 2, 100), (20, 10, 30), (100, 7, 10), (1000, 20, 2)]:
        logits = torch.randn(50, n).to(dtype)
        for temperature in (0.1, 1.0, 10.0):
            got = forward(logits, k, samples, law, temperature)
            want = reference.perturbed_topk(
                logits, k, samples, table(law, dtype), temperature, SEED
            )
            differing += int((got != want).any(-1).sum())
            rows += samples * 50
    assert differing <= 1e-4 * rows


def test_each_row_has_its_own_k():
    logits = torch.randn(3, 200, 50)
    k = torch.randint(0, 51, (3, 200))
    noise = noise_like(logits, 4, None)
    hot = forward(logits, k, 4, None, 1.0)
    assert torch.equal(hot.bool(), subsets(logits, logits + noise, k.expand(4, 3, 200)))


def bad_rows(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, k, and whether the row has a k-subset."""
    largest = torch.finfo(dtype).max
    rows = [
        ([1.0, 2.0, 3.0, 4.0], 2, True),
        ([1.0, NAN, 3.0, 4.0], 2, False),
        ([1.0, NAN, 3.0, 4.0], 0, False),
        ([-INF, -INF, 3.0, 4.0], 2, True),
        ([-INF, -INF, -INF, 4.0], 2, False),
        ([INF, INF, 3.0, 4.0], 2, True),
        ([INF, INF, 3.0, -INF], 3, True),
        ([INF, INF, INF, 4.0], 2, False),
        ([INF, 0.0, 0.0, 0.0], 0, False),
        ([-INF, -INF, -INF, -INF], 0, True),
        ([-INF, -INF, -INF, -INF], 1, False),
        ([INF, INF, INF, INF], 4, True),
        ([1.0, 2.0, 3.0, 4.0], 4, True),
        ([1.0, 2.0, 3.0, 4.0], 0, True),
        ([1.0, 2.0, 3.0, 4.0], 5, False),
        ([1.0, 2.0, 3.0, 4.0], -1, False),
        ([largest, -largest, 0.0, 1.0], 1, True),
    ]
    logits, k, valid = zip(*rows, strict=True)
    return torch.tensor(logits, dtype=dtype), torch.tensor(k), torch.tensor(valid)


@pytest.mark.parametrize("padding", [0, 37, 1100, 9000])
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])
def test_a_bad_row_is_nan_alone(dtype, padding):
    logits, k, valid = bad_rows(dtype)
    logits = torch.cat([torch.full((len(k), padding), -INF, dtype=dtype), logits], -1)
    for temperature in (0.0, 0.5):
        hot = OPS.perturbed_topk(logits, 5, k, 3, None, temperature, SEED)
        assert torch.equal(hot.isnan().all(-1), ~valid.expand(3, -1))
        assert torch.equal(hot[:, valid].sum(-1), k[valid].to(dtype).expand(3, -1))
        assert (hot[:, valid][:, :, :padding] == 0).all()
        for row in range(len(k)):
            if not 0 <= k[row] <= logits.shape[-1]:
                continue
            indices = OPS.perturbed_topk_indices(
                logits[row], int(k[row]), 2, None, temperature, SEED
            )
            assert bool((indices >= 0).all()) or not valid[row]
            assert bool((indices == -1).all()) or valid[row]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_perturbed_value_that_overflows_spoils_its_row(dtype):
    logits = torch.randn(3, 100, dtype=dtype)
    logits[1, 5] = torch.finfo(dtype).max
    logits[1, 6] = -torch.finfo(dtype).max
    hot = forward(logits, 3, 2, None, torch.finfo(dtype).max / 16)
    assert torch.equal(hot.isnan().all(-1).any(0), torch.tensor([False, True, False]))


def test_empty_shapes():
    for shape, k, samples in [((0, 5), 2, 3), ((4, 5), 2, 0), ((4, 0), 0, 2), ((0,), 0, 2)]:
        logits = torch.empty(shape)
        assert OPS.perturbed_topk(logits, k, None, samples, None, 1.0, SEED).shape == (
            samples,
            *shape,
        )
        indices = OPS.perturbed_topk_indices(logits, k, samples, None, 1.0, SEED)
        assert indices.shape == (samples, *shape[:-1], k)
        difference, nonzeros = OPS.perturbed_topk_difference(
            logits,
            torch.empty(samples, *shape),
            k,
            None,
            None,
            torch.tensor(1.0),
            1.0,
            1.0,
            1.0,
            1.0,
            False,
            SEED,
        )
        assert torch.equal(difference, torch.zeros(shape))
        assert torch.equal(nonzeros, torch.zeros(shape[:-1], dtype=torch.int64))
    assert OPS.perturbation_noise(0, 5, None, SEED, torch.float32).shape == (0, 5)
    assert OPS.perturbation_noise(5, 0, None, SEED, torch.float64).shape == (5, 0)


def test_logits_of_any_strides():
    logits = torch.randn(50, 6, 20)
    moved = logits.permute(2, 1, 0)
    got = forward(moved, 7, 3, None, 1.0)
    assert torch.equal(got, forward(moved.contiguous(), 7, 3, None, 1.0))
    row = torch.randn(50)
    assert torch.equal(
        forward(row.expand(9, 50), 7, 3, None, 1.0),
        forward(row.repeat(9, 1), 7, 3, None, 1.0),
    )


# ---- difference --------------------------------------------------------------------------------


def difference_by_steps(
    logits: Tensor,
    grad: Tensor,
    k: int | Tensor,
    law: str | None,
    step: Tensor,
    scales: tuple[float, float, float, float],
    symmetric: bool,
) -> tuple[Tensor, Tensor]:
    """Given the noise, one selection after the other."""
    theta = logits.to(compute_dtype(logits.dtype))
    noise = noise_like(logits, grad.shape[0], law)
    left_alpha, left_temperature, right_alpha, right_temperature = scales
    move = step.to(theta.dtype).expand(theta.shape[:-1]).unsqueeze(-1) * grad.to(theta.dtype)
    left = left_alpha * theta + left_temperature * noise
    left = left + move if symmetric else left
    right = (right_alpha * theta - move) + right_temperature * noise
    difference = subsets(theta, left, k).int() - subsets(theta, right, k).int()
    mean = difference.sum(0).to(theta.dtype) / (grad.shape[0] * (2 if symmetric else 1))
    return mean, (difference != 0).sum((0, -1))


def difference(
    logits: Tensor,
    grad: Tensor,
    k: int | Tensor,
    law: str | None,
    step: Tensor,
    scales: tuple[float, float, float, float],
    symmetric: bool,
) -> tuple[Tensor, Tensor]:
    bound, row_k = as_row_k(k)
    return OPS.perturbed_topk_difference(
        logits, grad, bound, row_k, table(law, logits.dtype), step, *scales, symmetric, SEED
    )


DIFFERENCES = [
    ((), 10, 5, 200),
    ((), 1, 1, 3),
    ((300,), 4, 2, 5),
    ((2,), 7, 3, 1000),
    ((40, 3), 33, 8, 3),
    ((16,), 1024, 16, 4),
    ((3,), 1500, 700, 2),
    ((1,), 34_000, 300, 2),
]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES])
@pytest.mark.parametrize(("batch", "n", "k", "samples"), DIFFERENCES)
def test_difference_is_that_of_two_selections(batch, n, k, samples, dtype, law, symmetric):
    logits = torch.randn(*batch, n).to(dtype)
    grad = torch.randn(samples, *batch, n).to(dtype)
    for step, scales in (
        (torch.tensor(0.7), (1.0, 1.0, 1.0, 1.0)),
        (torch.randn(batch), (1.0, 0.0, 1.5, 2.0)),
        (torch.tensor(-3.0), (-0.5, 0.3, 0.0, 0.0)),
    ):
        arguments = (logits, grad, k, law, step, scales, symmetric)
        got, nonzeros = difference(*arguments)
        want, count = difference_by_steps(*arguments)
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
        assert torch.equal(nonzeros, count)


def test_left_side_is_the_forward_sample():
    logits, grad = torch.randn(20, 100), torch.randn(30, 20, 100)
    hot = forward(logits, 9, 30, None, 0.8)
    # The right side alone chooses by its logits: the mode, whatever the sample.
    mean, _ = difference(
        logits, grad, 9, None, torch.tensor(0.0), (1.0, 0.8, 1.0, 0.0), symmetric=False
    )
    mode = forward(logits, 9, 1, None, 0.0)[0]
    assert torch.equal(mean, (hot - mode).sum(0) / 30)


def test_difference_of_rows_with_their_own_k():
    logits, grad, k = torch.randn(90, 40), torch.randn(3, 90, 40), torch.randint(0, 41, (90,))
    arguments = (logits, grad, k, None, torch.tensor(2.0), (1.0, 1.0, 1.0, 1.0), True)
    for got, want in zip(difference(*arguments), difference_by_steps(*arguments), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("batch", [(1,), (50,)])
@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.float64, *HALVES])
def test_grad_of_any_strides_and_dtype(grad_dtype, batch):
    n, samples = 60, 4
    logits = torch.randn(3, *batch, n)
    whole = torch.randn(samples, 3, *batch, n).to(grad_dtype)
    backwards = tuple(reversed(range(whole.dim())))
    grads = {
        "contiguous": whole,
        "transposed": whole.permute(backwards).contiguous().permute(backwards),
        "one number": whole[:1, :1, :1, :1].expand(whole.shape),
        "one sample": whole[:1].expand(whole.shape),
        "every other item": torch.stack([whole, whole], -1).flatten(-2)[..., ::2],
    }
    for name, grad in grads.items():
        arguments = (logits, grad, 9, None, torch.tensor(0.5), (1.0, 1.0, 1.0, 1.0), False)
        for got, want in zip(difference(*arguments), difference_by_steps(*arguments), strict=True):
            assert torch.equal(got, want), name


@pytest.mark.parametrize("rows", [1, 12])
@pytest.mark.parametrize("n", [6, 40, 1200])
def test_a_bad_row_of_the_difference_is_nan_alone(n, rows):
    logits = torch.randn(rows + 4, n)
    grad = torch.randn(5, rows + 4, n)
    logits[rows, 0] = NAN
    logits[rows + 1, 0], grad[:, rows + 1, 0] = INF, NAN  # the logit settles it: valid
    grad[3, rows + 2, n - 1] = NAN
    grad[4, rows + 3, 0] = INF
    k = torch.full((rows + 4,), 2)
    for symmetric in (False, True):
        arguments = (k, None, torch.tensor(0.5), (1.0, 1.0, 1.0, 1.0), symmetric)
        got, nonzeros = difference(logits, grad, *arguments)
        bad = torch.zeros(rows + 4, dtype=torch.bool)
        bad[[rows, rows + 2, rows + 3]] = True
        assert torch.equal(got.isnan().all(-1), bad)
        assert torch.equal(got.isnan().any(-1), bad)
        assert (nonzeros[bad] == 0).all()
        want, count = difference_by_steps(logits, grad, *arguments)
        assert torch.equal(got[~bad], want[~bad])
        assert torch.equal(nonzeros[~bad], count[~bad])
        # Alone, where its samples are what the threads share.
        alone, none = difference(
            logits[-1], grad[:, -1], 2, None, torch.tensor(0.5), (1.0, 1.0, 1.0, 1.0), symmetric
        )
        assert alone.isnan().all()
        assert int(none) == 0


# ---- threads, derivatives, errors --------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "n", "k", "samples"),
    [((100,), 20, 5, 6), ((1,), 50, 5, 300), ((1,), 200_000, 1000, 1), ((2,), 100_000, 9, 3)],
)
def test_results_do_not_depend_on_threads(batch, n, k, samples):
    logits, grad = torch.randn(*batch, n), torch.randn(samples, *batch, n)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (
                    OPS.perturbation_noise(samples, n, None, SEED, torch.float32),
                    forward(logits, k, samples, None, 1.0),
                    *difference(
                        logits, grad, k, None, torch.tensor(0.5), (1.0, 1.0, 1.0, 1.0), True
                    ),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert torch.equal(got, want)


def test_samples_carry_no_gradient():
    logits = torch.randn(3, 10, requires_grad=True)
    assert not OPS.perturbed_topk(logits, 2, None, 3, None, 1.0, SEED).requires_grad
    assert not OPS.perturbed_topk_indices(logits, 2, 3, None, 1.0, SEED).requires_grad


def test_difference_has_no_second_derivative():
    logits, grad = torch.randn(3, 10, requires_grad=True), torch.randn(4, 3, 10)
    mean, nonzeros = difference(
        logits, grad, 2, None, torch.tensor(1.0), (1.0, 1.0, 1.0, 1.0), symmetric=False
    )
    assert mean.requires_grad
    assert not nonzeros.requires_grad
    with pytest.raises(NotImplementedError, match="piecewise constant"):
        mean.sum().backward()


def test_errors():
    logits, grad, step = torch.randn(3, 10), torch.randn(4, 3, 10), torch.tensor(1.0)
    ones = (1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"temperature must be finite and at least 0, got -1"):
        forward(logits, 2, 3, None, -1.0)
    with pytest.raises(ValueError, match=r"quantiles must be .* \[881, 4\], got .* \[880, 4\]"):
        OPS.perturbed_topk(logits, 2, None, 3, torch.zeros(880, 4), 1.0, SEED)
    with pytest.raises(ValueError, match="quantiles must be"):
        OPS.perturbed_topk(logits.double(), 2, None, 3, table("normal", torch.float32), 1.0, SEED)
    with pytest.raises(ValueError, match="k must be at most the number of items 10, got 11"):
        OPS.perturbed_topk_indices(logits, 11, 3, None, 1.0, SEED)
    with pytest.raises(ValueError, match="seed must be an int64 tensor with one element"):
        OPS.perturbed_topk(logits, 2, None, 3, None, 1.0, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"grad must be of shape \[samples, \*logits.shape\]"):
        difference(logits, grad[:, :, :9], 2, None, step, ones, False)
    with pytest.raises(TypeError, match="grad must be a floating-point tensor"):
        difference(logits, grad.long(), 2, None, step, ones, False)
    with pytest.raises(ValueError, match="step must be one number or have the batch shape"):
        difference(logits, grad, 2, None, torch.ones(4), ones, False)
    with pytest.raises(ValueError, match="right_temperature must be finite and at least 0"):
        difference(logits, grad, 2, None, step, (1.0, 1.0, 1.0, -0.5), False)
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        OPS.perturbation_noise(2, 3, None, SEED, torch.float16)
