# SPDX-License-Identifier: Apache-2.0
"""Learning to explain: network, metrics, training, tuning, and a quick run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import discrete_grad as dg
from experiments import __main__ as command_line
from experiments.learning_to_explain import (
    EXPERIMENT,
    generator,
    grid,
    metrics,
    report,
    source,
)
from experiments.learning_to_explain.corpus import PAD, Annotated, marked, padded
from experiments.learning_to_explain.fit import _Fit, estimator, fit
from experiments.learning_to_explain.model import Explainer, choosable
from experiments.learning_to_explain.steps import StepRecord

SMALL = generator.Size(train=60, heldout=20, annotated=10, length=80, embedding=8)
CPU = torch.device("cpu")


# Small matrices: with the suite's two threads they wait for each other where cores are busy.
@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _model(size: int = 8, words: int = 20) -> Explainer:
    draws = torch.Generator().manual_seed(0)
    embeddings = torch.randn(words, size, generator=draws)
    embeddings[PAD] = 0
    return Explainer(embeddings, draws)


def test_the_network_has_the_published_sizes() -> None:
    model = _model(size=200)
    convolutions = 100 * (3 * 200 + 1) + 2 * 100 * (3 * 100 + 1) + 100 * (200 + 1) + (100 + 1)
    dense = 100 * (100 + 1) + 250 * (200 + 1) + (250 + 1)
    assert sum(part.numel() for part in model.parameters()) == convolutions + dense


def test_the_prediction_depends_on_the_mean_of_the_chosen_vectors() -> None:
    model = _model()
    tokens = torch.tensor([[PAD, 3, 4, 5], [6, 7, 8, 9]])
    mask = torch.tensor([[0.0, 1, 0, 1], [1, 1, 0, 0]])
    mean = torch.stack([model.embeddings[[3, 5]], model.embeddings[[6, 7]]]).sum(1) / 2
    expected = model.predictor(mean).squeeze(1)
    torch.testing.assert_close(model.predict(tokens, mask, 2), expected)
    both = model.predict(tokens, torch.stack([mask, 1 - mask]), 2)
    assert both.shape == (2, 2)
    torch.testing.assert_close(both[0], expected)


def test_scores_are_the_published_function_of_the_vectors() -> None:
    """The convolutions as sums over windows of three, the maximum over all positions."""
    model = _model()
    tokens = torch.tensor([[3, 4, 5, 6, 7]])

    def convolved(layer: Any, x: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(x, (0, 0, 1, 1))
        windows = torch.stack([wide[i : i + 3] for i in range(len(x))])
        return torch.einsum("lwc,ocw->lo", windows, layer.weight) + layer.bias

    first = convolved(model.first, model.embeddings[tokens[0]]).relu()
    whole = model.whole(first.max(0).values).relu()
    local = convolved(model.local[2], convolved(model.local[0], first).relu()).relu()
    features = torch.cat([whole.expand(5, 100), local], 1)
    hidden = (features @ model.score[0].weight[..., 0].T + model.score[0].bias).relu()
    expected = (hidden @ model.score[2].weight[..., 0].T + model.score[2].bias).squeeze(1)
    torch.testing.assert_close(model.logits(tokens)[0], expected, rtol=1e-4, atol=1e-5)


def test_dropout_comes_from_its_generator() -> None:
    model = _model()
    tokens = torch.randint(3, 20, (50, 10), generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    model.score.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        first, again = (model.logits(tokens, torch.Generator().manual_seed(2)) for _ in range(2))
        plain = model.logits(tokens)
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    dropped, _, features = seen
    live = features != 0
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], features[kept] / 0.8)
    # A fifth of the features, within five standard errors.
    number = int(live.sum())
    assert abs(1 - int(kept.sum()) / number - 0.2) < 5 * (0.16 / number) ** 0.5


NAMES = sorted({candidate.estimator for candidate in grid.CANDIDATES.values()})


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_never_chosen_and_gets_no_gradient(name: str) -> None:
    tokens = padded([[3, 4, 5, 6, 7, 8], [9, 10], [11, 12, 13]], 6)
    raw = torch.randn(3, 6, generator=torch.Generator().manual_seed(3), requires_grad=True)
    seen = []

    def losses(draws: Tensor) -> Tensor:
        seen.append(draws.detach())
        weights = torch.arange(1.0, 7.0)
        return (draws * weights * (tokens != PAD)).sum(-1).square() / 100

    chosen = dg.estimators.get(name)
    chosen(choosable(raw, tokens, 3), 3, losses, 2).sum().backward()
    (draws,) = seen
    missing = torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close((draws * (tokens == PAD)).sum(-1), missing.expand(2, 3))
    if name != "gumbel_softmax":  # whose draws are hard in the limit only
        short = (tokens[1:] != PAD).float()  # reviews of no more than three words: all of them
        torch.testing.assert_close(draws[:, 1:] * short, short.expand(2, 2, 6))
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert not raw.grad[tokens == PAD].any()
    if name not in ("imle", "aimle", "aimle_central"):  # which are 0 where no choice changes
        assert raw.grad[0].any()


def test_precision_by_hand() -> None:
    tokens = padded([[3, 4, 5, 6, 7], [8, 9]], 5)
    rationale = marked([[3, 4, 5, 6, 7], [8, 9]], [[(0, 2)], [(1, 2)]], 5)
    # The second review has two words of three, filled up with padding, which counts for nothing.
    chosen = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 1, 1]])
    found = metrics.precision(chosen, Annotated(tokens, rationale), 3)
    assert (found.hits, found.choices) == (3, 6)
    assert found.percent == 50


def test_the_choice_of_the_best_words_is_deterministic_and_in_batches() -> None:
    model = _model()
    tokens = torch.randint(3, 20, (250, 7), generator=torch.Generator().manual_seed(4))
    chosen = metrics.choose(model, tokens, 2)
    best = model.logits(tokens).topk(2, 1).indices
    expected = torch.zeros(250, 7).scatter(1, best, 1.0)
    assert torch.equal(chosen, expected)


class _Context:
    """Of the runner's, what a task sees: here it keeps every state, and can be interrupted."""

    device = CPU

    def __init__(self, stop: int | None = None, saved: Any = None) -> None:
        self.stop, self.saved, self.done = stop, saved, 0

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.done == self.stop:
            raise KeyboardInterrupt

    def save(self, state: Callable[[], Any]) -> None:
        self.saved = state()

    def restore(self) -> Any:
        return self.saved


