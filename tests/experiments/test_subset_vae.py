# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of k-subsets: bound, published entropy, grid, training, and a quick run."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import discrete_grad as dg
from discrete_grad.demo.data import load_mnist
from discrete_grad.demo.model import SubsetVAE, code_divergence
from discrete_grad.demo.train import TrainingError
from experiments import __main__ as command_line
from experiments import record, session
from experiments.session import Context, Task
from experiments.subset_vae import EXPERIMENT, grid, model, pictures, protocol, report, training
from experiments.subset_vae.published_entropy import published_divergence, recursion_entropy


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- entropy and bound


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("first", [1, 2, 4, 7])
def test_the_recursion_is_the_entropy_of_the_items_it_visits(k: int, first: int) -> None:
    logits = 2 * torch.randn(7, dtype=torch.float64)
    weight: dict[tuple[int, ...], float] = {}
    for subset in itertools.combinations(range(7), k):
        visited = tuple(item for item in subset if item >= first - 1)
        weight[visited] = weight.get(visited, 0.0) + math.exp(logits[list(subset)].sum())
    p = np.array(list(weight.values())) / sum(weight.values())
    found = recursion_entropy(logits, k, first).item()
    assert found == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)


def test_the_published_entropy_of_the_uniform_law() -> None:
    uniform = torch.zeros(20, dtype=torch.float64)
    whole = recursion_entropy(uniform, 10, 1).item()
    assert whole == pytest.approx(math.log(math.comb(20, 10)), abs=1e-12)
    # Measured with the published code.
    assert recursion_entropy(uniform, 10, 10).item() == pytest.approx(7.5074489095752055, abs=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0, 60.0])
def test_divergence(scale: float) -> None:
    logits = scale * torch.randn(5, 20, 20, dtype=torch.float64)
    exact = model.divergence(logits, 10)
    torch.testing.assert_close(exact, code_divergence(logits))
    entropy = recursion_entropy(logits, 10, 1).sum(-1)
    torch.testing.assert_close(exact, 20 * math.log(math.comb(20, 10)) - entropy, atol=1e-9, rtol=0)
    assert (published_divergence(logits, 10) > exact - 1e-9).all()
    categorical = torch.distributions.Categorical(logits=logits).entropy().sum(-1)
    torch.testing.assert_close(
        model.divergence(logits, 1), 20 * math.log(20) - categorical, atol=1e-9, rtol=0
    )


class _Given(SubsetVAE):
    """An autoencoder whose encoder hands on given logits, whatever the image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(pixels=6, trials=3)
        self.logits = logits

    def encode(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), 20, 20)


def test_the_bound_of_a_code_without_randomness() -> None:
    """Also over several chunks of images, whose last is shorter."""
    logits = torch.where(torch.randn(20, 20).argsort(-1) < 10, 200.0, -200.0)
    vae, images = _Given(logits), torch.rand(1100, 6)
    draw = model.exact_draws(10, 2, torch.Generator().manual_seed(0))
    bound = model.evaluate(vae, images, 10, draw)
    code = (logits > 0).float().expand(1, 1100, 20, 20)
    expected = vae.reconstruction_loss(images, code).mean().item()
    assert bound.reconstruction == pytest.approx(expected, rel=1e-5)
    assert bound.divergence == pytest.approx(20 * math.log(math.comb(20, 10)), abs=1e-6)
    assert bound.elbo == -bound.reconstruction - bound.divergence


def test_the_bound_of_a_random_code() -> None:
    """One group's choice matters, of k = 1: its 20 losses, weighted with their probabilities."""
    vae = _Given(torch.randn(20, 20))
    with torch.no_grad():
        vae.decoder[0].weight[:, 20:] = 0.0
    images = torch.rand(1, 6).expand(4000, 6)
    draw = model.exact_draws(1, 2, torch.Generator().manual_seed(0))
    bound = model.evaluate(vae, images, 1, draw)
    code = torch.zeros(20, 1, 20, 20)
    code[:, 0, 0] = torch.eye(20)
    losses = vae.reconstruction_loss(images[:1], code)[:, 0].detach()
    p = vae.logits[0].softmax(-1)
    mean = (p * losses).sum().item()
    error = (p * (losses - mean) ** 2).sum().sqrt().item() / math.sqrt(8000)
    assert error > 0
    assert abs(bound.reconstruction - mean) < 5 * error


