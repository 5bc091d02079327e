# SPDX-License-Identifier: Apache-2.0
"""README.md tells the truth: its examples run, its figures are those of the committed results."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch

from discrete_grad.demo.estimators import ESTIMATORS
from discrete_grad.demo.report import COLUMNS, cell
from discrete_grad.demo.tune import candidates

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = ROOT / "docs" / "figures"


def test_examples_print_what_they_say():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}  # one session: the later examples build on the imports
    for block in blocks:
        said = re.findall(r"^print\(.*\)  # (.+)$", block, re.MULTILINE)
        assert said
        assert len(said) == len(re.findall(r"^print\(", block, re.MULTILINE))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, "README.md", "exec"), names)
        assert printed.getvalue().splitlines() == said


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def results() -> dict:
    return json.loads((FIGURES / "demo-results.json").read_text(encoding="utf-8"))


def test_demo_table_is_that_of_the_results():
    found = results()
    for estimator in found["estimators"].values():
        cells = [estimator["label"]]
        cells += [cell(estimator["summary"][name], digits) for name, _, digits in COLUMNS]
        line = "| " + " | ".join(cells) + " |"
        assert line in README
    assert found["command"] in README
    assert found["date"][:10] in README
    assert found["machine"]["processor"] in README
    assert f"{found['data']['reconstruction_floor']:.1f}" in README


def test_shares_of_shortest_paths_are_those_of_the_results():
    found = json.loads((FIGURES / "shortest-paths.json").read_text(encoding="utf-8"))
    steps, maps = found["settings"]["steps"], found["settings"]["test_maps"]
    tuned = max(run["after"]["optimal"] for name, run in found["runs"].items() if "I-MLE" in name)
    adaptive = found["runs"]["AIMLE"]
    said = re.sub(r"\s+", " ", README)
    assert f"after {steps:,} steps" in said
    assert f"on {adaptive['after']['optimal']:.0%} of {maps:,} new maps".replace("%", " %") in said
    assert f"(before: {adaptive['before']['optimal']:.0%})".replace("%", " %") in said
    assert f"a little higher there, at {tuned:.0%}".replace("%", " %") in said
    assert found["date"][:10] in README


def test_results_are_of_the_present_settings():
    found = results()["estimators"]
    assert list(found) == list(ESTIMATORS)
    for name, estimator in ESTIMATORS.items():
        assert found[name]["label"] == estimator.label
        assert found[name]["learning_rate"] == estimator.learning_rate
        assert found[name]["options"] == dict(estimator.options)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_settings_are_the_best_of_the_grid(name):
    tuning = json.loads((FIGURES / "demo-tuning.json").read_text(encoding="utf-8"))
    rows = [row for row in tuning["candidates"] if row["estimator"] == name]
    best = max(rows, key=lambda row: row["validation_elbo"] or float("-inf"))
    chosen = ESTIMATORS[name]
    assert best["learning_rate"] == chosen.learning_rate
    if "temperature" in chosen.options:
        assert best["temperature"] == chosen.options["temperature"]
    settings = results()["settings"]
    assert len(rows) == sum(candidate.name == name for candidate in candidates())
    assert tuning["settings"]["epochs"] == settings["epochs"]
    assert tuning["settings"]["batch_size"] == settings["batch_size"]
    assert set(tuning["settings"]["seeds"]).isdisjoint(settings["seeds"])


@pytest.fixture(autouse=True)
def _default_print_options():
    torch.set_printoptions(profile="default")
