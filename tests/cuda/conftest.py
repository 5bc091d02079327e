# SPDX-License-Identifier: Apache-2.0
"""Where the emulation of CUDA cannot run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# test_compile.py needs nvcc instead, and says so itself.
CAN_EMULATE = sys.platform == "linux" and shutil.which("g++") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CAN_EMULATE:
        return
    skip = pytest.mark.skip(reason="the emulation of CUDA needs Linux and g++")
    for item in items:
        if item.path.parent == HERE and item.path.name != "test_compile.py":
            item.add_marker(skip)
