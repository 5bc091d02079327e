# SPDX-License-Identifier: Apache-2.0
"""Every GPU kernel compiles for every architecture, in every variant that is launched, and keeps
its row in registers. No GPU is needed.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re

import pytest
import torch

from tests.packaging.builds import ROOT

if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("compiles, so not under TRITON_INTERPRET", allow_module_level=True)

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from discrete_grad import triton_kernels
from discrete_grad.triton_kernels import aot, sweep
from discrete_grad.triton_kernels.aot import Job, Resources
from discrete_grad.triton_kernels.launch import Specialisation, launch, recording

NVIDIA = ("sm_80", "sm_90", "sm_100")
# File and kernel -> (bytes of stack at most, why that is right). The rule is that nothing spills.
ACCEPTED_SPILLS: dict[str, tuple[int, str]] = {
    "topk_difference_kernels.topk_difference_kernel": (
        8,
        "4,096 items take 16 warps, whose threads have 128 registers and no more; two numbers of "
        "each thread are put aside once (sm_90, sm_100)",
    ),
}
# What every GPU since sm_80 can give one program without asking for more.
SHARED_MEMORY = 48 * 1024


@pytest.fixture(scope="session")
def variants() -> list[Specialisation]:
    return sweep.record(triton_kernels.LAUNCHERS)


@pytest.fixture(scope="session")
def compiled(variants: list[Specialisation]) -> dict[Job, Resources]:
    return aot.everyday(variants, aot.TARGETS, processes=2)


def entry_points() -> set[str]:
    """Kernels of the package: its compiled functions that are named as such."""
    names = set()
    for module in pkgutil.iter_modules(triton_kernels.__path__):
        found = vars(importlib.import_module(f"{triton_kernels.__name__}.{module.name}"))
        functions = [value for value in found.values() if isinstance(value, JITFunction)]
        names |= {sweep.label(f) for f in functions if f.__name__.endswith("_kernel")}
    return names


def test_every_kernel_is_launched(variants):
    """No dead kernel, none that the sweep does not reach, and all of them named *_kernel."""
    assert entry_points() == {sweep.label(variant.kernel) for variant in variants}


def test_every_op_has_a_launcher():
    from discrete_grad.ops.library import kernel_ops

    assert set(triton_kernels.LAUNCHERS) == set(kernel_ops())


def _refused(results: dict[Job, Resources]) -> list[str]:
    lines = []
    for job, found in results.items():
        allowed, _ = ACCEPTED_SPILLS.get(sweep.label(job.variant.kernel), (0, ""))
        if found.spills > allowed or found.shared > SHARED_MEMORY:
            lines.append(f"{job.target}: {found}: {sweep.describe(job.variant)}")
    return lines


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", NVIDIA)
def test_everyday_variants(compiled, target):
    """No register spills, no more shared memory than every GPU has."""
    here = {job: found for job, found in compiled.items() if job.target == target}
    assert here
    assert not _refused(here)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("target", NVIDIA)
def test_every_variant(variants, target):
    assert not _refused(aot.full(variants, [target], processes=2))


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_accepted_spills_are_still_there(variants):
    """An exception that is no longer needed is removed from the table."""
    named = [v for v in variants if sweep.label(v.kernel) in ACCEPTED_SPILLS]
    results = aot.full(named, NVIDIA, processes=2)
    spilling = {sweep.label(job.variant.kernel) for job, found in results.items() if found.spills}
    assert set(ACCEPTED_SPILLS) <= spilling


@triton.jit
def spilling_kernel(x, y, N: tl.constexpr):
    """One warp holds 2 N numbers until the sum over them all is known."""
    item = tl.arange(0, N)
    a, b = tl.load(x + item), tl.load(y + item)
    total = tl.sum(a * b, axis=0)
    tl.store(x + item, a / total)
    tl.store(y + item, b + total)


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("spills", [False, True])
def test_spills_are_seen(target, spills):
    """Twice the numbers for each thread that it has registers: 255 of NVIDIA's, 512 of AMD's."""
    gpu = aot.TARGETS[target]
    each = {"cuda": 256, "hip": 512}[gpu.backend] if spills else 8
    items = each * gpu.warp_size
    types = (("x", "*fp32"), ("y", "*fp32"))
    found = aot.resources(Specialisation(spilling_kernel, types, (("N", items),), 1), target)
    assert not found.error
    assert found.registers > 0
    assert bool(found.spills) == spills


class _Driver:
    """As much of a GPU's driver as a launch asks before it compiles."""

    def get_current_device(self) -> int:
        return -1

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return aot.TARGETS["sm_90"]


