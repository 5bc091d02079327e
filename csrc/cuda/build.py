# SPDX-License-Identifier: Apache-2.0
"""Whether and how setup.py compiles the CUDA kernels: framework-free .cu files, by nvcc alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob
from pathlib import Path

VARIABLE = "DISCRETE_GRAD_CUDA"
# Compute capabilities by default; newer GPUs run the PTX of the last one.
ARCHS = ("80", "90", "100")
# nvcc links nothing here: what its objects need beside the static runtime.
LIBRARIES = ("cudart_static", "rt", "dl", "pthread")
# Registers that do not suffice make a kernel many times slower, so they fail the build.
PTXAS = "-warn-spills,-warn-lmem-usage,-Werror"


@dataclass(frozen=True)
class Decision:
    """Whether the kernels are built, for which architectures, or why not."""

    build: bool
    reason: str | None = None
    archs: tuple[str, ...] = ()
    nvcc: str | None = None


def asked() -> bool | None:
    """What the environment says: True, False, or None where it leaves that to what is found."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{VARIABLE} must be 0 or 1, not {value!r}.")
    return None if value == "" else value == "1"


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which("nvcc", path=os.path.join(home, "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def decide(torch_has_cuda: bool, torch_headers: Path) -> Decision:
    """What to do on this machine, in the folder of setup.py."""
    wanted, nvcc = asked(), find_nvcc()
    if wanted is False:
        return Decision(False, f"{VARIABLE}=0 was set at installation")
    if not glob("csrc/cuda/*.cu"):
        reason = "this version has no CUDA sources (csrc/cuda/*.cu)"
    elif nvcc is None:
        reason = "nvcc was not found (neither in CUDA_HOME nor on PATH)"
    elif not torch_has_cuda and not wanted:
        reason = f"this torch has no CUDA ({VARIABLE}=1 builds the kernels all the same)"
    elif "native_handle" not in (torch_headers / "c10/core/Stream.h").read_text(encoding="utf-8"):
        reason = "this torch is too old: its c10::Stream has no native_handle()"
    else:
        return Decision(True, archs=_archs(nvcc), nvcc=nvcc)
    if wanted:
        raise SystemExit(f"{VARIABLE}=1, but {reason}.")
    return Decision(False, reason)


def _archs(nvcc: str) -> tuple[str, ...]:
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    archs = [a.replace(".", "").replace("+PTX", "") for a in re.split(r"[;\s]+", listed) if a]
    if archs:
        return tuple(archs)
    known = subprocess.check_output([nvcc, "--list-gpu-arch"], text=True).split()
    return tuple(a for a in ARCHS if f"compute_{a}" in known)


def command(nvcc: str, archs: Sequence[str], compiler: str) -> list[str]:
    """nvcc's command line without a source: code for each architecture, PTX for later ones."""
    line = [nvcc, "-c", "-O3", "-std=c++17", "-Icsrc", "-ccbin", compiler]
    line += ["-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", PTXAS]
    for arch in archs:
        line += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    newest = max(archs, key=lambda a: int(re.sub(r"\D", "", a)))
    return [*line, "-gencode", f"arch=compute_{newest},code=compute_{newest}"]


def compile_objects(
    line: Sequence[str], folder: Path, jobs: int, spawn: Callable[[list[str]], None]
) -> list[str]:
    """Compiles every .cu file that has changed since its object in ``folder`` was made."""
    folder.mkdir(parents=True, exist_ok=True)
    headers = sorted(glob("csrc/cuda/*.cuh") + glob("csrc/cuda/*.h") + glob("csrc/core/*.h"))
    common = hashlib.sha256(repr([*line]).encode())
    for header in headers:
        common.update(header.encode() + Path(header).read_bytes())

    def compiled(source: str) -> str:
        target = folder / f"{Path(source).stem}.cu.o"
        made_of = target.with_suffix(".sha256")
        digest = common.copy()
        digest.update(Path(source).read_bytes())
        if not (target.exists() and made_of.exists() and made_of.read_text() == digest.hexdigest()):
            made_of.unlink(missing_ok=True)
            spawn([*line, source, "-o", str(target)])
            made_of.write_text(digest.hexdigest())
        return str(target)

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(compiled, sorted(glob("csrc/cuda/*.cu"))))


def library_folders(line: Sequence[str]) -> list[str]:
    """Where the static runtime is: nvcc may be a wrapper script, so it is asked."""
    dry = subprocess.run(
        [*line, "--dryrun", "x.cu"], capture_output=True, text=True, check=False
    ).stderr
    return re.findall(r'"-L([^"]+)"', dry)
