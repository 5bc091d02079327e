# SPDX-License-Identifier: Apache-2.0
"""Starting a kernel: the one place that does, so that what is started can also be written down.

Under ``recording()`` the launchers run on meta tensors and no kernel starts: each launch is kept as
a ``Specialisation``, and the ahead-of-time check compiles exactly the variants that the launchers
choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Specialisation", "launch", "recording"]

_INT32 = 2**31
# Of a multiprocessor of every NVIDIA GPU that is served: a program that asks for more cannot start.
_REGISTERS = 2**16

_TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


class Specialisation(NamedTuple):
    """One compiled variant of a kernel."""

    kernel: Any
    types: tuple[tuple[str, str], ...]  # run-time arguments by name, in Triton's notation
    constants: tuple[tuple[str, Any], ...]  # constexprs and absent pointers (None) by name
    num_warps: int
    max_registers: int = 255  # of a thread, on an NVIDIA GPU
    fp_fusion: bool = True


_record: ContextVar[list[Specialisation] | None] = ContextVar("_record", default=None)


@contextmanager
def recording() -> Iterator[list[Specialisation]]:
    """Collects the launches made inside, which must be on meta tensors, instead of making them."""
    launches: list[Specialisation] = []
    token = _record.set(launches)
    try:
        yield launches
    finally:
        _record.reset(token)


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, int):
        return "i32" if -_INT32 <= value < _INT32 else "i64"
    return "fp64"  # kernels annotate such a parameter with tl.float64, or Triton narrows it


def launch(
    kernel: Any,
    programs: int,
    *args: Any,
    num_warps: int,
    max_registers: int | None = None,
    fp_fusion: bool = True,
    **constants: Any,
) -> None:
    """Starts ``programs`` programs of a kernel (none where that is 0).

    Args:
        kernel: a ``triton.jit`` function whose parameters are those of ``args``, then constexprs.
        programs: the size of the one-dimensional grid.
        args: contiguous tensors, None for an absent one, int and float scalars.
        num_warps: warps of a program.
        max_registers: that a thread may take on an NVIDIA GPU: 128 for 8 warps or more, else 255.
            Left alone, the assembler rather spills a few registers than lose a step of occupancy.
            Never more than there are for so many warps.
        fp_fusion: whether the compiler may fuse products and sums. Without, each operation rounds
            by itself, so that kernels that make the same number anew get the same bits.
        constants: the constexprs.
    """
    if programs == 0:
        return
    if max_registers is None:
        max_registers = 255 if num_warps <= 4 else 128
    max_registers = min(max_registers, _REGISTERS // (32 * num_warps))
    launches = _record.get()
    if launches is not None:
        named = dict(zip(kernel.arg_names, args, strict=False))
        absent = {name: None for name, value in named.items() if value is None}
        types = tuple((name, _type(value)) for name, value in named.items() if value is not None)
        launches.append(
            Specialisation(
                kernel,
                types,
                tuple({**absent, **constants}.items()),
                num_warps,
                max_registers,
                fp_fusion,
            )
        )
        return
    options: dict[str, Any] = {"num_warps": num_warps, "enable_fp_fusion": fp_fusion}
    if torch.version.hip is None:
        options["maxnreg"] = max_registers
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[(programs,)](*args, **options, **constants)
    else:  # Triton's interpreter
        kernel[(programs,)](*args, **options, **constants)
