# SPDX-License-Identifier: Apache-2.0
"""Runs the tasks of an experiment: progress, results that are kept, resumption, processes."""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from tqdm import tqdm

import discrete_grad as dg
from experiments import storage
from experiments.errors import RecordError, UsageError

JSON = Any  # what json.dumps takes: dict, list, str, int, float, bool, None
_QUICK_SEEDS = 2
SECONDS_BETWEEN_SAVES = 20.0


@dataclass(frozen=True)
class Task:
    """One training, or another piece of work that is done or not.

    Args:
        key: names it within the experiment, like a path: "final/simple/seed-3".
        settings: all that its result depends on, JSON-able.
        steps: its length on the progress bar.
    """

    key: str
    settings: dict[str, JSON]
    steps: int = 1


@dataclass(frozen=True)
class _Place:
    """Where and with what a task is run."""

    folder: Path
    device: str
    backend: str
    threads: int
    commit: str | None

    def file(self, task: Task, ending: str) -> Path:
        return self.folder / f"{quote(task.key, safe='')}.{ending}"

    @property
    def conditions(self) -> dict[str, JSON]:
        """What a result depends on besides the task's settings."""
        return {"device": self.device, "backend": self.backend, "threads": self.threads}


class Context:
    """What a task's function may do besides its work: report progress, keep and find its state."""

    def __init__(self, task: Task, place: _Place, progress: Callable[[int], object]) -> None:
        self.device = torch.device(place.device)
        self._path, self._progress = place.file(task, "pt"), progress
        self._belongs = json.dumps([task.settings, place.conditions])
        self._saved = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Move the progress bar."""
        self._progress(steps)

    def save(self, state: Callable[[], Any]) -> None:
        """Keep ``state()`` for ``restore``, if the last time is some seconds ago.

        The state may hold tensors, numbers, strings, and containers of them.
        """
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            content = {"belongs_to": self._belongs, "state": state()}
            storage.replace(self._path, lambda part: torch.save(content, part))
            self._saved = time.monotonic()

    def restore(self) -> Any | None:
        """The state kept last when a task of the same settings was interrupted, else None.

        Raises:
            RecordError: the file cannot be read.
        """
        if not self._path.exists():
            return None
        try:
            content = torch.load(self._path, map_location=self.device, weights_only=True)
        except Exception as error:  # whatever a damaged file makes the unpickler raise
            raise RecordError(
                f"{self._path}: no readable checkpoint ({type(error).__name__}); without the file "
                "this task starts again"
            ) from error
        return content["state"] if content["belongs_to"] == self._belongs else None


Function = Callable[[dict[str, JSON], Context], JSON]


class Session:
    """One run of an experiment from the command line."""

    def __init__(self, options: argparse.Namespace, commit: str | None) -> None:
        self.options = options
        self.quick: bool = options.quick
        self.device = torch.device(options.device)
        self._place = _Place(
            options.output / "tasks", options.device, options.backend, options.threads, commit
        )
        self._keys: set[str] = set()
        # Of tasks that an earlier run finished: how many, and at which commits.
        self.reused: dict[str, int] = {}
        # Of all tasks, whenever they ran; several processes run them side by side.
        self.task_seconds = 0.0
        if options.fresh:
            for path in itertools.chain(*map(self._place.folder.glob, ("*.json", "*.pt"))):
                path.unlink()

    def seeds(self, default: int = 10) -> list[int]:
        """0, 1, ...: ``default`` many, or as the command line says."""
        return list(range(self.options.seeds or (_QUICK_SEEDS if self.quick else default)))

    def estimators(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that the command line asks for: without --estimator, all.

        Raises:
            UsageError: it asks for one that is not among them.
        """
        asked = self.options.estimator or list(names)
        for name in asked:
            if name not in names:
                raise UsageError(f"--estimator {name}: not one of {', '.join(names)}")
        return [name for name in names if name in asked]

    def map(self, function: Function, tasks: Sequence[Task], title: str) -> list[JSON]:
        """Results of ``function(task.settings, context)`` in the order of ``tasks``.

        Each is stored as soon as there is one; a task that was finished with the same settings
        before, in this or in an interrupted run, is not run again. With --jobs above 1 the function
        must be importable by its name.
        """
        for task in tasks:
            if task.key in self._keys:
                raise ValueError(f"two tasks have the key {task.key}")
            self._keys.add(task.key)
        results: dict[str, JSON] = {}
        for task in tasks:
            self._find(task, results)
        waiting = [task for task in tasks if task.key not in results]
        total, done = (sum(task.steps for task in part) for part in (tasks, waiting))
        with tqdm(
            total=total, initial=total - done, desc=title, unit="step", smoothing=0.05
        ) as bar:
            for stored in self._run(function, waiting, bar):
                self.task_seconds += stored["seconds"]
                results[stored["key"]] = stored["result"]
        return [results[task.key] for task in tasks]

    def _find(self, task: Task, results: dict[str, JSON]) -> None:
        """Add the result of an earlier run, if there is one that still holds."""
        path = self._place.file(task, "json")
        if not path.exists():
            return
        stored = storage.read_json(path)
        if stored["settings"] == _plain(task.settings) and stored["with"] == self._place.conditions:
            commit = stored["commit"] or "no commit"
            self.reused[commit] = self.reused.get(commit, 0) + 1
            self.task_seconds += stored["seconds"]
            results[task.key] = stored["result"]

    def _run(self, function: Function, tasks: Sequence[Task], bar: tqdm[Any]) -> Iterator[JSON]:
        if self.options.jobs == 1:
            for task in tasks:
                end = bar.n + task.steps
                yield _work(function, task, self._place, bar.update)
                bar.update(end - bar.n)
            return
        # Spawned: a forked process would inherit PyTorch's thread pools in a broken state.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.options.jobs, mp_context=context)
        try:
            futures = {pool.submit(_work, function, task, self._place): task for task in tasks}
            for future in as_completed(futures):
                yield future.result()
                bar.update(futures[future].steps)
        finally:
            pool.shutdown(cancel_futures=True)


def _nothing(steps: int) -> None:
    """Progress of a task in a process of its own is shown when the task ends."""


def _work(
    function: Function,
    task: Task,
    place: _Place,
    progress: Callable[[int], object] = _nothing,
) -> JSON:
    torch.set_num_threads(place.threads)
    context = Context(task, place, progress)
    start = time.perf_counter()
    with dg.backend(place.backend):
        result = function(task.settings, context)
    content = {
        "key": task.key,
        "settings": task.settings,
        "with": place.conditions,
        "commit": place.commit,
        "seconds": round(time.perf_counter() - start, 3),
        "result": result,
    }
    storage.write_json(place.file(task, "json"), content)
    place.file(task, "pt").unlink(missing_ok=True)
    return _plain(content)


def _plain(value: JSON) -> JSON:
    """As it is read back: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))
