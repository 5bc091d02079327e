# SPDX-License-Identifier: Apache-2.0
"""Sparse regression: the simulation, the columns, the losses, the baselines, one quick run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

import discrete_grad as dg
from experiments import __main__ as command
from experiments.errors import DataError
from experiments.session import Context
from experiments.sparse_regression import (
    candidates,
    equation,
    learning,
    wide_baselines,
    wide_learning,
    wide_problem,
)
from experiments.sparse_regression.candidates import SUPPORT, TERMS, TRUTH
from experiments.sparse_regression.kuramoto_sivashinsky import Field, load, simulate
from experiments.sparse_regression.statistics import RIDGE, Statistics


@pytest.fixture(scope="module")
def field() -> Field:
    return simulate()


# The simulation


def test_the_field_has_the_published_size_and_keeps_its_mean(field: Field) -> None:
    assert field.u.shape == (1024, 251)
    np.testing.assert_allclose([field.x[-1], field.t[-1]], [32 * np.pi, 100.0], rtol=1e-12)
    np.testing.assert_allclose(field.u.mean(0), 0.0, atol=1e-13)
    # It neither decays nor blows up: on the attractor the root of the mean square is about 1.3.
    assert 1.0 < field.u[:, -50:].std() < 1.6


def test_the_error_falls_with_the_fourth_power_of_the_step() -> None:
    options: dict[str, Any] = {"points": 128, "duration": 10.0}
    exact = simulate(step=0.4 / 256, **options).u[:, -1]
    errors = [
        np.abs(simulate(step=step, **options).u[:, -1] - exact).max()
        for step in (0.05, 0.025, 0.0125)
    ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 3.4).all(), orders
    assert orders[-1] > 3.7, orders


@pytest.mark.parametrize("waves", [3, 11, 18])
def test_a_small_wave_grows_at_its_linear_rate(waves: int) -> None:
    points = 128
    q = waves / 16
    start = 1e-9 * np.cos(2 * np.pi * waves * np.arange(1, points + 1) / points)
    u = simulate(start, points=points, duration=2.0).u
    rate = np.log(np.linalg.norm(u[:, -1]) / np.linalg.norm(start)) / 2.0
    assert rate == pytest.approx(q**2 - q**4, rel=1e-6)


def test_a_moving_observer_sees_the_same_field() -> None:
    """u(x - c t, t) + c solves the equation if u does."""
    points, speed = 256, 3 * np.pi
    x = 32 * np.pi * np.arange(1, points + 1) / points
    start = np.cos(x / 16) + 0.3 * np.sin(x / 4)
    # In these 2/3 of a time unit the observer moves by 2 pi, 16 points.
    options: dict[str, Any] = {"points": points, "duration": 2 / 3, "every": 2 / 3, "step": 1 / 960}
    still, moving = (simulate(start + c, **options).u[:, -1] for c in (0.0, speed))
    np.testing.assert_allclose(moving, np.roll(still, 16) + speed, atol=1e-9)


def test_the_stored_times_must_fit_the_step() -> None:
    with pytest.raises(ValueError, match=r"every must be a multiple of step = 0.3"):
        simulate(step=0.3)


# The file of the published code


def write(path: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "uu": np.random.default_rng(0).normal(size=(128, 64)),
        "x": np.arange(1.0, 129.0)[:, None],
        "tt": 0.4 * np.arange(64.0)[None],
    }
    content.update(changes)
    savemat(path, {name: value for name, value in content.items() if value is not None})
    return path


def test_a_field_is_read_from_its_file(tmp_path: Path) -> None:
    read = load(write(tmp_path / "ks.mat"))
    assert read.u.shape == (128, 64)
    np.testing.assert_array_equal(read.x, np.arange(1.0, 129.0))
    np.testing.assert_array_equal(read.t, 0.4 * np.arange(64.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tt": None}, r"has no tt; expected uu, x and tt, found \['uu', 'x'\]"),
        ({"uu": np.zeros((64, 128))}, r"uu must be \[x, tt\] = \[128, 64\]"),
        ({"x": np.arange(128.0) ** 2}, "x must rise in equal steps"),
        ({"uu": np.full((128, 64), np.nan)}, "not finite"),
        ({"uu": "text"}, "must be real numbers"),
        ({"x": 2 * np.arange(128.0)}, "x must have steps of at most 1"),
        ({"uu": np.ones((128, 64)) * np.arange(64)}, "uu must vary in x and in tt"),
        ({"uu": np.zeros((128, 9)), "tt": np.arange(9.0)}, "tt has 9 points, at least 64"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    path = write(tmp_path / "ks.mat", **changes)
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ks.mat"
    for content, message in ((None, "there is no such file"), (b"text" * 99, "not a readable")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SystemExit, match=message) as error:
            command.main(["sparse-regression", "--data", str(path), "--output", str(tmp_path)])
        assert str(path) in str(error.value)


# Columns


def test_the_library_has_the_published_terms() -> None:
    assert len(set(TERMS)) == 14
    assert [TERMS[j] for j in SUPPORT] == list(TRUTH)


@pytest.mark.parametrize("columns", candidates.COLUMNS)
def test_the_columns_of_a_travelling_wave(columns: str) -> None:
    """u = cos(q x - w t): u_t is -w / q u_x, and each term is known."""
    q, w = 0.5, 0.02
    x, t = 32 * np.pi * np.arange(1, 4097) / 4096, 0.1 * np.arange(200)
    phase = q * x[:, None] - w * t
    u, u_x = np.cos(phase), -q * np.sin(phase)
    derivatives = (u_x, -(q**2) * u, -(q**2) * u_x, q**4 * u)
    exact = [u, u**2, *derivatives, *(f * d for d in derivatives for f in (u, u**2))]
    found, u_t = candidates.COLUMNS[columns](Field(x, t, u))
    assert len(found) == 14
    if columns == "weak":
        # The same average of the exact terms, by a plain sum over the window of one point.
        i, j = 1000, 60
        h_x, h_t = 4.0 / (x[1] - x[0]), 4.4 / 0.1
        a, b = np.arange(-int(h_x), int(h_x) + 1), np.arange(-int(h_t), int(h_t) + 1)
        bump = np.outer(
            np.clip(1 - (a / h_x) ** 2, 0, 1) ** 8, np.clip(1 - (b / h_t) ** 2, 0, 1) ** 8
        )
        window = np.ix_(i + a, j + b)
        expected = [(bump * term[window]).sum() / bump.sum() for term in exact]
        inside = len(t) - 2 * (int(np.ceil(h_t)) - 1)
        row = i * inside + j - (len(t) - inside) // 2
        np.testing.assert_allclose(found[:, row], expected, atol=1e-9)
        np.testing.assert_allclose(u_t[row], -w / q * expected[2], atol=1e-9)
    else:
        for name, one, expected_one in zip(TERMS, found, exact, strict=True):
            np.testing.assert_allclose(one, expected_one.ravel(), atol=2e-4, err_msg=name)
        np.testing.assert_allclose(u_t, (-w / q * u_x).ravel(), atol=1e-7)


def test_the_band_of_the_signal_ends_where_noise_begins() -> None:
    x = 2 * np.pi * np.arange(256) / 256
    u = np.cos(20 * x)[:, None] * np.ones(300)
    assert candidates.signal_band(u + 1e-3 * np.random.default_rng(0).normal(size=u.shape)) == 21


@pytest.mark.parametrize(
    ("columns", "noise", "tolerance"),
    [("finite", 0.0, 0.01), ("weak", 0.0, 1e-4), ("weak", 0.01, 0.002), ("weak", 0.05, 0.01)],
)
def test_the_equation_is_recovered(
    field: Field, columns: str, noise: float, tolerance: float
) -> None:
    statistics = Statistics.of(*candidates.COLUMNS[columns](field.with_noise(noise, 3)))
    assert statistics.best_subset(3) == SUPPORT == statistics.thresholded(3)
    found = statistics.coefficients(SUPPORT)[list(SUPPORT)]
    np.testing.assert_allclose(found, list(TRUTH.values()), atol=tolerance)


def test_a_field_from_a_file_gives_the_same_statistics(field: Field, tmp_path: Path) -> None:
    path = write(tmp_path / "ks.mat", uu=field.u, x=field.x, tt=field.t)
    settings = {"columns": "weak", "noise": 0.01, "seeds": [4]}
    simulated, read = (
        equation.prepare({**settings, "data": equation.source(data)}, Keeping(1000))
        for data in (None, path)
    )
    assert read == simulated
    before = equation.source(path)
    write(path, uu=2 * field.u, x=field.x, tt=field.t)
    assert equation.source(path) != before


# Few columns: statistics, loss, gradient


def example(seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Statistics]:
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(7, 40)) * rng.uniform(0.1, 10, size=(7, 1))
    target = 2 * columns[1] - columns[4] + rng.normal(size=40)
    return columns, target, Statistics.of(columns, target)


def test_statistics_are_those_of_a_regression_on_the_columns() -> None:
    columns, target, statistics = example()
    for support in ((1,), (4, 0), (1, 4, 6)):
        expected, left, _, _ = np.linalg.lstsq(columns[list(support)].T, target, rcond=None)
        found = statistics.coefficients(support)
        np.testing.assert_allclose(found[list(support)], expected)
        assert np.count_nonzero(found) == len(support)
        assert statistics.residual(support) == pytest.approx(left[0] / (target @ target))
    first = statistics.matching_pursuit(1)
    cosine = np.abs(columns @ target) / np.linalg.norm(columns, axis=1)
    assert first == (int(cosine.argmax()),)
    residuals = {s: statistics.residual(s) for s in itertools.combinations(range(7), 2)}
    assert statistics.best_subset(2) == min(residuals, key=residuals.__getitem__)


def test_the_held_loss_is_that_of_the_ridge_fit_with_its_coefficients_held() -> None:
    columns, target, statistics = example(1)
    unit = columns / np.linalg.norm(columns, axis=1, keepdims=True)
    y = target / np.linalg.norm(target)
    support = [0, 1, 4]
    c = np.linalg.solve(unit[support] @ unit[support].T + RIDGE * np.eye(3), unit[support] @ y)
    z = torch.zeros(7, dtype=torch.float64)
    z[support] = 1
    z.requires_grad_()
    loss = learning.held_loss(
        torch.from_numpy(statistics.gram), torch.from_numpy(statistics.products), z
    )
    assert loss.item() == pytest.approx(((y - c @ unit[support]) ** 2).sum())
    loss.backward()
    expected = np.zeros(7)
    expected[support] = -2 * RIDGE * c**2
    assert z.grad is not None
    np.testing.assert_allclose(z.grad, expected, atol=1e-12)


def test_the_published_gradient_is_a_difference_of_exact_marginals() -> None:
    logits = torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64)
    slope = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    loss, g = learning.gradient(
        learning.PUBLISHED, logits, lambda z: z @ slope, 4000, torch.Generator().manual_seed(0)
    )
    before = dg.subset.marginals(logits, 3)
    torch.testing.assert_close(g, before - dg.subset.marginals(logits - slope, 3))
    assert loss.item() == pytest.approx((before @ slope).item(), abs=0.1)


def test_perturb_and_map_learns_nothing_from_the_held_loss() -> None:
    """Only the chosen columns have a gradient, and it raises them: the MAP state stays."""
    statistics = Statistics.of(*example14())
    gram, products = torch.from_numpy(statistics.gram), torch.from_numpy(statistics.products)
    for name, moves in (("imle", False), (learning.PUBLISHED, True)):
        _, g = learning.gradient(
            name,
            torch.ones(14, dtype=torch.float64),
            lambda z: 100 * learning.held_loss(gram, products, z),
            8,
            torch.Generator().manual_seed(0),
        )
        assert bool(g.abs().max() > 1e-3) == moves


# Many columns: loss, baselines


def test_the_relaxed_loss_is_the_boolean_relaxation() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    y = torch.randn(9, generator=generator, dtype=torch.float64)
    problem = wide_problem.Problem(columns, y, torch.tensor([0]), torch.ones(1))
    ridge = 0.3

    def relaxation(z: torch.Tensor) -> torch.Tensor:
        inverse = torch.linalg.inv(ridge * torch.eye(9) + columns.T * z @ columns)
        return ridge * y @ inverse @ y / (y @ y)

    for support in ([0, 2], [1, 3, 4], [5]):
        z = torch.zeros(6, dtype=torch.float64)
        z[support] = 1
        ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
        loss, expected = wide_learning.relaxed_loss(ours, problem, ridge), relaxation(theirs)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_straight_through_step_is_the_natural_gradient_of_simple() -> None:
    """The Fisher information, the covariance of z, takes it to SIMPLE's gradient."""
    logits = torch.tensor([0.3, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    slope = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    gradients = {}
    for name in ("simple", "straight_through"):
        leaf = logits.clone().requires_grad_()
        dg.estimators.get(name)(leaf, 2, lambda z: z @ slope, 1).backward()
        gradients[name] = leaf.grad
    fisher = dg.subset.covariance(logits, 2)
    torch.testing.assert_close(fisher @ gradients["straight_through"], gradients["simple"])


@pytest.fixture(scope="module")
def problem() -> wide_problem.Problem:
    return wide_problem.make(400, 80, 4, 20.0, 7)


def test_a_wide_problem_is_what_it_says(problem: wide_problem.Problem) -> None:
    torch.testing.assert_close(problem.columns.norm(dim=1), torch.ones(400))
    signal = problem.coefficients @ problem.columns[problem.support]
    noise = problem.target - signal
    assert (signal.norm() / noise.norm()).item() ** 2 == pytest.approx(20, rel=1e-4)
    assert set(problem.coefficients.abs().tolist()) == {1.0}
    right = problem.judge(problem.support.tolist())
    assert (right["recall"], right["precision"]) == (1.0, 1.0)
    assert right["error"] < 0.05
    true = problem.support.tolist()
    wrong = problem.judge([*true[:2], next(j for j in range(400) if j not in true)])
    assert (wrong["recall"], wrong["precision"]) == (0.5, pytest.approx(2 / 3))
    assert wrong["error"] > 0.4
    assert wrong["residual"] > right["residual"]


@pytest.mark.parametrize(
    "method",
    [
        wide_baselines.matching_pursuit,
        wide_baselines.hard_thresholding,
        wide_baselines.hard_thresholding_pursuit,
        lambda problem, k: wide_baselines.lasso(problem, k, 0.2),
    ],
)
def test_the_baselines_solve_what_a_look_at_each_column_does_not(
    method: Callable[[wide_problem.Problem, int], list[int]],
) -> None:
    problem = wide_problem.make(400, 120, 10, 20.0, 1)
    true = problem.support.tolist()
    alone = (problem.columns @ problem.target).abs().topk(10).indices.tolist()
    assert len(set(alone) & set(true)) == 7
    assert sorted(method(problem, 10)) == true


# Training that is interrupted


class Keeping(Context):
    """Saves every time, and is interrupted after so many steps."""

    def __init__(self, after: int) -> None:
        self.device = torch.device("cpu")
        self.left, self.state = after, None

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt

    def save(self, state: Callable[[], Any]) -> None:
        import io

        buffer = io.BytesIO()
        torch.save(state(), buffer)
        self.state = buffer

    def restore(self) -> Any:
        if self.state is None:
            return None
        self.state.seek(0)
        return torch.load(self.state, weights_only=True)


def interrupted(work: Callable[[Context], Any], after: int) -> Any:
    context = Keeping(after)
    with pytest.raises(KeyboardInterrupt):
        work(context)
    context.left = 1000
    return work(context)


@pytest.mark.parametrize("estimator", ["simple", learning.PUBLISHED])
def test_learning_of_terms_goes_on_where_it_was(estimator: str) -> None:
    statistics = Statistics.of(*example14())
    settings = {
        "estimator": estimator,
        "draws": 2,
        "cells": [[30.0, 1.0], [1.0, 10.0]],
        "steps": 12,
        "seed": 0,
        "problems": [statistics.to_json()],
    }
    whole = learning.train(settings, Keeping(1000))
    assert np.shape(whole["supports"]) == (2, 1, 3)
    assert interrupted(lambda context: learning.train(settings, context), 7) == whole


def example14() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(5)
    columns = rng.normal(size=(14, 60))
    return columns, columns[3] + columns[5] - columns[6]


@pytest.mark.parametrize(("estimator", "optimizer"), [("simple", "adam"), ("imle", "sgd")])
def test_learning_of_columns_goes_on_where_it_was(
    problem: wide_problem.Problem, estimator: str, optimizer: str
) -> None:
    settings = {
        "estimator": estimator,
        "optimizer": optimizer,
        "rate": 0.3,
        "ridge": 0.1,
        "weight": 10.0,
        "steps": 12,
        "training_seed": 0,
    }

    def work(context: Context) -> Any:
        result = wide_learning.learn(problem, 4, settings, context)
        assert result.pop("seconds") >= 0
        return result

    whole = work(Keeping(1000))
    assert len(set(whole["support"])) == 4
    assert interrupted(work, 7) == whole


# All of it


def test_a_quick_run(tmp_path: Path) -> None:
    command.main(["sparse-regression", "--quick", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "record.json").read_text())["results"]
    found = results["equation"]["found"]
    for columns, tolerance in (("finite", 0.01), ("weak", 1e-4)):
        outcomes = found[f"{columns}/0.0"]["simple/16"]
        assert [sorted(support) for support in outcomes["supports"]] == [sorted(SUPPORT)] * 2
        np.testing.assert_allclose(outcomes["coefficients"], -1.0, atol=tolerance)
    # With as many rows as here there is nothing that should fail.
    easiest = results["wide"]["found"]["120"]
    for method in ("omp", "straight_through", "simple"):
        assert [run["recall"] for run in easiest[method]] == [1.0, 1.0], method
    assert len(list(tmp_path.glob("sparse-regression-*.png"))) == 4
