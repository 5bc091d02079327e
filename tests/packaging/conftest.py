# SPDX-License-Identifier: Apache-2.0
"""Copies of the source tree to build in, and the wheel that most tests look at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.builds import copy_sources, run


@pytest.fixture(scope="session")
def make_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a fresh copy of the sources at each call."""

    def make() -> Path:
        tree = tmp_path_factory.mktemp("tree")
        copy_sources(tree)
        return tree

    return make


@pytest.fixture(scope="session")
def pure_wheel(make_tree: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel without the C++ extension, built by pip as a user would."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    tree = make_tree()
    run(*command, "-w", target, tree, cwd=tree, DISCRETE_GRAD_NO_EXTENSION="1")
    (wheel,) = target.glob("*.whl")
    return wheel
