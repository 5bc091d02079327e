# SPDX-License-Identifier: Apache-2.0
"""Compiles CUDA sources for the emulation: plain C++, kept by content for the session."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.packaging.builds import ROOT

HERE = Path(__file__).parent
FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique"),
    *("-U_FORTIFY_SOURCE", "-DDG_CUDA_EMULATION"),
    # A GPU contracts to fma; here no result may depend on it.
    *("-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *(f"-I{ROOT / 'csrc'}", f"-I{HERE}"),
)
_FOLDER = Path(tempfile.gettempdir()) / "discrete_grad_cuda_emulation"


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
    return result.stdout


def _made(make: Callable[[Path], None], suffix: str, *parts: str) -> Path:
    """A file that ``make`` writes, kept under the hash of all that it depends on."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    target = _FOLDER / f"{digest}{suffix}"
    if not target.exists():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
            made = Path(folder) / "made"
            make(made)
            made.rename(target)
    return target


def _object(source: Path, flags: Sequence[str]) -> Path:
    command = ("g++", "-x", "c++", *FLAGS, *flags, str(source))
    text = _run(*command, "-E", "-P")
    return _made(lambda made: _run(*command, "-c", "-o", str(made)), ".o", text, *FLAGS, *flags)


def compile_cuda(
    sources: Sequence[Path], shim: str = "", *, program: bool = False, flags: Sequence[str] = ()
) -> Path:
    """A shared library (or a program) of ``sources`` and of ``shim``, the text of one more.

    Args:
        sources: .cu files.
        shim: C++ that exports what a test calls, by EXPORT before each such function.
        program: link a program, for runs under a sanitizer.
        flags: further compiler flags.
    """
    files = list(sources)
    if shim:
        text = '#define EXPORT extern "C" __attribute__((visibility("default")))\n' + shim
        files.append(_made(lambda made: made.write_text(text, encoding="utf-8"), ".cu", text))
    objects = [str(_object(file, flags)) for file in files]
    link = ("g++", *flags, *(() if program else ("-shared",)), *objects)
    return _made(lambda made: _run(*link, "-o", str(made)), "" if program else ".so", *link)


def compile_ops(
    sources: Sequence[Path], headers: Sequence[Path], flags: Sequence[str], version: str
) -> list[Path]:
    """Objects of the C++ files that give the kernels to PyTorch, for its CPU tensors.

    Args:
        sources: .cpp files.
        headers: those of this repository that they include.
        flags: where the headers are.
        version: of PyTorch.
    """
    command = ("g++", "-std=c++20", "-O1", "-fPIC", "-DDG_CUDA_EMULATION", "-Wall", "-Wextra")
    command += ("-Werror", *flags)
    common = [header.read_text(encoding="utf-8") for header in headers]

    def compiled(source: Path) -> Path:
        parts = (source.read_text(encoding="utf-8"), *common, *command, version)
        return _made(
            lambda made: _run(*command, "-c", str(source), "-o", str(made)), ".ops.o", *parts
        )

    return [compiled(source) for source in sources]


def link_library(objects: Sequence[Path], *libraries: str) -> Path:
    """A shared library that finds what it is linked with where that is now."""
    link = ("g++", "-shared", *map(str, objects), *libraries)
    return _made(lambda made: _run(*link, "-o", str(made)), ".so", *link)


def load(library: Path) -> ctypes.CDLL:
    """The library, with the emulation's own functions declared."""
    loaded = ctypes.CDLL(str(library))
    loaded.cuda_emulation_error.restype = ctypes.c_char_p
    loaded.cuda_emulation_schedule.argtypes = [ctypes.c_uint64]
    return loaded