@pytest.fixture
def launches(monkeypatch) -> list[tuple[object, ...]]:
    """What launches of CPU tensors inside the test would have Triton compile, with no GPU."""
    seen: list[tuple[object, ...]] = []

    def note(*, fn, compile, **_):
        seen.append(
            (
                fn.jit_function,
                compile["signature"],
                compile["constants"],
                compile["configs"][0],
                compile["num_warps"],
            )
        )
        return True  # this launch is over

    monkeypatch.setattr(triton.runtime.driver, "_active", _Driver())
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", note)
    return seen


def _run(name: str, device: str) -> None:
    launcher = triton_kernels.LAUNCHERS[name]
    logits = torch.zeros(3, 16, device=device)
    per_row, seed = torch.zeros(3, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    counts = torch.ones(3, dtype=torch.int64, device=device)
    arguments = {
        "subset_marginals": (logits, 16, counts, "contour"),
        "subset_marginals_vjp": (logits, 1, None, "contour", None, logits, per_row),
        "subset_sample": (logits, 4, None, 3, seed),
        "count_log_prob": (logits, 4),
        "perturbed_topk": (logits, 4, None, 16, None, 1.0, seed),
        "perturbed_topk_difference": (
            *(logits, logits.expand(1, 3, 16), 4, counts, None, per_row),
            *(1.0, 0.5, 16.0, 0.0, True, seed),
        ),
    }
    launcher(*arguments[name])


@pytest.mark.parametrize(
    "name",
    [
        *("subset_marginals", "subset_marginals_vjp", "subset_sample", "count_log_prob"),
        *("perturbed_topk", "perturbed_topk_difference"),
    ],
)
def test_compiled_is_what_a_launch_compiles(name, launches):
    """Types, constants, alignment and warps: for the scalars 1 and 16 too, which Triton would
    specialise on if it were let, and for those of float64, which it would narrow.
    """
    with recording() as recorded:
        _run(name, "meta")
    _run(name, "cpu")
    assert launches
    ours = []
    for variant in recorded:
        made = aot.source(variant)
        ours.append((made.fn, made.signature, made.constants, made.attrs, variant.num_warps))
    assert ours == launches


@triton.jit(do_not_specialize=["n"])
def copy_kernel(x, y, n, N: tl.constexpr):
    item = tl.arange(0, N)
    tl.store(y + item, tl.load(x + item, mask=item < n), mask=item < n)


def test_recorded_arguments():
    """Absent tensors become constants, integers the width they need."""
    x = torch.empty(4, device="meta", dtype=torch.bfloat16)
    with recording() as launches:
        launch(copy_kernel, 1, x, None, 2**40, num_warps=2, N=4)
    (variant,) = launches
    assert dict(variant.types) == {"x": "*bf16", "n": "i64"}
    assert dict(variant.constants) == {"y": None, "N": 4}


def test_covering_has_every_constant():
    made = [
        Specialisation(copy_kernel, (("x", kind), ("y", kind), ("n", "i32")), (("N", n),), warps)
        for kind in ("*fp32", "*bf16")
        for n in (16, 32, 64)
        for warps in (1, 2)
    ]
    chosen = sweep.covering(made)
    assert sweep.heaviest(made)[0] == made[4]  # 64 items on one warp
    assert {dict(v.constants)["N"] for v in chosen} == {16, 32, 64}
    assert {v.types for v in chosen} == {v.types for v in made}
    assert {v.num_warps for v in chosen} == {1, 2}
    assert len(chosen) < len(made)


def test_table():
    variant = Specialisation(copy_kernel, (("x", "*fp32"),), (("N", 16),), 1)
    wider = variant._replace(num_warps=4)
    results = {
        Job(variant, "sm_90"): Resources(40, 0, 1024),
        Job(wider, "sm_90"): Resources(64, 8, 512),
        Job(variant, "gfx942"): Resources(0, 0, 0, "no such intrinsic"),
    }
    text = aot.table(results, 5)
    assert "| `test_compile.copy_kernel` |  | 64 / 8 / 1.0 | fails |" in text
    assert "- sm_90, 8 bytes: `test_compile.copy_kernel(x: *fp32; N=16; num_warps=4)`" in text
    assert (
        "- gfx942: `test_compile.copy_kernel(x: *fp32; N=16; num_warps=1)`: no such intrinsic"
        in text
    )


def test_documentation_names_every_kernel():
    text = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    text, *_ = text.partition("# CUDA C++ kernels")
    assert set(re.findall(r"^\| `([\w.]+)`", text, re.MULTILINE)) == entry_points(), (
        "run python -m discrete_grad.triton_kernels.aot --output docs/kernels.md"
    )
