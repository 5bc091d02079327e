# SPDX-License-Identifier: Apache-2.0
"""Rules that hold for every source file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.builds import ROOT

FOLDERS = ("bench", "cmake", "csrc", "discrete_grad", "examples", "tests", "triton_kernels")
SUFFIXES = {".py", ".pyi", ".cpp", ".h", ".cu", ".cuh", ".cmake", ".def"}


def sources() -> list[Path]:
    found = [ROOT / "setup.py", ROOT / "CMakeLists.txt", ROOT / "pyproject.toml", ROOT / "Makefile"]
    for folder in FOLDERS:
        found += sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES)
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_names_its_licence(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first.lstrip("#/ ") == "SPDX-License-Identifier: Apache-2.0"
