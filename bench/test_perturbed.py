# SPDX-License-Identifier: Apache-2.0
"""The benchmark of I-MLE refuses wrong results, and says what was measured."""

from __future__ import annotations

import json

import perturbed
import perturbed_report
import pytest
import torch

CASE = perturbed.Case(rows=2, n=24, k=5, samples=3, noise="gumbel")


@pytest.mark.parametrize("noise", ["gumbel", "sum_of_gamma"])
def test_the_providers_agree(noise):
    perturbed.check(perturbed.Case(2, 24, 5, 3, noise))


def _another_law(draw):
    def wrong(provider, case, logits, samples):
        return draw(provider, case, logits * (1.5 if provider == perturbed.OURS else 1), samples)

    return wrong


def _one_item_too_many(draw):
    def wrong(provider, case, logits, samples):
        return torch.ones_like(logits).expand(samples, *logits.shape) * logits / logits

    return wrong


@pytest.mark.parametrize(
    ("fault", "message"), [(_another_law, "deviations"), (_one_item_too_many, "has not k ones")]
)
def test_a_wrong_provider_ends_the_run(monkeypatch, fault, message):
    monkeypatch.setattr(perturbed, "draw", fault(perturbed.draw))
    with pytest.raises(AssertionError, match=message):
        perturbed.check(CASE)


def test_the_published_provider_needs_more_memory():
    case = perturbed.Case(rows=64, n=4096, k=8, samples=8, noise="gumbel")
    ours, published = (
        perturbed.peak_in_fresh_process(case, "forward+backward", name, 1)
        for name in perturbed.PROVIDERS
    )
    noise = 4 * case.rows * case.n * case.samples
    assert ours < 2 * noise  # the samples themselves, and little more
    assert published > 3 * noise


def test_a_record_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["perturbed.py", "--quick", "--filter", "gumbel-4096x64", "--threads", "1",
                     "--out", str(tmp_path / "one.json")]
    )  # fmt: skip
    perturbed.main()
    written = json.loads((tmp_path / "one.json").read_text())
    assert len(written["cases"]) == len(perturbed.MODES)
    assert all(case["speedup"] > 0 for case in written["cases"])
    text = perturbed_report.section(written)
    assert "| gumbel | 4,096 | 64 | 8 | 1 | 1 | forward |" in text
    assert "x" in capsys.readouterr().out
