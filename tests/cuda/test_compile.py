# SPDX-License-Identifier: Apache-2.0
"""Every CUDA source compiles for every architecture, keeps its numbers in registers, and stays
within the shared memory that every GPU has. No GPU is needed, but nvcc is.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.packaging.builds import ROOT

SHARED_MEMORY = 48 * 1024
CUDA = ROOT / "csrc" / "cuda"
SOURCES = sorted(CUDA.glob("*.cu"))


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"csrc_cuda_{name}", CUDA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


resources = _load("resources")
NVCC = _load("build").find_nvcc()
if NVCC is None:
    pytest.skip("nvcc was not found", allow_module_level=True)


def compile_source(source: Path, folder: Path, *flags: str) -> list[Any]:
    return resources.compile_source(NVCC, source, folder / "kernels.o", flags=flags)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_kernels(source, tmp_path):
    kernels = compile_source(source, tmp_path, "-Werror", "all-warnings")
    # A file of launchers alone has none.
    assert bool(kernels) == ("__global__" in _with_headers(source))
    per_architecture = {f"sm_{a}": 0 for a in resources.ARCHS}
    for kernel in kernels:
        per_architecture[kernel.architecture] += 1
        print(*kernel)
    assert len(set(per_architecture.values())) == 1
    refused = [k for k in kernels if k.stack or k.spills or k.shared > SHARED_MEMORY]
    assert not refused


def _with_headers(source: Path) -> str:
    """A source with those of its headers that hold kernels."""
    text = source.read_text(encoding="utf-8")
    names = re.findall(r'#include "cuda/([\w.]+)"', text)
    return text + "".join(_with_headers(source.parent / name) for name in set(names))


def test_no_cuda_header_is_needed_to_launch(tmp_path):
    """What the ops include."""
    source = tmp_path / "ops.cpp"
    source.write_text('#include "cuda/launchers.h"\n')
    command = ["g++", "-std=c++17", "-Wall", "-Werror", f"-I{ROOT / 'csrc'}", "-fsyntax-only"]
    subprocess.run([*command, str(source)], check=True)


SPILLING = """
__global__ void spilling_kernel(float* x) {
  float kept[400];
#pragma unroll
  for (int i = 0; i < 400; ++i) kept[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 400; ++i) x[i * 1024 + threadIdx.x] = kept[i] * kept[(i * 7) % 400];
}
"""


def test_spills_are_seen(tmp_path):
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    kernels = compile_source(source, tmp_path)
    assert {k.architecture for k in kernels} == {f"sm_{a}" for a in resources.ARCHS}
    assert all(k.spills > 0 and k.stack > 0 for k in kernels)


def test_the_table_has_the_largest_of_each_kernel(tmp_path):
    source = tmp_path / "two.cu"
    source.write_text(
        "template <class T, int n> __global__ void copy_kernel(T* x) {\n"
        "  __shared__ T kept[n]; kept[threadIdx.x] = x[threadIdx.x]; __syncthreads();\n"
        "  x[threadIdx.x] = kept[n - 1 - threadIdx.x]; }\n"
        "template __global__ void copy_kernel<float, 256>(float*);\n"
        "template __global__ void copy_kernel<float, 512>(float*);\n"
        "template __global__ void copy_kernel<double, 256>(double*);\n"
    )
    lines = resources.table(compile_source(source, tmp_path), "13.0").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    assert [row[:2] for row in rows] == [["| `copy_kernel`", "fp32"], ["| `copy_kernel`", "fp64"]]
    assert all(cell.endswith(" / 0 / 2.0") for row in rows for cell in row[2:4])