def _settings(name: str, **options: Any) -> dict[str, Any]:
    return {
        "corpus": source.generated(SMALL, 0, 0),
        "estimator": name,
        "options": options,
        "k": 5,
        "learning_rate": 1e-3,
        "epochs": 3,
        "seed": 1,
        "example": True,
    }


def _without_times(result: Any) -> Any:
    return {name: value for name, value in result.items() if "seconds" not in name}


@pytest.mark.parametrize("name", ["aimle", "score_function_loo"])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(name: str) -> None:
    settings = _settings(name, **({"num_samples": 2} if name == "score_function_loo" else {}))
    whole = fit(settings, _Context())  # type: ignore[arg-type]
    interrupted = _Context(stop=4)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, interrupted)  # type: ignore[arg-type]
    resumed = fit(settings, _Context(saved=interrupted.saved))  # type: ignore[arg-type]
    assert _without_times(resumed) == _without_times(whole)
    assert len(whole["validation_errors"]) == 3
    assert len(whole["example"]) == 5


def test_the_weights_of_the_best_validation_error_are_kept() -> None:
    run = _Fit(_settings("simple"), source.load(source.generated(SMALL, 0, 0)), CPU)
    run.validate()
    before = run.best["model"]
    for layer in run.model.predictor:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.constant_(layer.bias, 30.0)  # predicts 1
    run.validate()
    assert run.errors[1] > run.errors[0]
    assert run.best["model"] is before
    for layer in run.model.predictor:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)  # predicts 1/2, which is near the mean
    run.validate()
    assert run.errors[2] < run.errors[0]
    assert run.best["model"] is not before


def test_validation_and_test_reviews_are_the_two_halves_and_change_with_the_seed() -> None:
    found = source.load(source.generated(SMALL, 0, 0))
    runs = [_Fit({**_settings("simple"), "seed": seed}, found, CPU) for seed in (1, 2)]
    for run in runs:
        both = torch.cat([run.validation.ratings, run.test.ratings])
        assert len(run.validation) == len(run.test) == 10
        assert torch.equal(both.sort().values, found.heldout.ratings.sort().values)
    assert not torch.equal(runs[0].test.ratings, runs[1].test.ratings)


def test_an_epoch_takes_every_review_once() -> None:
    run = _Fit(_settings("simple"), source.load(source.generated(SMALL, 0, 0)), CPU)
    epochs = [torch.cat([run.batch(e, i).ratings for i in range(run.batches)]) for e in (0, 1)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, run.train.ratings.sort().values)
    assert not torch.equal(*epochs)