# ---------------------------------------------------------------- grid


def test_every_estimator_is_tried_equally_often() -> None:
    assert set(grid.ESTIMATORS) == {name for c in grid.COMPARISONS for name in c.estimators}
    for comparison in grid.COMPARISONS:
        for name in comparison.estimators:
            candidates = grid.candidates(comparison, name)
            assert len({json.dumps(candidate) for candidate in candidates}) == 9
            rates = [candidate["learning_rate"] for candidate in candidates]
            assert (min(rates), max(rates)) == (5e-4, 2.5e-3)
            assert {candidate["k"] for candidate in candidates} == {comparison.k}
    assert min(grid.TUNING_SEEDS) >= 1000


def _candidate(name: str, **own: float) -> dict[str, Any]:
    settings = {"estimator": name, "own": own}
    return settings | ({"noise": "matched"} if name in grid.PERTURB_AND_MAP else {})


def test_own_settings_reach_the_estimator() -> None:
    assert grid.build(_candidate("gumbel_softmax_hard", temperature=0.25)).options == {
        "hard": True,
        "temperature": 0.25,
    }
    imle = grid.build(_candidate("imle", **{"lambda": 0.3})).options
    assert (imle["target"].beta, imle["target"].do_gradient_scaling) == (0.3, True)
    assert (imle["noise"], imle["temperature"]) == ("gumbel", grid.MATCHED_TEMPERATURE)
    first, second = (grid.build(_candidate("aimle_central", target_norm=2.0)) for _ in range(2))
    assert first.options["target"].rule.target_norm == 2.0
    assert first.options["target"] is not second.options["target"]
    published = grid.build({"estimator": "imle", "own": {}, "noise": "published"}).options
    assert published == {"noise": "sum_of_gamma", "temperature": 1.0}
    unbiased = grid.candidates(grid.COMPARISONS[0], "simple_unbiased")
    assert {candidate["num_samples"] for candidate in unbiased} == {2, 3, 4}


def test_the_matched_noise_draws_from_nearly_the_law_in_the_bound() -> None:
    """Marginals around 1/2: published noise is far off, matched noise is not."""
    logits = torch.randn(20)
    marginals = dg.subset.marginals(logits, 10)
    generator = torch.Generator().manual_seed(0)

    def error(noise: str) -> float:
        draws = dg.imle_topk(logits, 10, 20_000, **grid.NOISES[noise], generator=generator)
        return (draws.mean(0) - marginals).abs().max().item()

    assert error("matched") < 0.05
    assert error("published") > 0.15


# ---------------------------------------------------------------- training


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    """160 training and 40 test images of 6x5 pixels in MNIST's format: a bar on one of 3 rows."""
    folder = tmp_path / "bars"
    folder.mkdir()
    for name, number in (("train-images-idx3-ubyte", 160), ("t10k-images-idx3-ubyte", 40)):
        images = torch.randint(0, 40, (number, 6, 5), dtype=torch.uint8)
        images[torch.arange(number), 1 + torch.arange(number) % 3] = 250
        header = struct.pack(">HBB3I", 0, 8, 3, *images.shape)
        (folder / name).write_bytes(header + bytes(images.flatten().tolist()))
    return folder


def _settings(data: Path | None, name: str, **changed: Any) -> dict[str, Any]:
    return {
        **grid.candidates(grid.COMPARISONS[0], name)[0],
        "data": None if data is None else str(data),
        "images": None,
        "epochs": 3,
        "batch_size": 40,
        "seed": 0,
        "tuning": False,
        "pictures": 2,
        **changed,
    }


