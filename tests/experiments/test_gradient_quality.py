# SPDX-License-Identifier: Apache-2.0
"""The gradients' quality: the papers' figures, exact gradients, and what the run writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from scipy import stats

import discrete_grad as dg
from experiments import __main__ as command
from experiments.gradient_quality import EXPERIMENT, grid, measure, problems, scale, synthetic, toy
from experiments.gradient_quality.enumeration import EXPECTATIONS, Law, expectation
from experiments.gradient_quality.estimation import adapted, configured, estimate
from experiments.gradient_quality.published import published


class Context:
    """What a task's function is given, without a session."""

    device = torch.device("cpu")
    steps = 0

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


def sampled(key: str, repeats: int) -> dict[str, list[float]]:
    row = next(row for row in toy.ROWS if row.key == key)
    settings = {"row": key, "setting": toy.plain(row), "seeds": toy.SEEDS, "repeats": repeats}
    return toy.sample_row(settings, Context())


def enumerated(name: str) -> list[float]:
    settings = {"estimator": name, "seeds": toy.SEEDS, "step": toy.STEP}
    return toy.enumerate_bias(settings, Context())


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("straight_through", 0.18968, 0.05879),
        ("simple_f", 0.28995, 0.16473),
        ("simple", 0.03684, 0.02054),
    ],
)
def test_the_enumerated_bias_is_that_of_the_published_estimators(
    name: str, mean: float, deviation: float
) -> None:
    biases = enumerated(name)
    assert fmean(biases) == pytest.approx(mean, abs=5e-6)
    assert stdev(biases) == pytest.approx(deviation, abs=5e-6)
    assert fmean(biases) == pytest.approx(published()["toy"]["enumerated"][name], abs=6e-5)


def test_the_enumerated_bias_of_simple_is_published_for_each_seed() -> None:
    expected = [0.0380, 0.0199, 0.0122, 0.0517, 0.0526, 0.0145, 0.0328, 0.0210, 0.0503, 0.0754]
    assert enumerated("simple") == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize("name", toy.UNBIASED)
def test_the_enumerated_bias_of_unbiased_estimators_is_zero(name: str) -> None:
    assert max(map(abs, enumerated(name))) < 1e-12


@pytest.mark.parametrize("row", [row for row in toy.ROWS if row.estimator in EXPECTATIONS])
def test_the_library_estimates_have_the_enumerated_mean(row: toy.Row) -> None:
    """Hotelling's test at two seeds: of the library's code against the formulas' sums."""
    total = freedom = 0.0
    for seed in toy.SEEDS[:2]:
        theta, loss = problems.published(seed, toy.N)
        mean = expectation(row.estimator, Law.of(theta, toy.K, loss), toy.STEP)
        estimates = toy.sample(row, theta, loss, 1000, seed, torch.device("cpu"))
        statistic, free = measure.chi_square(estimates, mean)
        total, freedom = total + statistic, freedom + free
    assert 1e-4 < stats.chi2.sf(total, freedom) < 1 - 1e-4


@pytest.mark.parametrize("row", [row for row in toy.ROWS if row.published], ids=lambda row: row.key)
def test_the_sampled_measures_are_the_published_ones(row: toy.Row) -> None:
    """Means over the ten seeds, within the sampling error of both."""
    repeats = 500
    ours, theirs = sampled(row.key, repeats), published()["toy"]["rows"][row.published]
    # Of the difference of two means over the ten seeds.
    spread = fmean(value**2 for value in ours["error_std"]) / 10
    error = math.sqrt(spread * (1 / repeats + 1 / published()["toy"]["repeats"]))
    assert abs(fmean(ours["error"]) - theirs["error"]) <= 4 * error + 1e-12
    # A bias is off by chance in its tangent direction: by at most sqrt(8 noise bias) or so.
    noise, bias = fmean(ours["bias_noise"]), theirs["bias"]
    assert abs(fmean(ours["bias"]) - bias) <= 2 * noise + 4 * math.sqrt(noise * bias / 10) + 1e-4
    assert fmean(ours["variance"]) == pytest.approx(theirs["variance"], rel=0.2, abs=1e-4)


@pytest.mark.parametrize("name", toy.UNBIASED)
def test_the_sampled_bias_of_unbiased_estimators_is_noise(name: str) -> None:
    key = next(row.key for row in toy.ROWS if row.estimator == name)
    found = sampled(key, 1000)
    assert 0.5 < fmean(found["bias"]) / fmean(found["bias_noise"]) < 2
    assert 1e-4 < stats.chi2.sf(sum(found["chi_square"]), sum(found["freedom"])) < 1 - 1e-4


def test_the_bias_of_straight_through_is_more_than_noise() -> None:
    found = sampled("straight_through/S-1", 1000)
    assert fmean(found["bias"]) > 10 * fmean(found["bias_noise"])


