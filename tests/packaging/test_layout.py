# SPDX-License-Identifier: Apache-2.0
"""What a wheel, an editable install and a source distribution hold, and under which names.

``triton_kernels/`` stands at the top of the repository and must be importable as
``discrete_grad.triton_kernels`` only: Triton's own package bears the plain name.
"""

from __future__ import annotations

import importlib.util
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.builds import ROOT, backend_hook, install, probe

# Prints where the package and its kernels are, and what the plain name would import.
WHERE = """
import importlib.util
import discrete_grad, discrete_grad.triton_kernels as kernels
plain = importlib.util.find_spec("triton_kernels")
print(json.dumps([discrete_grad.__file__, kernels.__file__, plain and plain.origin]))
"""


def python_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


def expected_modules() -> set[str]:
    package = {f"discrete_grad/{name}" for name in python_files(ROOT / "discrete_grad")}
    kernels = python_files(ROOT / "triton_kernels")
    return package | {f"discrete_grad/triton_kernels/{name}" for name in kernels}


def test_wheel_holds_one_package(pure_wheel: Path) -> None:
    names = zipfile.ZipFile(pure_wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    (metadata,) = tops - {"discrete_grad"}
    assert metadata.endswith(".dist-info")
    modules = {name for name in names if name.endswith(".py")}
    assert modules == expected_modules()


def test_wheel_holds_the_data(pure_wheel: Path) -> None:
    wheel = zipfile.ZipFile(pure_wheel)
    names = set(wheel.namelist())
    assert {"discrete_grad/py.typed", "discrete_grad/_build_report.json"} <= names
    table = wheel.read("discrete_grad/ops/schemas.def")
    assert table == (ROOT / "discrete_grad/ops/schemas.def").read_bytes()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_metadata(pure_wheel: Path) -> None:
    wheel = zipfile.ZipFile(pure_wheel)
    (name,) = (n for n in wheel.namelist() if n.endswith("dist-info/METADATA"))
    metadata = wheel.read(name).decode().splitlines()
    for line in (
        "Name: discrete-grad",
        "License-Expression: Apache-2.0",
        "Requires-Python: >=3.10",
    ):
        assert line in metadata
    assert "Requires-Dist: torch>=2.9" in metadata


def test_installed_wheel(pure_wheel: Path, tmp_path: Path) -> None:
    installed = install(pure_wheel, tmp_path / "installed")
    package, kernels, plain = probe(installed, WHERE)
    assert Path(package) == installed / "discrete_grad/__init__.py"
    assert Path(kernels) == installed / "discrete_grad/triton_kernels/__init__.py"
    assert plain is None


def test_editable_install(make_tree: Callable[[], Path], tmp_path: Path) -> None:
    tree = make_tree()
    wheel = backend_hook(tree, "build_editable", tmp_path / "wheel", DISCRETE_GRAD_NO_EXTENSION="1")
    installed = install(wheel, tmp_path / "installed")
    package, kernels, plain = probe(installed, WHERE)
    assert Path(package) == tree / "discrete_grad/__init__.py"
    assert Path(kernels) == tree / "triton_kernels/__init__.py"
    assert plain is None
    report = json.loads((tree / "discrete_grad/_build_report.json").read_text())
    assert report["extension"] is False


def test_editable_install_without_extension_removes_a_stale_one(
    make_tree: Callable[[], Path], tmp_path: Path
) -> None:
    tree = make_tree()
    stale = tree / "discrete_grad/_C.cpython-311-x86_64-linux-gnu.so"
    stale.write_bytes(b"")
    backend_hook(tree, "build_editable", tmp_path / "wheel", DISCRETE_GRAD_NO_EXTENSION="1")
    assert not stale.exists()


def test_removed_module_does_not_return(make_tree: Callable[[], Path], tmp_path: Path) -> None:
    tree = make_tree()
    stale = tree / "build/lib/discrete_grad/removed.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    wheel = backend_hook(tree, "build_wheel", tmp_path / "wheel", DISCRETE_GRAD_NO_EXTENSION="1")
    assert "discrete_grad/removed.py" not in zipfile.ZipFile(wheel).namelist()


def test_this_environment_has_no_top_level_kernels() -> None:
    plain = importlib.util.find_spec("triton_kernels")
    assert plain is None or not Path(str(plain.origin)).is_relative_to(ROOT)


def test_source_distribution_is_complete(make_tree: Callable[[], Path], tmp_path: Path) -> None:
    archive = backend_hook(make_tree(), "build_sdist", tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("csrc", "cmake", "triton_kernels")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"discrete_grad/{name}" for name in python_files(ROOT / "discrete_grad")}
    wanted |= {"discrete_grad/ops/schemas.def", "discrete_grad/py.typed", "CMakeLists.txt"}
    assert wanted - names == set()


@pytest.mark.slow
def test_wheel_with_the_extension(make_tree: Callable[[], Path], tmp_path: Path) -> None:
    """From the source distribution, so that what is missing in it shows; compiles all of csrc/."""
    archive = backend_hook(make_tree(), "build_sdist", tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (tree,) = (tmp_path / "unpacked").iterdir()
    wheel = backend_hook(tree, "build_wheel", tmp_path / "wheel")
    assert "none-any" not in wheel.name
    installed = install(wheel, tmp_path / "installed")
    module, marginals, levels = probe(
        installed,
        """
import torch, discrete_grad as dg
from discrete_grad import _C
with dg.backend("cpp"):
    marginals = dg.subset.marginals(torch.zeros(4, dtype=torch.float64), 2)
print(json.dumps([_C.__file__, marginals.tolist(), _C.build_info()["simd_levels"]]))
""",
    )
    assert Path(module).parent == installed / "discrete_grad"
    assert marginals == pytest.approx([0.5] * 4, abs=1e-14)
    assert "DEFAULT" in levels
