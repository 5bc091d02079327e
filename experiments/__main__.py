# SPDX-License-Identifier: Apache-2.0
"""Command line: ``python -m experiments``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import discrete_grad as dg

_EXTRA = {
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "tqdm": "tqdm",
    "rich": "rich",
}
_USAGE = """usage: python -m experiments NAME [options]
       python -m experiments NAME --help
       python -m experiments docs

NAME is one of
{names}
"docs" fills docs/experiments.md from experiments/results/ and draws the figures again.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one experiment; wrong arguments and missing data end it with one line that says why."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    missing = [name for module, name in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(
            f"The experiments need {', '.join(missing)}, not installed here. "
            "Install the extra: pip install 'discrete-grad[experiments]'"
        )
    from experiments import registry

    if not arguments or arguments[0] in ("-h", "--help"):
        titles = "".join(f"  {name:22} {registry.load(name).title}\n" for name in registry.NAMES)
        print(_USAGE.format(names=titles), end="")
        return
    name, *rest = arguments
    if name not in (*registry.NAMES, "docs"):
        known = ", ".join((*registry.NAMES, "docs"))
        print(f"There is no experiment {name!r}. There are: {known}.", file=sys.stderr)
        sys.exit(2)
    from discrete_grad.demo import data
    from experiments import docs, errors

    try:
        if name == "docs":
            docs.write()
        else:
            _run(name, rest)
    except (errors.DataError, errors.RecordError, errors.UsageError, data.DataError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. What was finished is kept: the same command goes on from there.")


def parser(name: str) -> argparse.ArgumentParser:
    """The arguments of an experiment: those that all have, and its own."""
    from experiments import registry

    experiment = registry.load(name)
    result = argparse.ArgumentParser(
        prog=f"python -m experiments {name}",
        description=f"{experiment.title} ({experiment.source})",
    )
    add = result.add_argument
    add(
        "--quick", action="store_true", help="small enough to end in a minute or two; not published"
    )
    add("--seeds", type=_positive, metavar="N", help="number of seeds; default: the experiment's")
    add(
        "--estimator",
        action="append",
        metavar="NAME",
        help="only this one of the experiment's estimators; repeatable",
    )
    add("--device", default="cpu", type=_device, help="default: cpu")
    add(
        "--backend",
        default="auto",
        choices=("auto", "reference", "cpp", "cuda", "triton"),
        help="what computes the subset operations; default: auto",
    )
    add("--threads", type=_positive, default=1, help="of PyTorch, in each process; default: 1")
    add("--jobs", type=_positive, default=1, help="processes; default: 1")
    add(
        "--output",
        type=Path,
        default=Path("experiments-output") / name,
        help="folder of results, finished tasks and figures; default: %(default)s",
    )
    add("--fresh", action="store_true", help="run finished tasks again instead of taking them")
    add("--reduced", metavar="WHY", help="for the record: these settings are smaller, and why")
    add(
        "--publish",
        action="store_true",
        help="write the record to experiments/results/ and the figures to docs/figures/ too",
    )
    experiment.add_arguments(result)
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _device(text: str) -> str:
    """The name, after one small operation on the device."""
    try:
        dg.subset.marginals(torch.zeros(2, device=text), 1)
    except (RuntimeError, AssertionError) as error:
        # torch's own messages go on for lines about its build.
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error
    return text


def _run(name: str, arguments: list[str]) -> None:
    from rich.console import Console

    from experiments import record, registry, storage
    from experiments.errors import UsageError
    from experiments.session import Session

    experiment = registry.load(name)
    options = parser(name).parse_args(arguments)
    if options.publish and options.quick:
        raise UsageError("--publish: results of --quick say nothing, they are not published")
    where = record.environment()
    session = Session(options, where["commit"])
    results = experiment.run(session)
    made = record.make(experiment, session, arguments, where, results)
    console = Console()
    for key, table in experiment.tables(results).items():
        console.print(table.rich(key))
    if session.reused:
        tasks = ", ".join(f"{count} from {commit[:10]}" for commit, count in session.reused.items())
        console.print(f"tasks taken from an earlier run: {tasks} (--fresh runs them again)")
    targets = [(options.output / "record.json", options.output)]
    if options.publish:
        targets.append((record.published(name), record.FIGURES))
    for path, figures in targets:
        storage.write_json(path, made)
        for written in (path, *record.write_figures(experiment, results, figures)):
            console.print(f"wrote {written}", highlight=False)


if __name__ == "__main__":
    main()
