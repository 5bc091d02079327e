# SPDX-License-Identifier: Apache-2.0
"""The whole CUDA backend in the emulation: torch.ops.discrete_grad_cuda_emulation."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

from tests.cuda.emulation.build import compile_cuda, compile_ops, link_library, load
from tests.packaging.builds import ROOT

_CUDA = ROOT / "csrc" / "cuda"
_SCHEMAS = ROOT / "discrete_grad" / "ops"


@functools.cache
def _kernels() -> Path:
    # A library of its own: shared memory is the thread-local storage of the kernels' library.
    return compile_cuda(sorted(_CUDA.glob("*.cu")), flags=["-fvisibility=default"])


@contextmanager
def schedule(number: int) -> Iterator[None]:
    """In which order the threads of a block run: cuda_emulation_schedule."""
    library = load(_kernels())
    library.cuda_emulation_schedule(number)
    yield
    library.cuda_emulation_schedule(0)


@functools.cache
def ops() -> Any:
    """The ops, compiled where their sources have changed, and loaded once."""
    flags = [f"-I{ROOT / 'csrc'}", f"-I{_SCHEMAS}"]
    flags += [f"-isystem{folder}" for folder in cpp_extension.include_paths()]
    headers = [*_CUDA.glob("*.h"), *(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc/core").glob("*.h")]
    headers.append(_SCHEMAS / "schemas.def")
    objects = compile_ops(sorted(_CUDA.glob("*.cpp")), sorted(headers), flags, torch.__version__)
    torch_folder = cpp_extension.library_paths()[0]
    library = link_library(
        objects, str(_kernels()), f"-L{torch_folder}", "-ltorch", "-ltorch_cpu", "-lc10"
    )
    torch.ops.load_library(str(library))
    return torch.ops.discrete_grad_cuda_emulation
