# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels of one SIMD level as a program without PyTorch, by kernels/times.cpp."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from machine import ROOT

DRIVER = ROOT / "bench" / "kernels" / "times.cpp"
FLAGS = ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
ISA_FLAGS = {
    "DEFAULT": [],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"],
}


def build(csrc: Path, level: str, folder: Path) -> Path:
    """The driver in ``folder``, linked with the kernels of a csrc/ for a SIMD level."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    kernels, program = folder / "kernels.o", folder / "times"
    source = csrc / "cpu" / "simd" / "kernels.cpp"
    compiled = [*ISA_FLAGS[level], f"-DCPU_CAPABILITY={level}", "-c", str(source)]
    linked = [f"-DLEVEL={level}", str(DRIVER), str(kernels)]
    for parts, output in ((compiled, kernels), (linked, program)):
        subprocess.run([*compiler, *FLAGS, f"-I{csrc}", *parts, "-o", str(output)], check=True)
    return program
