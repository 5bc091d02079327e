# SPDX-License-Identifier: Apache-2.0
"""What setup.py decides to build, and what it says where it cannot build more."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.packaging.builds import ROOT, clean_environment, install, probe

VARIABLES = ("DISCRETE_GRAD_NO_EXTENSION", "DISCRETE_GRAD_SANITIZE", "DISCRETE_GRAD_CUDA", "CXX")


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """setup.py as a module, in an empty folder, with a clean environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("discrete_grad_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


HEADERS = Path(torch.__file__).parent / "include"


def cuda_source() -> None:
    source = Path("csrc/cuda/kernel.cu")
    source.parent.mkdir(parents=True)
    source.write_text("__global__ void kernel() {}\n")


def test_with_a_compiler(build: ModuleType) -> None:
    plan = build.make_plan()
    assert plan.extension
    assert plan.reason is None
    assert plan.isas[0] == "DEFAULT"
    assert not plan.cuda
    assert plan.cuda_reason


def test_no_compiler(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    plan = build.make_plan()
    assert not plan.extension
    assert plan.reason == "no C++ compiler was found (looked for /nonexistent/c++)"


def test_compiler_that_builds_nothing(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'fatal error: vector: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    plan = build.make_plan()
    assert not plan.extension
    assert re.search("cannot build a module: fatal error: vector", plan.reason)


def test_extension_refused(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCRETE_GRAD_NO_EXTENSION", "1")
    plan = build.make_plan()
    assert not plan.extension
    assert "DISCRETE_GRAD_NO_EXTENSION=1" in plan.reason


def test_cuda_asked_for_without_sources(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCRETE_GRAD_CUDA", "1")
    with pytest.raises(
        SystemExit, match=r"DISCRETE_GRAD_CUDA=1, but this version has no CUDA sources"
    ):
        build.make_plan()


def test_cuda_asked_for_without_nvcc(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_source()
    monkeypatch.setenv("DISCRETE_GRAD_CUDA", "1")
    monkeypatch.setenv("CUDA_HOME", "/nonexistent")
    with pytest.raises(SystemExit, match=r"DISCRETE_GRAD_CUDA=1, but nvcc was not found"):
        build.make_plan()


@pytest.mark.parametrize("variable", ["CXX", "DISCRETE_GRAD_NO_EXTENSION"])
def test_cuda_asked_for_without_extension(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    cuda_source()
    monkeypatch.setenv("DISCRETE_GRAD_CUDA", "1")
    monkeypatch.setenv(variable, "/nonexistent/c++" if variable == "CXX" else "1")
    with pytest.raises(SystemExit, match=r"DISCRETE_GRAD_CUDA=1, but the extension is not built"):
        build.make_plan()


def fake_nvcc(folder: Path) -> Path:
    """A CUDA_HOME whose nvcc only knows which architectures it has."""
    nvcc = folder / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\nprintf 'compute_80\\ncompute_90\\n'\n")
    nvcc.chmod(0o755)
    return nvcc.parents[1]


def test_cuda_asked_for_takes_what_nvcc_knows(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda_source()
    monkeypatch.setenv("DISCRETE_GRAD_CUDA", "1")
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path)))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    plan = build.make_plan()
    assert plan.cuda
    assert plan.cuda_archs == ("80", "90")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6;9.0a+PTX")
    assert build.make_plan().cuda_archs == ("86", "90a")


def test_cuda_sources_wait_for_a_torch_with_cuda(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda_source()
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path)))
    assert build.cuda.decide(True, HEADERS).build
    decision = build.cuda.decide(False, HEADERS)
    assert not decision.build
    assert "this torch has no CUDA" in str(decision.reason)


def test_cuda_needs_the_handle_of_a_stream(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda_source()
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path)))
    header = tmp_path / "c10/core/Stream.h"
    header.parent.mkdir(parents=True)
    header.write_text("class Stream {};")
    decision = build.cuda.decide(True, tmp_path)
    assert not decision.build
    assert "this torch is too old" in str(decision.reason)


def test_cuda_refused(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cuda_source()
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path)))
    monkeypatch.setenv("DISCRETE_GRAD_CUDA", "0")
    decision = build.cuda.decide(True, HEADERS)
    assert not decision.build
    assert decision.reason == "DISCRETE_GRAD_CUDA=0 was set at installation"


def test_cuda_objects_are_made_again_where_something_changed(
    build: ModuleType, tmp_path: Path
) -> None:
    cuda_source()
    header = Path("csrc/cuda/kernel.h")
    header.write_text("#pragma once\n")
    made = []

    def spawn(line: list[str]) -> None:
        made.append(Path(line[-3]).name)
        Path(line[-1]).write_text("object")

    def compile_all(*archs: str) -> list[str]:
        line = build.cuda.command("nvcc", archs, "c++")
        return build.cuda.compile_objects(line, tmp_path / "objects", 2, spawn)

    objects = compile_all("90")
    assert compile_all("90") == objects
    assert made == ["kernel.cu"]
    compile_all("90", "100")
    header.write_text("#pragma once\nint changed;\n")
    compile_all("90", "100")
    assert made == ["kernel.cu"] * 3


def test_the_newest_architecture_has_ptx(build: ModuleType) -> None:
    line = build.cuda.command("nvcc", ("80", "100", "90a"), "c++")
    assert "arch=compute_100,code=compute_100" in line
    assert "-warn-spills,-warn-lmem-usage,-Werror" in line


def test_flags_are_zero_or_one(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCRETE_GRAD_CUDA", "yes")
    with pytest.raises(SystemExit, match=r"DISCRETE_GRAD_CUDA must be 0 or 1, not 'yes'"):
        build.cuda.asked()
    monkeypatch.setenv("DISCRETE_GRAD_SANITIZE", "yes")
    with pytest.raises(SystemExit, match=r"DISCRETE_GRAD_SANITIZE must be 0 or 1, not 'yes'"):
        build.flag("DISCRETE_GRAD_SANITIZE")


def test_both_builds_use_the_same_simd_flags(build: ModuleType) -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    cmake = {
        isa: flags.split() for isa, flags in re.findall(r"set\(flags_(\w+)((?: -\w+)*)\)", text)
    }
    assert cmake == build.ISA_FLAGS


def test_broken_source_fails_the_build(make_tree: Callable[[], Path], tmp_path: Path) -> None:
    tree = make_tree()
    for source in (tree / "csrc").rglob("*.cpp"):
        source.write_text("#error broken on purpose\n")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    result = subprocess.run(
        [*command, "-w", str(tmp_path), str(tree)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "broken on purpose" in result.stdout + result.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_pure_python_build_says_why(pure_wheel: Path, tmp_path: Path) -> None:
    assert pure_wheel.name.endswith("py3-none-any.whl")
    report = json.loads(zipfile.ZipFile(pure_wheel).read("discrete_grad/_build_report.json"))
    assert report["extension"] is False
    installed = install(pure_wheel, tmp_path / "installed")
    config, marginals, message = probe(
        installed,
        """
import torch, discrete_grad as dg
logits = torch.zeros(4, dtype=torch.float64)
try:
    dg.subset.marginals(logits, 2)
    message = None
except RuntimeError as error:
    message = str(error)
with dg.backend("reference"):
    marginals = dg.subset.marginals(logits, 2).tolist()
print(json.dumps([str(dg.show_config()), marginals, message]))
""",
    )
    assert report["reason"] in config
    assert marginals == pytest.approx([0.5] * 4, abs=1e-14)
    assert message is not None
    assert report["reason"] in message
