# SPDX-License-Identifier: Apache-2.0
"""GPU benchmarks: write bench/results/gpu-<device>-<date>.json.

    python bench/gpu.py [--filter 64x131072] [--seconds 0.1] [--output file.json]

How it measures: for each case the input is made once and copied to several buffers, more than
twice the L2 cache together where memory allows, which the calls go through in turns. A result of
ours is held to the float64 kernels of the CPU on its first and last rows before it is timed, and
perturbed top-k to torch.topk of the same noise. Times are triton.testing.do_bench (CUDA events, an
emptied L2 cache before each call): median, 20th and 80th percentile. ``over_ours`` is a ratio of
medians of the same run. ``floor`` is the time in which the device copies the least bytes that the
op must move (each input read once, each output written once) at the copy bandwidth measured at the
start, so floor / p50 is the share of that bandwidth. ``peak_bytes`` is the most memory allocated
during a call beyond inputs and outputs.

Ours is what "auto" takes, Triton where it is there; "cuda" is the CUDA C++ backend, by name.

A provider that cannot run a case has no time but a reason. Where that is ours, on either backend,
the run goes on, and ends with an error; an installation without the CUDA C++ kernels is none.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import baselines
import gpu_perturbed
import torch
from machine import RESULTS, environment, load_average, save, today
from torch import Tensor
from triton.testing import do_bench

import discrete_grad as dg
from discrete_grad import backends

DEVICE = torch.device("cuda")
OURS, CUDA, DP, SOFTMAX = "discrete_grad", "cuda", "dp", "softmax"
CHECKED = (OURS, CUDA)  # before they are timed
METHODS = ("contour", "linear")  # what "auto", which is OURS, chooses between

# (rows, n, k): N:M sparsity, routing, layers, a vocabulary, one huge row.
SHAPES = (
    (10**8, 4, 2),
    (2**20, 64, 8),
    (65536, 256, 32),
    (4096, 8192, 1000),
    (64, 131072, 1024),
    (1, 2**24, 2**16),
)
DTYPES = (torch.float32, torch.bfloat16)

# What is promised, and rounding to the storage format.
_ALLOWED = {torch.float32: 1e-6, torch.bfloat16: 2.0**-9 + 1e-6}
_CHECKED_NUMBERS = 2**22
_LINEAR_WORK = 2**16  # n k of a row
# The dynamic programme launches several kernels for each of its n steps, and keeps every table.
_DP_STEPS = 2**12
_DP_TABLES = 12
_MOST_BUFFERS = 8


@dataclass(frozen=True)
class Case:
    """One problem and what is asked of it: one of OPS, or of perturbed top-k's in gpu_perturbed."""

    op: str
    rows: int
    n: int
    k: int
    dtype: torch.dtype
    samples: int = 1

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def id(self) -> str:
        samples = f"-s{self.samples}" if self.samples > 1 else ""
        return f"{self.op}-{self.rows}x{self.n}-k{self.k}{samples}-{self.dtype_name}"

    @property
    def tensor_bytes(self) -> int:
        return self.rows * self.n * self.dtype.itemsize

    @property
    def least_bytes(self) -> int:
        """Logits in, result out; a backward pass has the upstream gradient and its own result.

        A difference reads one gradient for all samples.
        """
        tensors = {"marginals_grad": 4, gpu_perturbed.DIFFERENCE: 3}
        return self.tensor_bytes * tensors.get(self.op, 1 + self.samples)


OPS = ("marginals", "marginals_grad", "sample")
PERTURBED_OPS = (gpu_perturbed.KHOT, gpu_perturbed.DIFFERENCE)
CASES = tuple(
    Case(op, *shape, dtype) for shape in SHAPES for op in OPS for dtype in DTYPES
) + tuple(
    Case(op, rows, n, k, torch.float32, samples)
    for rows, n, k, samples in gpu_perturbed.SHAPES
    for op in PERTURBED_OPS
)


@dataclass(frozen=True)
class Inputs:
    """A leaf that requires a gradient, and the upstream gradient."""

    logits: Tensor
    grad: Tensor


Run = Callable[[Case, Inputs], object]


