# SPDX-License-Identifier: Apache-2.0
"""The demo from its command line to its files, on a small scale."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace

import pytest
import torch

from discrete_grad.demo.__main__ import main
from discrete_grad.demo.data import load_digits, load_mnist
from discrete_grad.demo.estimators import ESTIMATORS
from discrete_grad.demo.train import TrainingError, new_model, train

CPU = torch.device("cpu")
PNG = b"\x89PNG\r\n\x1a\n"
FIGURES = ("learning-curves.png", "reconstructions.png", "samples.png")


def check_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FIGURES, "results.json"))
    for name in FIGURES:
        content = (folder / name).read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 5000
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_digits_with_every_estimator(tmp_path, capsys):
    main(["--epochs", "1", "--output", str(tmp_path / "out")])
    results = check_files(tmp_path / "out")
    printed = capsys.readouterr().out
    assert list(results["estimators"]) == list(ESTIMATORS)
    assert results["data"]["train_images"] == 1438
    assert results["settings"]["epochs"] == 1
    for name, found in results["estimators"].items():
        (run,) = found["runs"]
        assert found["learning_rate"] == ESTIMATORS[name].learning_rate
        assert run["elbo"] == pytest.approx(-run["reconstruction"] - run["divergence"], abs=1e-3)
        total = 20 * math.log(math.comb(20, 10))
        assert run["entropy"] + run["divergence"] == pytest.approx(total, abs=1e-3)
        assert run["reconstruction"] > results["data"]["reconstruction_floor"]
        assert len(run["test_elbo_by_epoch"]) == 1
        assert f"{run['elbo']:.1f}" in printed
        assert ESTIMATORS[name].label in printed


def test_idx_files_several_seeds_and_one_estimator(tmp_path, mnist_folder):
    out = tmp_path / "out"
    arguments = ["--data", str(mnist_folder), "--estimator", "simple", "--epochs", "2"]
    arguments += ["--seed", "3", "--seed", "4", "--batch-size", "50", "--output", str(out)]
    main([*arguments, "--backend", "reference"])
    results = check_files(out)
    assert list(results["estimators"]) == ["simple"]
    assert results["settings"]["seeds"] == [3, 4]
    assert results["data"]["pixels"] == 30
    first, second = results["estimators"]["simple"]["runs"]
    summary = results["estimators"]["simple"]["summary"]["elbo"]
    assert first["elbo"] != second["elbo"]
    assert summary["mean"] == pytest.approx((first["elbo"] + second["elbo"]) / 2, abs=1e-3)
    spread = abs(first["elbo"] - second["elbo"]) / math.sqrt(2)
    assert summary["standard_deviation"] == pytest.approx(spread, abs=1e-3)
    main(arguments)  # the compiled kernels draw the same subsets: the same run up to rounding
    again = check_files(out)["estimators"]["simple"]["summary"]["elbo"]
    assert again["mean"] == pytest.approx(summary["mean"], rel=2e-2)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_the_loss_decreases(mnist_folder, name):
    """On images that differ in one of three rows; below what no code at all could reach."""
    images = replace(load_mnist(mnist_folder), trials=16)
    run = train(
        images,
        ESTIMATORS[name],
        seed=0,
        epochs=25,
        batch_size=20,
        device=CPU,
        on_epoch=lambda epoch: None,
    )
    mean = images.train.mean(0).expand_as(images.test)
    without_code = 16 * torch.nn.functional.binary_cross_entropy(mean, images.test) * images.pixels
    losses = [epoch.train_loss for epoch in run.epochs]
    assert losses[-1] < losses[0]
    assert -run.final.elbo < without_code - 5, (losses, without_code)
    assert run.final.divergence > 0.5


def test_simple_improves_on_digits_from_epoch_to_epoch():
    run = train(
        load_digits(0),
        ESTIMATORS["simple"],
        seed=0,
        epochs=3,
        batch_size=100,
        device=CPU,
        on_epoch=lambda epoch: None,
    )
    losses = [epoch.train_loss for epoch in run.epochs]
    assert losses == sorted(losses, reverse=True)
    assert run.epochs[-1].test.elbo > run.epochs[0].test.elbo


def test_seed_decides_the_run(mnist_folder):
    images = load_mnist(mnist_folder)

    def final(seed):
        options = {"epochs": 1, "batch_size": 50, "device": CPU, "on_epoch": lambda epoch: None}
        return train(images, ESTIMATORS["simple"], seed=seed, **options).final

    torch.manual_seed(1)
    first = final(0)
    torch.manual_seed(2)  # the demo's randomness is its own
    assert final(0) == first
    assert final(1) != first


def test_new_model_leaves_the_global_seed_alone(mnist_folder):
    images = load_mnist(mnist_folder)
    before = torch.get_rng_state()
    new_model(images, 0, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_that_is_not_finite_is_reported(mnist_folder):
    images = load_mnist(mnist_folder)
    images.train[3] = torch.nan
    with pytest.raises(TrainingError, match=r"SIMPLE, seed 0: the loss is nan in epoch 1"):
        train(
            images,
            ESTIMATORS["simple"],
            seed=0,
            epochs=2,
            batch_size=100,
            device=CPU,
            on_epoch=lambda epoch: None,
        )


def ends_with(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_missing_extra(monkeypatch):
    found = importlib.util.find_spec
    absent = {"rich", "sklearn"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else found(name)
    )
    message = ends_with([])
    assert "needs scikit-learn, rich," in message
    assert "pip install 'discrete-grad[demo]'" in message


def test_bad_data_ends_with_one_line(tmp_path, mnist_folder):
    output = ["--output", str(tmp_path / "out"), "--epochs", "1"]
    missing = tmp_path / "nowhere"
    assert ends_with(["--data", str(missing), *output]) == f"{missing}: there is no such folder"
    path = mnist_folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    message = ends_with(["--data", str(mnist_folder), *output])
    assert message == f"{path}: the header announces 30x6x5 = 900 bytes, the file has 899"


def test_output_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in ends_with(["--output", str(tmp_path / "file"), "--epochs", "1"])


def test_bad_device_and_backend():
    assert ends_with(["--device", "abacus"]).startswith("--device abacus: ")
    assert "backend 'cuda' cannot serve" in ends_with(["--backend", "cuda"])


@pytest.mark.parametrize("option", ["--epochs", "--batch-size", "--threads"])
def test_counts_must_be_positive(option, capsys):
    assert ends_with([option, "0"]) == 2
    assert "must be 1 or more, got 0" in capsys.readouterr().err
