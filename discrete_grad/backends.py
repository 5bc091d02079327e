# SPDX-License-Identifier: Apache-2.0
"""Backends: their names, which are available and why not, which one serves a call, ``show_config``.

A backend that cannot serve a call raises and says why. Nothing falls back to another backend: the
pure-PyTorch reference runs where it is asked for by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch

from discrete_grad import checks

NAMES = ("auto", "reference", "cpp", "cuda", "triton")
_REMEDY = (
    "Reinstall discrete_grad where a C++17 compiler is available "
    "(pip install --no-build-isolation .), or run the pure-PyTorch reference with "
    'dg.backend("reference").'
)
_NO_CUDA_KERNELS = "this installation has no CUDA C++ kernels"
_BUILD_REPORT = Path(__file__).with_name("_build_report.json")

# One choice for the process. torch.compile guards on it, so a compiled function follows a change.
_current = "auto"


def current() -> str:
    """The name last chosen with ``backend`` ("auto" at first)."""
    return _current


class backend:
    """Choose the backend of all calls that follow; as a context manager, of the calls inside only.

    ``dg.backend(name)`` sets at once and for the whole process (all threads); at the end of
    ``with dg.backend(name):`` the previous choice is put back.

    Args:
        name: "auto" (a compiled backend of the tensor's device: "cpp" on a CPU; on a GPU "triton",
            or "cuda" where Triton is not installed), "reference" (pure PyTorch, any device), "cpp"
            (the compiled CPU kernels), "cuda" (CUDA C++ kernels, where they were built; they need
            no Triton) or "triton".

    Raises:
        ValueError: the name is none of these. A backend that cannot serve a call raises
            RuntimeError in that call, with the reason and the remedy.
    """

    __slots__ = ("_previous",)

    def __init__(self, name: str) -> None:
        global _current
        checks.one_of("backend", name, NAMES)
        self._previous = _current
        _current = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _current
        _current = self._previous


def _load_extension() -> tuple[ModuleType | None, str | None]:
    """The compiled module, or None and why: not built (why not), or failing to load."""
    name = f"{__package__}._C"
    try:
        return importlib.import_module(name), None
    except ModuleNotFoundError as error:
        if error.name != name:
            return None, f"the C++ extension failed to load: {error}"
        return None, f"the C++ extension is not built: {_build_reason()}"
    except ImportError as error:
        # An extension loads only with the torch it was compiled against.
        return None, (
            f"the C++ extension failed to load with torch {torch.__version__} "
            f"(was it built against another torch?): {error}"
        )


def _build_report() -> dict[str, Any]:
    """What the build wrote down about itself; empty where the package was never built."""
    if not _BUILD_REPORT.exists():
        return {}
    report: dict[str, Any] = json.loads(_BUILD_REPORT.read_text(encoding="utf-8"))
    return report


def _build_reason() -> str:
    reason = _build_report().get("reason")
    return str(reason) if reason else "the package was not installed by its setup.py"


_extension, _extension_error = _load_extension()
extension_loaded = _extension is not None
_triton_installed = importlib.util.find_spec("triton") is not None
_cuda_built = _extension is not None and bool(_extension.build_info()["cuda_archs"])


def unavailable(name: str) -> str | None:
    """Why backend ``name`` can serve no call here, or None where it can serve some."""
    if name == "cpp":
        return _extension_error
    if name in ("cuda", "triton"):
        return _missing_kernels(name) or _missing_device()
    return None


def _missing_kernels(name: str) -> str | None:
    """Why there are no kernels of a GPU backend here, whatever the device; None where there are."""
    if name == "triton" and not _triton_installed:
        return "Triton is not installed"
    if not extension_loaded:
        return f"the ops' derivatives are in the C++ extension, and {_extension_error}"
    if name == "cuda" and not _cuda_built:
        reason = _build_report().get("cuda_reason")
        return _NO_CUDA_KERNELS + (f": {reason}" if reason else "")
    return None


def _missing_device() -> str | None:
    return None if torch.cuda.is_available() else "PyTorch sees no CUDA device"


def select(device_type: str) -> str:
    """The backend that serves a call on tensors of this type: any name but "auto".

    Meta tensors have no values: the ops' shape functions serve them, for every compiled backend.

    Raises:
        RuntimeError: the chosen backend cannot serve it; the message says why and what to do.
    """
    if _current == "reference":
        return "reference"
    if extension_loaded:
        if device_type == "cpu" and _current in ("auto", "cpp"):
            return "cpp"
        if device_type == "cuda" and _current in ("auto", "triton") and _triton_installed:
            return "triton"
        if device_type == "cuda" and _current in ("auto", "cuda") and _cuda_built:
            return "cuda"
    if device_type == "meta":
        return "cpp"
    raise RuntimeError(_why_not(_current, device_type))


_OWN = {"cpu": ("cpp",), "cuda": ("triton", "cuda")}  # the compiled backends of a device


def _why_not(name: str, device_type: str) -> str:
    own = _OWN.get(device_type, ())
    if name == "auto" and not own:
        reason = "there are no compiled kernels for that device"
    elif name == "auto":
        # Each once: where the extension is missing, one reason is that of both.
        reason = "; ".join(dict.fromkeys(str(unavailable(each)) for each in own))
    elif name == "cpp" and device_type != "cpu":
        reason = "the C++ kernels serve CPU tensors only"
    else:
        kernels = {"cuda": "CUDA C++", "triton": "Triton"}.get(name)
        reason = unavailable(name) or f"the {kernels} kernels serve CUDA tensors only"
    remedy = (
        _REMEDY
        if name in ("auto", "cpp") and device_type == "cpu"
        else 'dg.backend("reference") runs on any device.'
    )
    return f"backend {name!r} cannot serve tensors on device {device_type!r}: {reason}. {remedy}"


class _Report(str):
    """A string that an interactive prompt shows as its lines."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def show_config() -> str:
    """What runs here, for bug reports, as a printable string.

    Versions, backends (and why one is missing), GPU architectures, SIMD level, threads.
    """
    lines = [
        f"discrete_grad {_version('discrete-grad')}",
        f"python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, "
        f"triton {_version('triton')}",
        f"backend: {_current}",
    ]
    for name in NAMES[1:]:
        reason = unavailable(name)
        lines.append(f"  {name}: " + ("available" if reason is None else f"missing: {reason}"))
    lines.append(f"CUDA tensors: {_gpu_choice()}")
    build = dict(_extension.build_info()) if _extension is not None else {}
    reason = _build_report().get("cuda_reason")
    archs = build.get("cuda_archs") or ("none" + (f" ({reason})" if reason else ""))
    lines.append(f"GPU architectures compiled: {archs}")
    simd = _extension.cpu_capability() if _extension is not None else "none (no extension)"
    lines.append(f"SIMD level: {simd}")
    forced = os.environ.get("ATEN_CPU_CAPABILITY")
    if forced:
        lines.append(f"  (ATEN_CPU_CAPABILITY={forced})")
    lines.append(f"threads: {torch.get_num_threads()}")
    if build:
        given = (f"{key} {value}" for key, value in build.items() if value)
        lines.append("build: " + ", ".join(given))
    lines.append(f"package: {Path(__file__).parent} ({sys.executable})")
    return _Report("\n".join(lines))


def _gpu_choice() -> str:
    """Which backend serves CUDA tensors, and why that one."""
    try:
        serving = select("cuda")
    except RuntimeError:
        return "not served"
    if _current != "auto":
        return f"served by {serving}, which was chosen"
    if serving == "cuda":
        return f"served by cuda ({_missing_kernels('triton')})"
    return f"served by {serving}, the default"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