def _by_grad(output: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(output, inputs.logits, inputs.grad)
    return output, gradient


@torch.no_grad()
def _marginals(case: Case, inputs: Inputs) -> Tensor:
    return dg.subset.marginals(inputs.logits, case.k)


@torch.no_grad()
def _softmax(case: Case, inputs: Inputs) -> Tensor:
    return torch.softmax(inputs.logits, -1)


def _by_method(method: str, backward: bool) -> Run:
    def run(case: Case, inputs: Inputs) -> object:
        if backward:
            return _by_grad(dg.subset.marginals(inputs.logits, case.k, method=method), inputs)
        with torch.no_grad():
            return dg.subset.marginals(inputs.logits, case.k, method=method)

    return run


def _perturbed(case: Case, inputs: Inputs) -> Tensor:
    return gpu_perturbed.ours(case.op, inputs.logits, inputs.grad, case.k, case.samples)


def _perturbed_by_torch(case: Case, inputs: Inputs) -> Tensor:
    return gpu_perturbed.by_torch(case.op, inputs.logits, inputs.grad, case.k, case.samples)


def _marginals_grad(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    return _by_grad(dg.subset.marginals(inputs.logits, case.k), inputs)


def _sample(case: Case, inputs: Inputs) -> Tensor:
    return dg.subset.sample(inputs.logits, case.k)


def _by_cuda(run: Run) -> Run:
    def with_backend(case: Case, inputs: Inputs) -> object:
        with dg.backend("cuda"):
            return run(case, inputs)

    return with_backend


def _both(run: Run) -> dict[str, Run]:
    return {OURS: run, CUDA: _by_cuda(run)}


PROVIDERS: dict[str, dict[str, Run]] = {
    "marginals": {
        **_both(_marginals),
        DP: lambda case, inputs: baselines.marginals(inputs.logits, case.k),
        SOFTMAX: _softmax,
        **{method: _by_method(method, backward=False) for method in METHODS},
    },
    "marginals_grad": {
        **_both(_marginals_grad),
        DP: lambda case, x: _by_grad(baselines.marginals(x.logits, case.k, create_graph=True), x),
        SOFTMAX: lambda case, x: _by_grad(torch.softmax(x.logits, -1), x),
        **{method: _by_method(method, backward=True) for method in METHODS},
    },
    "sample": {
        **_both(_sample),
        DP: lambda case, inputs: baselines.sample(inputs.logits.detach(), case.k, 1),
        SOFTMAX: _softmax,
    },
    **{op: {**_both(_perturbed), gpu_perturbed.TORCH: _perturbed_by_torch} for op in PERTURBED_OPS},
}


def obstacle(case: Case, provider: str, free: int) -> str | None:
    """Why a provider is not run on a case, or None."""
    if provider == CUDA:
        return backends.unavailable(CUDA)
    if provider == "linear" and case.n * min(case.k, case.n - case.k) > _LINEAR_WORK:
        return f"O(n k) work, n k = {case.n * case.k:,}"
    if provider != DP:
        return None
    if case.dtype != torch.float32:
        return "float32 only: in 16 bits its logarithms keep no digits after the point"
    if case.n > _DP_STEPS:
        return f"{case.n:,} sequential steps"
    tables = _DP_TABLES * case.rows * case.n * (case.k + 1) * case.dtype.itemsize
    if tables > free:
        return f"needs about {tables / 2**30:.0f} GiB"
    return None


def make_inputs(case: Case) -> list[Inputs]:
    """The same problem in several buffers, so that calls in turns do not find it in the cache."""
    torch.cuda.manual_seed(case.rows + 101 * case.n + case.k)
    logits = torch.randn(case.rows, case.n, device=DEVICE, dtype=case.dtype)
    grad = torch.rand(case.rows, case.n, device=DEVICE, dtype=case.dtype).mul_(2).sub_(1)
    cache = torch.cuda.get_device_properties(DEVICE).L2_cache_size
    wanted = min(_MOST_BUFFERS, 1 + 2 * cache // case.tensor_bytes)
    made = [Inputs(logits.requires_grad_(), grad)]
    for _ in range(1, wanted):
        made.append(Inputs(logits.detach().clone().requires_grad_(), grad.clone()))
    return made


def check(case: Case, inputs: Inputs, provider: str = OURS) -> float:
    """The largest deviation of ours, on the backend of ``provider``, from float64 on the
    CPU over the first and last rows; of perturbed top-k, the share of rows with another subset than
    torch.topk has.

    Raises:
        AssertionError: it is more than is promised, or a sample is no k-hot tensor.
    """
    if case.op in PERTURBED_OPS:
        with dg.backend(CUDA if provider == CUDA else "auto"):
            return gpu_perturbed.check(case.op, inputs.logits, inputs.grad, case.k, case.samples)
    result = PROVIDERS[case.op][provider](case, inputs)
    if case.op == "sample":
        hot = result
        assert isinstance(hot, Tensor)
        sums = hot.sum(-1, dtype=torch.float32)
        assert bool((sums == case.k).all()), f"{case.id}: a draw has not {case.k} ones"
        return 0.0
    half = max(1, _CHECKED_NUMBERS // case.n // 2)
    parts = [slice(0, half), slice(-half, None)] if case.rows > 1 else [slice(None)]
    worst = 0.0
    for part in parts:
        theta = inputs.logits.detach()[part].cpu().double().requires_grad_()
        with dg.backend("cpp"):
            want: tuple[Tensor, ...] = (dg.subset.marginals(theta, case.k),)
            if case.op == "marginals_grad":
                want = _by_grad(want[0], Inputs(theta, inputs.grad[part].cpu().double()))
        values = result if isinstance(result, tuple) else (result,)
        for value, target in zip(values, want, strict=True):
            assert isinstance(value, Tensor)
            error = float((value.detach()[part].cpu().double() - target.detach()).abs().max())
            assert error <= _ALLOWED[case.dtype], f"{case.id}: error {error:.2e}"
            worst = max(worst, error)
    return worst


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory during a call beyond what was there before, less its results."""
    call()
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    outputs = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak - outputs


def timing(call: Callable[[], object], milliseconds: float) -> dict[str, float]:
    """Seconds: median, 20th and 80th percentile."""
    p50, p20, p80 = do_bench(
        call, warmup=milliseconds / 4, rep=milliseconds, quantiles=[0.5, 0.2, 0.8]
    )
    return {"p20": p20 / 1e3, "p50": p50 / 1e3, "p80": p80 / 1e3}


def copy_bandwidth(milliseconds: float) -> float:
    """Bytes per second of a large copy within the device, read and written."""
    size = min(2**32, torch.cuda.mem_get_info()[0] // 4)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    seconds = timing(lambda: target.copy_(source), max(milliseconds, 100.0))["p50"]
    return 2 * size / seconds


def run_provider(case: Case, provider: str, inputs: list[Inputs], milliseconds: float) -> Any:
    """One record: the times, or the reason why there are none."""
    record: dict[str, Any] = {
        **{"op": case.op, "rows": case.rows, "n": case.n, "k": case.k, "samples": case.samples},
        **{"dtype": case.dtype_name, "provider": provider, "error": None, "p50": None},
    }
    record["reason"] = obstacle(case, provider, torch.cuda.mem_get_info()[0])
    if record["reason"]:
        return record
    run = PROVIDERS[case.op][provider]
    turns = itertools.cycle(inputs)
    try:
        if provider in CHECKED:
            record["error"] = check(case, inputs[0], provider)
        record["peak_bytes"] = peak_bytes(lambda: run(case, inputs[0]))
        record |= timing(lambda: run(case, next(turns)), milliseconds)
    except torch.OutOfMemoryError:
        record["reason"] = "out of memory"
    except (RuntimeError, AssertionError) as error:
        record["reason"] = f"{type(error).__name__}: {error}".splitlines()[0]
    torch.cuda.empty_cache()
    return record


def run_case(case: Case, milliseconds: float, bandwidth: float) -> list[dict[str, Any]]:
    """A record for each provider, with its ratio to ours and its share of the bandwidth."""
    inputs = make_inputs(case)
    records = [run_provider(case, name, inputs, milliseconds) for name in PROVIDERS[case.op]]
    ours = records[0]["p50"]
    for record in records:
        if record["p50"] is not None:
            record["floor"] = case.least_bytes / bandwidth
            record["over_ours"] = record["p50"] / ours if ours else None
    return records


def describe_device() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(DEVICE)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "device_memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
    }


def device_kind(name: str) -> str:
    """The device in file names: gpu-nvidia-h100-80gb-hbm3."""
    return "gpu-" + "-".join(name.lower().split())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--filter", default="", help="only cases with this in their name")
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each provider")
    parser.add_argument("--output", type=Path, help="another file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"no CUDA device is visible to torch {torch.__version__}")
    cases = [case for case in CASES if options.filter in case.id]
    if not cases:
        raise SystemExit(f"no case has {options.filter!r} in its name: {[c.id for c in CASES]}")

    milliseconds = 1e3 * options.seconds
    about = environment() | describe_device()
    about["host_kind"] = device_kind(about["device"])
    about["copy_bandwidth"] = copy_bandwidth(milliseconds)
    print(f"{about['device']}: copies {about['copy_bandwidth'] / 1e12:.2f} TB/s", flush=True)
    signal.signal(signal.SIGTERM, _stop)
    results: list[dict[str, Any]] = []
    try:
        for case in cases:
            for record in run_case(case, milliseconds, about["copy_bandwidth"]):
                results.append(record)
                print(line(record), flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    finally:  # stopped by a time limit too: what was measured is kept
        about["load_average_after"] = load_average()
        written = {"environment": about, "gpu_results": results}
        save(written, options.output or RESULTS / f"{about['host_kind']}-{today()}.json")
    allowed = backends.unavailable(CUDA)
    failed = [
        line(record)
        for record in results
        if record["provider"] in CHECKED and record["reason"] not in (None, allowed)
    ]
    if failed:
        raise SystemExit("\n".join(["without a result:", *failed]))


def _stop(*_: object) -> None:
    raise SystemExit("stopped by a signal")


def line(record: dict[str, Any]) -> str:
    """A result on the screen."""
    samples = f" {record['samples']} samples" if record["samples"] > 1 else ""
    shape = f"{record['rows']}x{record['n']} k={record['k']}{samples} {record['dtype']}"
    start = f"{record['op']:21}{shape:36}{record['provider']:14}"
    if record["p50"] is None:
        return f"{start}- ({record['reason']})"
    share = record["floor"] / record["p50"]
    return f"{start}{record['p50'] * 1e3:10.4f} ms, {share:6.1%} of the copy bandwidth"


if __name__ == "__main__":
    main()
