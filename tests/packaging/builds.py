# SPDX-License-Identifier: Apache-2.0
"""Building, installing and importing the package away from this environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCES = (
    *("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"),
    *("CMakeLists.txt", "cmake", "csrc", "discrete_grad", "triton_kernels"),
)


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what would change a build, plus `variables`."""
    drop = ("DISCRETE_GRAD_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    return environment | variables


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; its output is in the error where it fails."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result


def backend_hook(tree: Path, hook: str, target: Path, **variables: str) -> Path:
    """Calls a PEP 517/660 hook (build_wheel, build_sdist, build_editable), as pip does."""
    target.mkdir(parents=True, exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.{hook}({str(target)!r})"
    run(sys.executable, "-c", code, cwd=tree, **variables)
    (built,) = target.iterdir()
    return built


def copy_sources(tree: Path) -> None:
    """Copies all that a build reads, without what earlier builds left in it."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_report.json")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, tree / name)


def install(wheel: Path, target: Path) -> Path:
    """Installs a wheel in a folder of its own."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    run(*command, "--target", target, wheel, cwd=target.parent)
    return target


def probe(installed: Path, code: str) -> Any:
    """Runs `code`, which prints one JSON value, with the package installed in `installed` alone.

    -S keeps out the .pth files of this environment, hence its own installation of the package;
    addsitedir then reads those of `installed`, which comes first on sys.path because the module
    behind an editable install bears the same name here and there.
    """
    start = f"""
import json, site, sys
sys.path[:] = [{str(installed)!r}, *filter(None, sys.path), {sysconfig.get_path("purelib")!r}]
site.addsitedir({str(installed)!r})
"""
    result = run(sys.executable, "-S", "-c", start + code, cwd=installed.parent)
    return json.loads(result.stdout.splitlines()[-1])
