# SPDX-License-Identifier: Apache-2.0
"""The runner: what it keeps, resumes, records and refuses."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import discrete_grad as dg
from experiments import __main__ as command
from experiments import docs, plots, record, registry, session, storage
from experiments.errors import RecordError
from experiments.session import Session, Task
from experiments.tables import Table, mean_std

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The toy experiment, under the name "toy"."""
    path = Path(__file__).parent / "toy.py"
    spec = importlib.util.spec_from_file_location("experiments.toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "experiments.toy", module)
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def run(output: Path, *arguments: str) -> dict[str, object]:
    command.main(["toy", "--output", str(output), *arguments])
    return json.loads((output / "record.json").read_text())


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> pytest.MonkeyPatch:
    """Ctrl-C in the call of ``advance`` after so many; each state is saved."""
    count = 0

    def advance(self: session.Context, steps: int = 1) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt

    monkeypatch.setattr(session.Context, "advance", advance)
    monkeypatch.setattr(session, "SECONDS_BETWEEN_SAVES", 0.0)
    return monkeypatch


def test_a_run_writes_its_record_tables_and_figures(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = run(tmp_path, "--seeds", "2", "--estimator", "simple", "--reduced", "for a test")
    assert written["setting"] == "reduced: for a test"
    assert written["arguments"]["seeds"] == 2  # type: ignore[index]
    assert written["environment"]["torch"] == torch.__version__  # type: ignore[index]
    losses = written["results"]["losses"]  # type: ignore[index]
    assert list(losses) == ["simple"]
    assert [len(one) for one in losses["simple"]] == [toy.STEPS] * 2
    reason = "--reduced 'for a test'"
    assert written["command"] == f"python -m experiments toy --seeds 2 --estimator simple {reason}"
    assert (tmp_path / "toy-curves.png").read_bytes().startswith(b"\x89PNG")
    assert "SIMPLE" in capsys.readouterr().out


@pytest.mark.parametrize("after", [0, 1, 4, 8, 17])
def test_an_interrupted_run_goes_on_with_the_same_results(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = run(tmp_path / "whole", "--seeds", "1")
    with monkeypatch.context() as patched:
        interrupt(patched, after)
        with pytest.raises(SystemExit, match="goes on from there"):
            run(tmp_path / "parts", "--seeds", "1")
    calls: list[int] = []
    monkeypatch.setattr(session.Context, "advance", lambda self, steps=1: calls.append(steps))
    parts = run(tmp_path / "parts", "--seeds", "1")
    assert parts["results"] == whole["results"]
    # The step that the interrupt came in is done again.
    assert len(calls) == 3 * toy.STEPS - after
    assert sum(parts["commits_of_reused_tasks"].values()) == after // toy.STEPS  # type: ignore[attr-defined]
    assert not list((tmp_path / "parts" / "tasks").glob("*.pt"))


def test_finished_tasks_are_taken_only_for_the_same_settings(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(session.Context, "advance", lambda self, steps=1: calls.append(steps))
    for arguments, trained in (
        (["--seeds", "1"], 1),
        (["--seeds", "1"], 0),
        (["--seeds", "2"], 1),
        (["--seeds", "2", "--backend", "reference"], 2),
        (["--seeds", "2", "--backend", "reference", "--fresh"], 2),
    ):
        calls.clear()
        run(tmp_path, "--estimator", "simple", *arguments)
        assert len(calls) == trained * toy.STEPS, arguments


def test_processes_give_the_same_results(tmp_path: Path) -> None:
    """In a real process, since a spawned one must be able to import the experiment."""
    script = """
import sys
sys.path[:0] = [{root!r}]
import experiments, experiments.__main__ as command
experiments.__path__.append({here!r})
from experiments import registry
registry.NAMES = ("toy",)
if __name__ == "__main__":
    for jobs in ("1", "2"):
        options = ["--seeds", "2", "--estimator", "simple", "--jobs", jobs, "--output", jobs]
        command.main(["toy", *options])
"""
    path = tmp_path / "script.py"
    path.write_text(script.format(root=str(ROOT), here=str(Path(__file__).parent)))
    subprocess.run([sys.executable, path], cwd=tmp_path, check=True, capture_output=True)
    one, two = (json.loads((tmp_path / n / "record.json").read_text())["results"] for n in "12")
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy", "--estimator", "gumbel"], "--estimator gumbel: not one of simple, aimle"),
        (["toy", "--publish", "--quick"], "--publish"),
        (["docs"], "toy.json: cannot be read as JSON"),
    ],
)
def test_what_cannot_be_run_says_why(
    toy: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(docs, "PAGE", tmp_path / "page.md")
    docs.PAGE.write_text("<!-- table: toy/loss -->\n<!-- end -->")
    with pytest.raises(SystemExit, match=message):
        command.main(arguments)


def test_an_unknown_experiment_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        command.main(["vae"])
    assert error.value.code == 2
    assert "subset-vae" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("--device", "nowhere"), ("--jobs", "0")])
def test_wrong_options_end_with_the_usage(
    toy: ModuleType, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    with pytest.raises(SystemExit) as error:
        command.main(["toy", name, value])
    assert error.value.code == 2
    assert name in capsys.readouterr().err


def test_damaged_files_are_named(toy: ModuleType, tmp_path: Path) -> None:
    run(tmp_path, "--seeds", "1", "--estimator", "simple")
    (path,) = (tmp_path / "tasks").iterdir()
    path.write_text("{")
    with pytest.raises(SystemExit, match=path.name):
        run(tmp_path, "--seeds", "1", "--estimator", "simple")
    path.unlink()
    checkpoint = path.with_suffix(".pt")
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit, match=f"{checkpoint.name}: no readable checkpoint"):
        run(tmp_path, "--seeds", "1", "--estimator", "simple")


def test_two_tasks_cannot_share_a_key(toy: ModuleType, tmp_path: Path) -> None:
    options = command.parser("toy").parse_args(["--output", str(tmp_path)])
    tasks = [Task("same", {"seed": seed}) for seed in range(2)]
    with pytest.raises(ValueError, match="two tasks have the key same"):
        Session(options, None).map(toy.train, tasks, "train")


def test_the_page_is_filled_from_the_published_record(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(docs, "PAGE", tmp_path / "page.md")
    written = run(tmp_path, "--seeds", "1", "--publish")
    (tmp_path / "figures" / "toy-curves.png").unlink()
    docs.PAGE.write_text(
        "Before\n<!-- table: toy/loss -->\nold | table\n<!-- end -->\nbetween\n"
        "<!-- record: toy -->\n<!-- end -->\nafter"
    )
    command.main(["docs"])
    text = docs.PAGE.read_text()
    assert toy.tables(written["results"])["loss"].markdown() in text
    assert "python -m experiments toy" in text
    assert "old" not in text
    assert docs.render(text) == text
    assert (tmp_path / "figures" / "toy-curves.png").exists()
    with pytest.raises(RecordError, match="toy has the tables"):
        docs.render("<!-- table: toy/nothing -->\n<!-- end -->")


def test_records_that_lack_a_field_are_refused(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "record.json", {"results": 1})
    with pytest.raises(RecordError, match="'experiment'"):
        record.read(tmp_path / "record.json")


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    storage.write_json(path, {"a": [1, 2, {"b": []}], "c": [[1.5, None], [True, "x"]], "d": {}})
    assert storage.read_json(path) == {
        "a": [1, 2, {"b": []}],
        "c": [[1.5, None], [True, "x"]],
        "d": {},
    }
    storage.write_json(tmp_path / "keys.json", {10: (1, 2)})
    assert storage.read_json(tmp_path / "keys.json") == {"10": [1, 2]}
    (tmp_path / "keys.json").unlink()
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(path, {"a": float("nan")})
    with pytest.raises(ZeroDivisionError):
        storage.replace(path, lambda part: part.write_text(str(1 / 0)))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_tables() -> None:
    table = Table("What.", ["name", "a|b"], [["x", mean_std([1.0, 2.0, 3.0], 2)]])
    assert table.markdown() == "| name | a\\|b |\n|---|---:|\n| x | 2.00 ± 1.00 |\n\nWhat."
    assert mean_std([0.25], 1) == "0.2"
    with pytest.raises(ValueError, match="no cell"):
        Table("What.", ["name"], [["x", "y"]])
    with pytest.raises(ValueError, match="no values"):
        mean_std([], 1)


def test_every_estimator_has_a_colour_of_its_own() -> None:
    assert set(dg.estimators.names()) <= set(plots.COLOURS) == set(plots.LABELS)
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)