def _context(output: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> Context:
    """As a session gives it to a task, with every state saved."""
    monkeypatch.setattr(session, "SECONDS_BETWEEN_SAVES", 0.0)
    place = session._Place(output, "cpu", "auto", 1, None)
    return Context(Task("one", settings), place, lambda steps: None)


def _interrupt(context: Context, monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    left = itertools.count(1)

    def advance(steps: int = 1) -> None:
        if next(left) == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(context, "advance", advance)


def _without_seconds(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if "seconds" not in name}


@pytest.mark.parametrize("name", grid.ESTIMATORS)
def test_an_interrupted_training_goes_on_bit_for_bit(
    name: str, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(bars, name, epochs=4)
    whole = training.train(settings, _context(tmp_path / "whole", monkeypatch, settings))
    stopped = _context(tmp_path / "parts", monkeypatch, settings)
    _interrupt(stopped, monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        training.train(settings, stopped)
    resumed = training.train(settings, _context(tmp_path / "parts", monkeypatch, settings))
    assert _without_seconds(resumed) == _without_seconds(whole)
    assert len(resumed["test_elbo"]) == 4
    assert resumed["elbo"] == -resumed["reconstruction"] - resumed["divergence"]
    assert resumed["published_divergence"] > resumed["divergence"]
    assert [len(text) for text in resumed["pictures"]] == [60, 60]


@pytest.mark.parametrize("name", ["simple", "imle", "score_function_loo"])
def test_a_training_learns_to_use_the_code(
    name: str, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the loss that the best code-free model has: every pixel's mean."""
    monkeypatch.setattr(
        training, "load_mnist", lambda folder: replace(load_mnist(folder), trials=16)
    )
    settings = _settings(bars, name, epochs=40)
    found = training.train(settings, _context(tmp_path, monkeypatch, settings))
    images = training.load(settings).test
    mean = images.mean(0).clamp(1e-6, 1 - 1e-6)
    without = -16 * (images * mean.log() + (1 - images) * (1 - mean).log()).sum(-1).mean().item()
    assert found["elbo"] > -without + 5
    assert found["divergence"] > 0.5
    assert found["train_loss"][-1] < found["train_loss"][0]


def test_a_loss_that_is_not_finite_ends_the_training(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(bars, "simple", learning_rate=1e30)
    found = training.train(settings, _context(tmp_path, monkeypatch, settings))
    assert found == {"diverged": True}
    with pytest.raises(TrainingError, match=r"final/simple.*no longer finite"):
        protocol._final(Task("final/simple", settings), found)


def test_tuning_never_sees_a_test_image() -> None:
    final, tuning = (training.load(_settings(None, "simple", tuning=t)) for t in (False, True))
    assert (len(final.train), len(final.test)) == (1438, 359)
    assert (len(tuning.train), len(tuning.test)) == (1151, 287)
    held_out = {tuple(image.tolist()) for image in final.test}
    for image in (*tuning.train, *tuning.test):
        assert tuple(image.tolist()) not in held_out
    small = training.load(_settings(None, "simple", images=40))
    assert (len(small.train), len(small.test)) == (40, 10)


def test_the_best_candidate_is_chosen_and_one_that_diverged_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validation = {1e-3: {"elbo": -3.0}, 1.2e-3: {"elbo": -1.0}, 2.5e-3: {"diverged": True}}
    candidates = [
        c
        for c in grid.candidates(grid.COMPARISONS[0], "simple")
        if c["learning_rate"] in validation
    ]

    class Fake:
        def map(self, function: Any, tasks: list[Task], title: str) -> list[Any]:
            assert function is training.train
            for task in tasks:
                assert task.settings["seed"] >= 1000
                assert task.settings["tuning"] is True
            return [validation[task.settings["learning_rate"]] for task in tasks]

    chosen = protocol._tune(Fake(), {"epochs": 1}, {("subsets", "simple"): candidates})
    candidate, tried = chosen["subsets", "simple"]
    assert candidate["learning_rate"] == 1.2e-3
    assert [one["validation_elbo"] for one in tried] == [[-3.0], [-1.0], [None]]
    with pytest.raises(TrainingError, match="subsets/simple"):
        protocol._tune(Fake(), {"epochs": 1}, {("subsets", "simple"): candidates[2:]})


# ---------------------------------------------------------------- results


def test_pictures_are_kept_to_half_a_grey_level() -> None:
    images = torch.rand(3, 20)
    shown = pictures.from_text(pictures.to_text(images), 4, 5)
    assert shown.shape == (4, 17)
    np.testing.assert_allclose(shown[:, 6:11].ravel(), images[1].numpy(), atol=0.5 / 255 + 1e-6)


def _entry(curves: list[list[float]], seconds: float) -> dict[str, Any]:
    return {
        "runs": [
            {"elbo": curve[-1], "test_elbo": curve, "seconds_per_epoch": seconds}
            for curve in curves
        ]
    }


def test_equal_time_is_when_the_faster_one_is_through() -> None:
    slow, fast = (
        _entry([[-9.0, -5.0, -1.0], [-9.0, -6.0, -4.0]], 2.0),
        _entry([[-8.0, -7.0, -6.0]] * 2, 1.0),
    )
    comparison = {"estimators": {"simple": slow, "imle": fast}}
    assert report.shortest(comparison) == 3.0
    assert report.elbo_at(slow, 3.0) == [-7.0, -7.5]
    (row,) = report._differences(comparison, ["imle"]).rows
    assert row == ["I-MLE", "3.5 ± 2.1", "1.6", "2 of 2", "-1.2 ± 0.4", "-3.5"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a quick run from the command line, with its folder."""
    output = tmp_path_factory.mktemp("quick")
    command_line.main(["subset-vae", "--quick", "--output", str(output)])
    found: dict[str, Any] = json.loads((output / "record.json").read_text(encoding="utf-8"))
    return {"folder": output, **found}


def test_a_quick_run(quick: dict[str, Any]) -> None:
    results = quick["results"]
    assert quick["setting"] == "quick"
    assert {c: list(v["estimators"]) for c, v in results["comparisons"].items()} == {
        c.name: list(c.estimators) for c in grid.COMPARISONS
    }
    for comparison in results["comparisons"].values():
        for entry in comparison["estimators"].values():
            assert len(entry["candidates"]) == 2
            best = max(entry["candidates"], key=lambda c: c["validation_elbo"][0])
            assert entry["chosen"].items() <= best.items()
            assert [one["seed"] for one in entry["runs"]] == [0, 1]
            assert entry["runs"][0]["elbo"] != entry["runs"][1]["elbo"]
            for one in entry["runs"]:
                assert one["elbo"] < -results["data"]["reconstruction_floor"]
                assert len(one["test_elbo"]) == 2
            assert len(entry["runs"][0]["pictures"]) == 12


def test_tables_and_figures_of_a_quick_run(quick: dict[str, Any]) -> None:
    made = EXPERIMENT.tables(quick["results"])
    assert list(made) == [
        "subsets",
        "subsets-differences",
        "published-noise",
        "categoricals",
        "categoricals-differences",
        "tuning",
        "published-entropy",
    ]
    assert [row[0] for row in made["subsets-differences"].rows] == [
        row[0] for row in made["subsets"].rows[1:]
    ]
    runs = quick["results"]["comparisons"]["subsets"]["estimators"]["simple"]["runs"]
    assert made["subsets"].rows[0][2].startswith(f"{(runs[0]['elbo'] + runs[1]['elbo']) / 2:.1f}")
    assert len(made["tuning"].rows) == sum(len(c.estimators) for c in grid.COMPARISONS)
    names = sorted(path.name for path in quick["folder"].glob("*.png"))
    assert names == [
        f"subset-vae-{key}.png"
        for key in (
            "curves-categoricals",
            "curves-subsets",
            "elbo",
            "published-entropy",
            "reconstructions",
        )
    ]
    assert record.read(quick["folder"] / "record.json")["results"] == quick["results"]


def test_one_estimator_on_files_of_ones_own(bars: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command_line.main(
        [
            "subset-vae",
            "--quick",
            "--data",
            str(bars),
            "--estimator",
            "imle",
            "--seeds",
            "1",
            "--epochs",
            "1",
            "--batch-size",
            "80",
            "--output",
            str(output),
        ]
    )
    results = record.read(output / "record.json")["results"]
    assert (results["data"]["height"], results["data"]["width"]) == (6, 5)
    assert "MNIST, 160 training images of 6x5 pixels, 1 epochs of 2 steps" in results["setting"]
    compared = results["comparisons"]
    assert {name: list(c["estimators"]) for name, c in compared.items()} == {
        "subsets": ["imle"],
        "published-noise": ["imle"],
    }
    assert compared["subsets"]["estimators"] != compared["published-noise"]["estimators"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(
            ["subset-vae", "--data", str(tmp_path / "none"), "--output", str(tmp_path)]
        )
    assert f"{tmp_path / 'none'}: there is no such folder" in str(ended.value)


def test_epochs_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["subset-vae", "--epochs", "0"])
    assert "must be 1 or more, got 0" in capsys.readouterr().err
