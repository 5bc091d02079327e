# SPDX-License-Identifier: Apache-2.0
"""Puts the committed results into docs/experiments.md, and draws their figures again.

Everything between ``<!-- table: NAME/KEY -->`` and ``<!-- end -->`` is that table of the experiment
NAME, everything after ``<!-- record: NAME -->`` says where its results were taken.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from experiments import record, registry
from experiments.errors import RecordError

PAGE = record.ROOT / "docs" / "experiments.md"
_BLOCK = re.compile(r"<!-- (table|record): (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def render(text: str) -> str:
    """``text`` with every block filled from the committed results.

    Raises:
        RecordError: a block names an experiment or a table that there is not.
    """
    return _BLOCK.sub(_fill, text)


def write() -> None:
    """Fill the page and draw the figures."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
    for name in registry.NAMES:
        if not record.published(name).exists():
            print(f"{name}: nothing is published")
            continue
        results = record.read(record.published(name))["results"]
        for path in record.write_figures(registry.load(name), results, record.FIGURES):
            print(f"wrote {path}")


def _fill(block: re.Match[str]) -> str:
    make: Callable[[str], str] = {"table": _table, "record": _record}[block[1]]
    return f"<!-- {block[1]}: {block[2]} -->\n{make(block[2])}\n<!-- end -->"


def _table(path: str) -> str:
    name, _, key = path.partition("/")
    tables = registry.load(_known(name)).tables(record.read(record.published(name))["results"])
    if key not in tables:
        raise RecordError(f"docs/experiments.md: {name} has the tables {list(tables)}, not {key!r}")
    return tables[key].markdown()


def _record(name: str) -> str:
    found = record.read(record.published(_known(name)))
    where = found["environment"]
    minutes = found["task_seconds"] / 60
    # The reason follows as the setting.
    command = found["command"].replace(shlex.quote(found["arguments"]["reduced"] or ""), "...")
    changed = " with uncommitted changes" if where["uncommitted_changes"] else ""
    return (
        f"`{command}`: {found['setting']}; {minutes:.0f} minutes of work; "
        f"{where['date'][:10]}, commit {where['commit'][:10]}{changed}, PyTorch {where['torch']}, "
        f"{where['cores']} cores of {where['processor']}; "
        f"[all numbers](../experiments/results/{name}.json)"
    )


def _known(name: str) -> str:
    if name not in registry.NAMES:
        raise RecordError(f"docs/experiments.md: {name!r} is none of {', '.join(registry.NAMES)}")
    return name
