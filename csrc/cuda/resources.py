# SPDX-License-Identifier: Apache-2.0
"""Registers, stack and shared memory of every CUDA C++ kernel, as ptxas tells them; needs no GPU.

python csrc/cuda/resources.py                            # prints the table
python csrc/cuda/resources.py --output docs/kernels.md   # puts it at the end of the file
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
ARCHS = ("80", "90", "100")


class Resources(NamedTuple):
    """What ptxas says of a kernel on an architecture; sizes in bytes."""

    kernel: str  # mangled
    architecture: str
    registers: int
    stack: int
    spills: int
    shared: int


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")
_SHARED = re.compile(r"(\d+) bytes smem")


def _found(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.search(text)
    if match is None:
        raise ValueError(f"ptxas does not say {pattern.pattern!r} in:\n{text}")
    return match


def parse(log: str) -> list[Resources]:
    """The kernels that the log of ``ptxas -v`` names, in its order."""
    kernels = []
    for text in re.split(r"(?=ptxas info +: Compiling entry function)", log)[1:]:
        entry, frame, used = (_found(pattern, text) for pattern in (_ENTRY, _FRAME, _USED))
        shared = _SHARED.search(used[2])
        stack, stores, loads = (int(frame[i]) for i in (1, 2, 3))
        size = int(shared[1]) if shared else 0
        kernels.append(Resources(entry[1], entry[2], int(used[1]), stack, max(stores, loads), size))
    return kernels


def compile_source(
    nvcc: str, source: Path, target: Path, archs: Sequence[str] = ARCHS, flags: Sequence[str] = ()
) -> list[Resources]:
    """Compiles a source to ``target``; raises RuntimeError with nvcc's words."""
    generate = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    command = [nvcc, "-std=c++17", "-O3", f"-I{FOLDER.parent}", *generate, *flags]
    command += ["-Xptxas", "-v", "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return parse(result.stderr)


def _names(kernels: Iterable[Resources]) -> dict[str, tuple[str, str]]:
    """The kernel and the number that it computes in, by mangled name."""
    mangled = sorted({kernel.kernel for kernel in kernels})
    plain = subprocess.run(
        ["c++filt", *mangled], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = {}
    for symbol, text in zip(mangled, plain, strict=True):
        name = re.search(r"(\w+)(?:<|\()", re.sub(r"\(anonymous namespace\)::", "", text))
        kind = "fp64" if "double" in text else "fp32" if "float" in text else "-"
        names[symbol] = (name[1] if name else symbol, kind)
    return names


_HEADING = "# CUDA C++ kernels"
_TEXT = """\
Written by `python csrc/cuda/resources.py --output docs/kernels.md`; do not edit.

The kernels in csrc/cuda, compiled by nvcc {version}. Each entry is the largest over the variants of
a kernel: registers of a thread / bytes of a thread's stack, which is where spilled registers go /
KiB of static shared memory of a block.
"""


def table(kernels: Sequence[Resources], version: str) -> str:
    """The section of docs/kernels.md."""
    names = _names(kernels)
    archs = sorted({k.architecture for k in kernels}, key=lambda a: int(a.removeprefix("sm_")))
    largest: dict[tuple[str, str], dict[str, tuple[int, int, int]]] = {}
    for kernel in kernels:
        cells = largest.setdefault(names[kernel.kernel], {})
        old = cells.get(kernel.architecture, (0, 0, 0))
        new = (kernel.registers, max(kernel.stack, kernel.spills), kernel.shared)
        cells[kernel.architecture] = (
            max(old[0], new[0]),
            max(old[1], new[1]),
            max(old[2], new[2]),
        )
    lines = [
        _HEADING,
        "",
        _TEXT.format(version=version),
        "| " + " | ".join(["kernel", "computes in", *archs]) + " |",
        "| " + " | ".join([":---", ":---", *["---:"] * len(archs)]) + " |",
    ]
    for (name, kind), cells in sorted(largest.items()):
        of_archs = (cells.get(arch) for arch in archs)
        texts = ("-" if c is None else f"{c[0]} / {c[1]} / {c[2] / 1024:.1f}" for c in of_archs)
        lines.append("| " + " | ".join([f"`{name}`", kind, *texts]) + " |")
    return "\n".join(lines) + "\n"


def _find_nvcc() -> str | None:
    spec = importlib.util.spec_from_file_location("discrete_grad_cuda_build", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str | None = module.find_nvcc()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="put the table at the end of this file")
    parser.add_argument("--archs", nargs="+", default=ARCHS, help="compute capabilities: 90")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    nvcc = _find_nvcc()
    if nvcc is None or shutil.which("c++filt") is None:
        raise SystemExit("nvcc and c++filt are needed for the table of the CUDA kernels")
    version = subprocess.check_output([nvcc, "--version"], text=True)
    release = _found(re.compile(r"release ([\d.]+)"), version)[1]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        sources = sorted(FOLDER.glob("*.cu"))
        targets = [Path(folder, f"{source.stem}.o") for source in sources]
        found = pool.map(lambda s, t: compile_source(nvcc, s, t, options.archs), sources, targets)
        text = table([kernel for kernels in found for kernel in kernels], release)
    if options.output is None:
        print(text)
        return
    old = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    kept = old.partition(_HEADING)[0].rstrip("\n")
    options.output.write_text(f"{kept}\n\n{text}" if kept else text, encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
