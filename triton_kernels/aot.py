# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time compilation of the kernels, on any machine: do they compile, and without spills.

    python -m discrete_grad.triton_kernels.aot                            # prints the table
    python -m discrete_grad.triton_kernels.aot --output docs/kernels.md   # writes it
    python -m discrete_grad.triton_kernels.aot --full --targets sm_90     # every variant

Compiled is what a launch would compile (tests/aot holds it to that), so on a machine with a GPU a
run for its architecture fills Triton's cache (TRITON_CACHE_DIR) on all cores, and the kernels then
start at once. Needs no GPU, and must run without TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import triton
import triton.backends.nvidia
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import sweep
from .launch import Specialisation

__all__ = ["TARGETS", "Job", "Resources", "everyday", "full", "resources", "source", "table"]

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Where a sweep begins.
_FIRST = "sm_90"
_CUOBJDUMP = str(Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump")


class Resources(NamedTuple):
    """What a thread (shared: a program) of a compiled variant takes; or why it did not compile."""

    registers: int
    spills: int  # bytes of stack, where spilled registers go
    shared: int  # bytes
    error: str = ""


class Job(NamedTuple):
    """A variant to compile for a target, by name."""

    variant: Specialisation
    target: str


def source(variant: Specialisation) -> ASTSource:
    """What Triton compiles for a launch of this variant: pointers are aligned to 16 bytes."""
    types, constants = dict(variant.types), dict(variant.constants)
    names = variant.kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    missing = [name for name in names if name not in types and name not in constants]
    if missing:
        raise TypeError(f"{variant.kernel.__name__}: no value for {missing}")
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if signature[name].startswith("*")
    }
    return ASTSource(variant.kernel, signature, constexprs=constants, attrs=aligned)


