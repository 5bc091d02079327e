# SPDX-License-Identifier: Apache-2.0
"""What an experiment is to the runner."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from experiments.session import JSON, Session
from experiments.tables import Table


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """For an experiment that has no options of its own."""


@dataclass(frozen=True)
class Experiment:
    """One experiment: how it is run, and what its results look like.

    Args:
        name: as on the command line.
        title: one line for the help.
        source: the paper and the section that it re-does.
        run: returns the results, JSON-able: all that tables and figures need.
        tables: from results alone to tables by a short name.
        figures: from results alone to figures by a short name.
        add_arguments: adds the experiment's own options to the parser.
    """

    name: str
    title: str
    source: str
    run: Callable[[Session], JSON]
    tables: Callable[[JSON], dict[str, Table]]
    figures: Callable[[JSON], dict[str, Figure]]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments
