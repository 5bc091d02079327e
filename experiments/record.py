# SPDX-License-Identifier: Apache-2.0
"""The record of a run: what was run, where, when, from which code, and what came out."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from experiments import storage
from experiments.errors import RecordError
from experiments.experiment import Experiment
from experiments.session import JSON, Session

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
FIGURES = ROOT / "docs" / "figures"
_FIELDS = (
    "experiment",
    "setting",
    "command",
    "arguments",
    "environment",
    "task_seconds",
    "results",
)


def _machine() -> ModuleType:
    """bench/machine.py: benchmarks and experiments say the same of where they were taken. That
    folder holds scripts, no package.
    """
    path = ROOT / "bench" / "machine.py"
    spec = importlib.util.spec_from_file_location("experiments._machine", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment() -> dict[str, JSON]:
    """Machine, versions, date, load and commit."""
    found: dict[str, JSON] = _machine().environment()
    return found


def setting(session: Session) -> str:
    """What the numbers are worth: "full", "quick" or "reduced: ..."."""
    if session.quick:
        return "quick"
    return f"reduced: {session.options.reduced}" if session.options.reduced else "full"


def make(
    experiment: Experiment,
    session: Session,
    arguments: Sequence[str],
    where: dict[str, JSON],
    results: JSON,
) -> dict[str, JSON]:
    """The record, JSON-able."""
    # What only says where to put the files, or that they may go there, does not change a number.
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(session.options).items()
        if name not in ("output", "publish", "fresh")
    }
    return {
        "experiment": experiment.name,
        "source": experiment.source,
        "setting": setting(session),
        "command": shlex.join(
            ["python", "-m", "experiments", experiment.name, *_without_output(arguments)]
        ),
        "arguments": options,
        "environment": where,
        "commits_of_reused_tasks": session.reused,
        "task_seconds": round(session.task_seconds, 1),
        "results": results,
    }


def _without_output(arguments: Sequence[str]) -> list[str]:
    """The folder of someone's machine says nothing to others."""
    kept = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--output":
            next(rest)
        elif not argument.startswith("--output="):
            kept.append(argument)
    return kept


def published(name: str) -> Path:
    """Where the record of an experiment is committed."""
    return RESULTS / f"{name}.json"


def read(path: Path) -> dict[str, JSON]:
    """A record.

    Raises:
        RecordError: there is none, or it lacks a field.
    """
    content = storage.read_json(path)
    missing = [name for name in _FIELDS if not isinstance(content, dict) or name not in content]
    if missing:
        raise RecordError(f"{path}: a record has the fields {_FIELDS}; {missing} are missing")
    found: dict[str, JSON] = content
    return found


def write_figures(experiment: Experiment, results: JSON, folder: Path) -> list[Path]:
    """The experiment's figures as <name>-<key>.png."""
    paths = []
    for key, figure in experiment.figures(results).items():
        path = folder / f"{experiment.name}-{key}.png"
        storage.replace(path, figure.savefig)
        paths.append(path)
    return paths
