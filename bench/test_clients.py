# SPDX-License-Identifier: Apache-2.0
"""The circuit baseline is the law it stands for, and a wrong adapter ends the run."""

from __future__ import annotations

import itertools
import json

import clients
import published_circuit
import pytest
import torch
from machine import RESULTS, ROOT

from discrete_grad.compat import law


def by_enumeration(scores, k):
    """Marginals of one row in float64: weights exp(x) in and 1 - exp(-|x|) out."""
    inside, outside = scores.exp(), 1 - torch.exp(-scores.abs())
    total, included = 0.0, torch.zeros_like(scores)
    for chosen in itertools.combinations(range(scores.numel()), k):
        hot = torch.zeros_like(scores)
        hot[list(chosen)] = 1
        weight = torch.where(hot == 1, inside, outside).prod()
        total, included = total + weight, included + weight * hot
    return included / total


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (5, 2), (7, 7), (8, 3), (9, 6)])
def test_the_circuit_is_its_law(n, k):
    scores = torch.randn(3, n, dtype=torch.float64).requires_grad_()
    expected = torch.stack([by_enumeration(row, k) for row in scores.detach()])
    torch.testing.assert_close(published_circuit.marginals(scores, k), expected, rtol=0, atol=1e-13)
    hot = published_circuit.simple(scores, k).detach()
    assert hot.sum(-1).eq(k).all()


def test_a_wrong_adapter_ends_the_run(monkeypatch):
    case = clients.Case("test", 2, 12, 4)
    assert max(clients.check(case)["difference in float64"].values()) < 1e-14
    true = law.circuit_logits
    monkeypatch.setattr(law, "circuit_logits", lambda scores: true(scores) * (1 + 1e-6))
    with pytest.raises(AssertionError, match="the adapter and the circuit"):
        clients.check(case)


def test_a_run_is_recorded(tmp_path, monkeypatch, capsys):
    out = tmp_path / "clients.json"
    monkeypatch.setattr(clients, "CASES", (clients.Case("test", 2, 12, 4),))
    monkeypatch.setattr("sys.argv", ["clients.py", "--quick", "--out", str(out)])
    threads = torch.get_num_threads()
    clients.main()
    torch.set_num_threads(threads)
    (case,) = json.loads(out.read_text())["cases"]
    assert case["speedup"].keys() == set(law.MODES)
    assert all(case[name]["p50"] > 0 for name in (*law.MODES, clients.CIRCUIT))
    assert "| (2, 12, 1) | 4 |" in capsys.readouterr().out


def test_the_documentation_has_the_recorded_times():
    written = json.loads((RESULTS / "clients.json").read_text(encoding="utf-8"))
    assert not written["quick"]
    assert not written["environment"]["uncommitted_changes"]
    assert clients.table(written) in (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