def _cubin_resources(compiled: Any) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [_CUOBJDUMP, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", report)}
    return Resources(found["REG"], found["STACK"] + found["LOCAL"], compiled.metadata.shared)


def _amd_resources(compiled: Any) -> Resources:
    text = compiled.asm["amdgcn"]
    # Spilled registers are 4 bytes of a thread each.
    count, spilled = (
        int(re.search(rf"\.vgpr_{name}:\s+(\d+)", text)[1])  # type: ignore[index]
        for name in ("count", "spill_count")
    )
    return Resources(count, 4 * spilled, compiled.metadata.shared)


def resources(variant: Specialisation, target: str) -> Resources:
    """Compile one variant. An AMD target that fails is told in ``error``; an NVIDIA one raises."""
    gpu = TARGETS[target]
    options: dict[str, Any] = {
        "num_warps": variant.num_warps,
        "enable_fp_fusion": variant.fp_fusion,
    }
    if gpu.backend == "cuda":
        options["maxnreg"] = variant.max_registers
        return _cubin_resources(triton.compile(source(variant), target=gpu, options=options))
    try:
        return _amd_resources(triton.compile(source(variant), target=gpu, options=options))
    except Exception as error:
        return Resources(0, 0, 0, f"{type(error).__name__}: {error}".strip().splitlines()[-1])


def _resources_of(work: tuple[str, str, Specialisation, str]) -> Resources:
    """``resources`` in another process, where the kernel travels by its name."""
    module, name, variant, target = work
    kernel = getattr(importlib.import_module(module), name)
    try:
        return resources(variant._replace(kernel=kernel), target)
    except Exception as error:  # exceptions of the compiler do not travel
        raise RuntimeError(
            f"{sweep.describe(variant._replace(kernel=kernel))} for {target}: {error!r}"
        ) from None


def measure(jobs: Sequence[Job], processes: int) -> dict[Job, Resources]:
    """Compile all, shown by a progress bar, in so many processes."""
    work = []
    for variant, target in jobs:
        kernel = variant.kernel
        work.append((kernel.__module__, kernel.__name__, variant._replace(kernel=None), target))
    # Not forked: torch has threads by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        results = pool.map(_resources_of, work)
        progress = tqdm(results, total=len(work), unit="variant", disable=None)
        return dict(zip(jobs, progress, strict=True))


def everyday(
    variants: Sequence[Specialisation], targets: Iterable[str], processes: int
) -> dict[Job, Resources]:
    """For sm_90 every constant and type at least once; for the other targets, of each kernel and
    arithmetic the variant that took most registers there.
    """
    results = measure([Job(variant, _FIRST) for variant in sweep.covering(variants)], processes)
    most: dict[tuple[str, str], Job] = {}
    for job, found in results.items():
        kind = _kind(job)
        if kind not in most or _need(found) > _need(results[most[kind]]):
            most[kind] = job
    others = [target for target in targets if target != _FIRST]
    again = [Job(job.variant, target) for target in others for job in most.values()]
    results |= measure(again, processes)
    return {job: found for job, found in results.items() if job.target in targets}


def full(
    variants: Sequence[Specialisation], targets: Iterable[str], processes: int
) -> dict[Job, Resources]:
    """Every variant for every target."""
    return measure([Job(variant, target) for target in targets for variant in variants], processes)


def _kind(job: Job) -> tuple[str, str]:
    return sweep.label(job.variant.kernel), sweep.arithmetic(job.variant)


def _need(found: Resources) -> tuple[int, int]:
    return found.spills, found.registers


_HEADING = """\
# GPU kernels

Written by `python -m discrete_grad.triton_kernels.aot --output docs/kernels.md`; do not edit.

The Triton kernels, compiled ahead of time by Triton {version}. Each entry is the largest over the
variants compiled: registers of a thread / bytes of a thread's stack, which is where spilled
registers go / KiB of shared memory of a program. {total} variants are launched over a sweep of
shapes, dtypes and options; compiled here: {compiled}.
"""


def _markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, [":---", ":---", *["---:"] * (len(header) - 2)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _largest(results: Sequence[Resources]) -> str:
    compiled = [found for found in results if not found.error]
    if not compiled:
        return "fails" if results else "-"
    registers = max(found.registers for found in compiled)
    spills = max(found.spills for found in compiled)
    shared = max(found.shared for found in compiled) / 1024
    note = f" ({len(results) - len(compiled)} fail)" if len(compiled) < len(results) else ""
    return f"{registers} / {spills} / {shared:.1f}{note}"


def table(results: dict[Job, Resources], total: int) -> str:
    """docs/kernels.md."""
    targets = [target for target in TARGETS if any(job.target == target for job in results)]
    compiled = ", ".join(f"{sum(j.target == t for j in results)} for {t}" for t in targets)
    of_kind: dict[tuple[str, str], dict[str, list[Resources]]] = {}
    for job, found in results.items():
        of_kind.setdefault(_kind(job), {}).setdefault(job.target, []).append(found)

    def row(kind: tuple[str, str]) -> list[str]:
        cells = [_largest(of_kind[kind].get(target, [])) for target in targets]
        return [f"`{kind[0]}`", kind[1], *cells]

    parts = [_HEADING.format(version=triton.__version__, total=total, compiled=compiled)]
    parts.append(
        _markdown(["kernel", "computes in", *targets], [row(kind) for kind in sorted(of_kind)])
    )
    spilling = [
        f"- {job.target}, {found.spills} bytes: `{sweep.describe(job.variant)}`"
        for job, found in results.items()
        if found.spills
    ]
    parts.append("## Variants that spill\n\n" + ("\n".join(spilling) or "None.") + "\n")
    failing = [
        f"- {job.target}: `{sweep.describe(job.variant)}`: {found.error}"
        for job, found in results.items()
        if found.error
    ]
    if failing:
        parts.append("## Variants that do not compile\n\n" + "\n".join(failing) + "\n")
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="write the table there")
    parser.add_argument("--full", action="store_true", help="every variant for every target")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 16))
    options = parser.parse_args(arguments)

    from . import LAUNCHERS

    variants = sweep.record(LAUNCHERS)
    compiled = (full if options.full else everyday)(variants, options.targets, options.jobs)
    text = table(compiled, len(variants))
    if options.output:
        options.output.write_text(text, encoding="utf-8")
        print(f"wrote {options.output}")
    else:
        print(text)


if __name__ == "__main__":
    main()