def test_options_of_an_estimator() -> None:
    assert estimator("imle", {"lambda": 30.0}).options["target"].beta == 30.0
    default = estimator("aimle_central", {}).options
    assert (float(default["target"].beta), default["symmetric"]) == (1.0, True)
    from_zero = estimator("aimle", {"initial_beta": 0.0, "beta_update_step": 0.5})
    assert float(from_zero.options["target"].beta) == 0.0
    assert from_zero.options["target"].rule.update_step == 0.5
    assert "num_samples" not in estimator("score_function_loo", {"num_samples": 4}).options


def test_the_record_of_the_steps() -> None:
    chosen = estimator("aimle", {"initial_beta": 0.5})
    record = StepRecord(epochs=2, batches=1)
    raw = torch.tensor([[3.0, 0.0, 4.0, -torch.inf]], requires_grad=True)
    for weights in ([9.0, 9.0, 9.0, 9.0], [0.0, 0.6, 0.8, 0.0]):
        logits = raw * 1
        watch = record.of(logits, chosen)

        def losses(draws: Tensor, watch: Any = watch, weights: Any = weights) -> Tensor:
            watch(draws)
            return (draws * torch.tensor(weights)).sum(-1)

        chosen(logits, 1, losses, 1).sum().backward()
    # ||theta|| = 5 without the excluded item, ||dL/dz|| = 1; the second epoch alone counts, and by
    # then the rule has moved beta once.
    found = record.summary()
    moved = 0.5 + (1e-4 if found["beta"] > 0.5 else -1e-4)
    assert found["scale"] == pytest.approx(5)
    assert found["beta"] == pytest.approx(moved)
    assert found["lambda"] == pytest.approx(5 * moved, rel=1e-4)
    assert found["nonzeros"] in (0, 2)


def test_every_estimator_has_the_same_number_of_cells() -> None:
    for candidate in grid.CANDIDATES.values():
        cells = candidate.cells()
        assert len(cells) == grid.CELLS
        assert len({json.dumps(cell) for cell in cells}) == grid.CELLS
        if candidate.estimator.startswith("aimle"):
            assert all(options == {} for _, options in cells)  # nothing but the learning rate


def test_beta_from_zero_reaches_as_far_as_in_the_published_runs() -> None:
    candidate = grid.CANDIDATES["aimle_from_zero"]
    assert candidate.options({}, 40_000) == {"initial_beta": 0.0, "beta_update_step": 1e-4}
    assert candidate.options({}, 100)["beta_update_step"] * 100 == pytest.approx(4)
    assert grid.CANDIDATES["aimle"].options({}, 100) == {}


def test_the_distance_from_the_best_lambda() -> None:
    points: list[dict[str, Any]] = [
        {"lambda": 1.0, "runs": {"error": [3.0, 5.0], "precision": [90.0, 90.0]}},
        {"lambda": 2.0, "runs": {"error": [1.0, 3.0], "precision": [70.0, 80.0]}},
    ]
    best = report.best_lambda({"lambdas": points})
    assert best["lambda"] == 2.0
    runs = {"error": [3.0, 3.0], "precision": [75.0]}
    assert report.deviations(runs, best, "error") == pytest.approx(1 / 2**0.5)
    assert report.deviations(runs, best, "precision") == 0


def test_a_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(["learning-to-explain", "--quick", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["results"]
    assert list(results["final"]["10"]) == list(grid.CANDIDATES)
    for runs in results["final"]["10"].values():
        assert len(runs["error"]) == len(runs["precision"]) == 2
        assert all(0 < error < 100 for error in runs["error"])
        assert all(0 <= percent <= 100 for percent in runs["precision"])
    assert {point["lambda"] for point in results["lambdas"]} == {100.0, 300.0}
    assert len(results["rules"]) == 2
    for chosen in results["example"]["chosen"].values():
        assert len(chosen) == 10
        assert max(chosen) < len(results["example"]["words"])
    assert set(EXPERIMENT.tables(results)) == {"final", "tuning", "lambda"}
    for key in EXPERIMENT.figures(results):
        assert (tmp_path / f"learning-to-explain-{key}.png").stat().st_size > 10_000
    assert "AIMLE, central, β from 0" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length", "60"], "--length 60: generated reviews need 80"),
        (["--k", "5", "--k", "81"], "--k 81: the longest review has 80 words"),
        (["--estimator", "exact"], "--estimator exact: not one of simple, imle"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        command_line.main(["learning-to-explain", "--quick", *arguments, "--output", str(tmp_path)])