def test_quality_against_its_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    estimates = torch.randn(500, 6, generator=generator, dtype=torch.float64) + 1
    estimates[0] = 0
    exact = torch.randn(6, generator=generator, dtype=torch.float64)
    similarity = torch.nn.functional.cosine_similarity
    found = measure.quality(estimates, exact)
    mean = estimates.mean(0)
    errors = 1 - similarity(estimates, exact, dim=-1)
    assert found["bias"] == pytest.approx(1 - similarity(mean, exact, dim=0).item(), rel=1e-5)
    assert found["error"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert found["error_std"] == pytest.approx(errors.std().item(), rel=1e-5)
    cosines = similarity(estimates, mean, dim=-1)
    assert found["variance"] == pytest.approx(cosines.var().item(), rel=1e-5)
    unit = exact / exact.norm()
    across = torch.eye(6, dtype=torch.float64) - torch.outer(unit, unit)
    noise = torch.trace(across @ estimates.T.cov()) / 1000 / exact.square().sum()
    assert found["bias_noise"] == pytest.approx(noise.item(), rel=1e-4)


@pytest.mark.parametrize(("n", "k"), [(10, 5), (8, 3), (7, 1), (6, 6)])
@pytest.mark.parametrize("loss", ["distance", "least squares"])
def test_exact_gradients_against_enumeration(n: int, k: int, loss: str) -> None:
    theta, fn = problems.large(loss, 3, n, k)
    theta, fn = theta.double(), fn.to(torch.float64)
    leaf = theta.clone().requires_grad_()
    dg.estimators.get("exact")(leaf, k, fn, 1).backward()
    torch.testing.assert_close(fn.gradient(theta, k), leaf.grad, rtol=1e-9, atol=1e-10)


def test_exact_gradients_of_many_rows() -> None:
    theta = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = problems.Distance(theta.flip(0).abs())
    rows = [problems.Distance(b).gradient(t, 4) for t, b in zip(theta, loss.offset, strict=True)]
    torch.testing.assert_close(loss.gradient(theta, 4), torch.stack(rows))


def test_published_problems_are_the_papers() -> None:
    theta, loss = problems.published(0, 10)
    assert theta[:2].tolist() == pytest.approx([1.764052345967664, 0.4001572083672233], abs=1e-15)
    assert loss.offset[0].item() == pytest.approx(0.144043571160878, abs=1e-7)
    with pytest.raises(ValueError, match="got 'other'"):
        problems.large("other", 0, 10, 5)


@pytest.mark.parametrize("name", ["aimle", "aimle_central"])
def test_an_adapted_step_is_that_of_one_row(name: str) -> None:
    """Frozen, with lambda per row: the same estimates as of rows one by one."""
    theta, loss = problems.published(0, synthetic.N)
    generator = torch.Generator().manual_seed(0)
    estimator = adapted(name, theta, 5, loss, 10, 30, generator, noise="gumbel", **synthetic.RULE)
    target = estimator.options["target"]
    assert target.beta.item() == pytest.approx(0.03, abs=1e-9)
    # Another row, with a tenth of the lambda, must not change that of the first.
    rows = torch.stack([theta, theta / 10]).expand(300, 2, 10)
    among = estimate(estimator, rows, 5, loss, 10, generator)[:, 0]
    alone = torch.stack([estimate(estimator, theta, 5, loss, 10, generator) for _ in range(300)])
    assert target.beta.item() == pytest.approx(0.03, abs=1e-9)
    shares = [(one != 0).double().mean().item() for one in (among, alone)]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)
    sizes = [one[one != 0].abs().mean().item() for one in (among, alone)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def cell(**place: object) -> dict[str, object]:
    cells = published()["synthetic"]["cells"]
    (found,) = (one for one in cells if place.items() <= one.items())
    return found


@pytest.mark.parametrize(
    ("place", "repeats"),
    [
        ({"estimator": "imle", "lambda": 0.25, "samples": 10}, 16),
        ({"estimator": "imle", "lambda": 2.0, "samples": 100}, 8),
        ({"estimator": "imle_central", "lambda": 1.0, "samples": 10}, 16),
        ({"estimator": "imle_central", "lambda": 100.0, "samples": 1}, 16),
        ({"estimator": "aimle", "passes": 100, "samples": 10}, 16),
        ({"estimator": "aimle_central", "passes": 100, "samples": 100}, 8),
    ],
    ids=str,
)
def test_cells_of_the_published_table(place: dict[str, object], repeats: int) -> None:
    """All 64 seeds, within three standard errors: one cell in 400 is outside by chance."""
    settings = {**place, "seeds": list(range(64)), "repeats": repeats}
    measured = dict(settings)
    if "passes" in place:
        # 5 passes with 20 times the step: as far as the 100 passes go.
        step = 20 * synthetic.RULE["beta_update_step"]
        measured |= {"passes": 5, "rule": {**synthetic.RULE, "beta_update_step": step}}
    found = synthetic._cell(settings, synthetic.measure_cell(measured, Context()))
    assert abs(found["published"]["cosine_distance"]) < 3
    assert abs(found["published"]["sparsity_distance"]) < 3
    assert found["cosine"] == pytest.approx(cell(**place)["cosine"], abs=0.1)
    if "passes" in place:
        assert found["beta_reached"] == pytest.approx(cell(**place)["beta"], abs=2e-3)


def test_distances_in_standard_errors() -> None:
    """Of the mean of one value per seed: two seeds, whose values have the deviations 0.3, 0.4."""
    found = {"cosine": [[0.4, 0.09], [0.6, 0.16], [9.0, 9.0]], "sparsity": [[0.0, 0.0]] * 3}
    over = synthetic._over_seeds(found, 2)
    assert over["cosine"] == pytest.approx(0.5)
    assert over["cosine_std"] == pytest.approx(math.sqrt(0.02 + 0.125), abs=1e-4)
    assert over["cosine_error"] == pytest.approx(0.25, abs=1e-5)
    assert synthetic._distance(1.0, over, "cosine", 3) == pytest.approx(1.73, abs=5e-3)
    assert synthetic._distance(0.0, over, "sparsity", 3) == 0


def test_the_typical_step_against_the_steps_taken() -> None:
    theta, loss = problems.published(1, synthetic.N)
    draws = dg.subset.sample(theta, 5, 20_000, generator=torch.Generator().manual_seed(0))
    mean_square = (2 * (draws - loss.offset)).square().sum(-1).mean()
    expected = 0.3 * theta.norm() / mean_square.sqrt()
    assert synthetic._typical_step(0.3, theta, loss) == pytest.approx(expected.item(), rel=0.01)


def test_tuning_has_the_same_number_of_cells_for_each() -> None:
    assert {len(cells) for cells in grid.CELLS.values()} == {10}
    assert set(grid.CELLS) <= set(scale.NAMES)
    assert not set(grid.SEEDS) & set(range(synthetic.SEEDS))


def test_tuning_finds_the_better_cell() -> None:
    settings = {
        "n": 200,
        "k": 20,
        "loss": "distance",
        "estimator": "imle_central",
        "aimle": {},
        "cells": [{"noise": "gumbel", "lambda": 1}, {"noise": "gumbel", "lambda": 1e-4}],
        "seeds": [1000],
        "samples": 16,
        "repeats": 4,
    }
    good, bad = scale.tune(settings, Context())
    assert good < 0.5 < bad


@pytest.mark.parametrize("name", ["simple_second_order", "simple_unbiased"])
def test_unbiased_estimators_come_to_the_exact_gradient_at_scale(name: str) -> None:
    theta, loss = problems.large("least squares", 0, 1000, 100)
    exact = loss.to(torch.float64).gradient(theta.double(), 100)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for samples in (64, 4096):
        found = estimate(configured(name), theta, 100, loss, samples, generator)
        errors.append(((found - exact).norm() / exact.norm()).item())
    # 64 times the draws: an eighth of the distance.
    assert 5 < errors[0] / errors[1] < 13


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    threads = torch.get_num_threads()
    command.main(["gradient-quality", "--quick", "--output", str(folder)])
    torch.set_num_threads(threads)
    return folder


def test_a_quick_run_writes_all_tables_and_figures(quick: Path) -> None:
    results = json.loads((quick / "record.json").read_text())["results"]
    names = set(EXPERIMENT.tables(results))
    assert {"toy", "toy-draws", "synthetic-fixed", "synthetic-adaptive", "scale-tuning"} <= names
    assert {f"scale-{n}-distance" for n in scale.SIZES} <= names
    for key in ("toy", "synthetic", "draws", "time"):
        assert (quick / f"gradient-quality-{key}.png").read_bytes().startswith(b"\x89PNG")
    assert [row["estimator"] for row in results["toy"]["rows"]] == [r.estimator for r in toy.ROWS]
    # Compared with the published cells at all seeds only.
    assert not any("published" in one for one in results["synthetic"]["cells"])


def test_one_estimator_alone(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    command.main(
        ["gradient-quality", "--quick", "--estimator", "simple", "--output", str(tmp_path)]
    )
    torch.set_num_threads(threads)
    results = json.loads((tmp_path / "record.json").read_text())["results"]
    assert {row["estimator"] for row in results["toy"]["rows"]} == {"simple"}
    assert results["synthetic"]["cells"] == []
    assert {curve["estimator"] for curve in results["scale"]["curves"]} == {"simple"}
