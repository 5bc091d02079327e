# SPDX-License-Identifier: Apache-2.0
"""All checks that need a GPU in one run of less than nine minutes: build, tests, sanitizers, times.

    python bench/gpu_check.py                      # or: make gpu-check
    python bench/gpu_check.py --stages tests bench # or: make gpu-check STAGE="tests bench"

Runs with the Python it is started with, in which torch, triton, pytest and setuptools are installed
already; installs this checkout there in editable mode (stage build) and downloads nothing. The CUDA
C++ kernels are built, tested and sanitized beside the Triton kernels where nvcc is found. Each step
has a share of the time, to which is added what those before it left over, and a step that fails or
hangs does not hide the next. Writes report.json, report.md, log.txt, kernels.md and bench.json
(which belongs in bench/results) to gpu-check/, or to the folder that the environment variable OUT
names. Exit status 1 where a step failed, 2 where there is no GPU. Only the standard library is
imported here, so that the report is written whatever is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("build", "tests", "sanitize", "bench")
TOTAL = 530.0  # seconds
COMMIT_VARIABLE = "GPU_CHECK_COMMIT"

_HEADER = "#### step"  # of the log

_PROBE = """
import json, platform, torch
if not torch.cuda.is_available():
    raise SystemExit(f"no CUDA device is visible to torch {torch.__version__}")
import setuptools, triton
found = torch.cuda.get_device_properties(0)
print(json.dumps({
    "device": found.name, "capability": f"{found.major}{found.minor}",
    "device_memory_gib": round(found.total_memory / 2**30, 1),
    "python": platform.python_version(), "torch": torch.__version__,
    "cuda": torch.version.cuda, "triton": triton.__version__,
    "setuptools": setuptools.__version__,
}))
"""


@dataclass(frozen=True)
class Command:
    """One step of a stage; ``share`` is of the time of a whole run, in seconds of 530."""

    stage: str
    name: str
    arguments: tuple[str, ...]
    share: float
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Step:
    """How a command ended: "passed", "failed" or "timed out"."""

    stage: str
    name: str
    outcome: str
    seconds: float
    limit: float
    command: str
    detail: str = ""


def commands(out: Path, capability: str) -> list[Command]:
    """Every step, in order."""

    def xml(name: str) -> str:
        return f"--junitxml={junit_folder(out) / name}.xml"

    python = sys.executable
    pip = (python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index")
    aot = (python, "-m", "discrete_grad.triton_kernels.aot", "--targets", f"sm_{capability}")
    # Another torch than the tests were written with may warn of other things.
    pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default")
    pytest += ("--durations=10",)
    # Most of the tests' time goes into compiling kernels, one process each; those that fill the
    # device's memory or look at its streams have it to themselves.
    alone = ("tests/gpu/test_large.py", "tests/gpu/test_execution.py")
    others = ("tests/gpu", *(f"--ignore={path}" for path in alone))
    side_by_side = ("-n", str(min(os.cpu_count() or 1, 12))) if find_spec("xdist") else ()
    bench = (python, str(ROOT / "bench" / "gpu.py"), "--output", str(out / "bench.json"))
    sanitizer = ("--error-exitcode=1", "--target-processes=application-only", "--print-limit=20")
    sanitize = cuda_tool("compute-sanitizer") or "compute-sanitizer"
    small = (python, str(ROOT / "tests" / "gpu" / "small_shapes.py"))
    # Without torch's caching allocator, so that a tensor's end is an allocation's end.
    plain = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    tools = {"memcheck": ("--report-api-errors=no",), "racecheck": (), "initcheck": ()}
    # The CUDA kernels need no compilation while a tool watches, so they take less time.
    backends = {"triton": 30, "cuda": 12} if cuda_tool("nvcc") else {"triton": 30}
    # nvcc for this device alone.
    here = {"TORCH_CUDA_ARCH_LIST": f"{capability[:-1]}.{capability[-1]}"}
    return [
        # Nothing else runs without it, and what it leaves over goes to the others.
        Command("build", "install", (*pip, "--editable", str(ROOT)), 180, here),
        Command("build", "kernels", (*aot, "--output", str(out / "kernels.md")), 50),
        # First of all that launches start; it also compiles what the sanitizers will watch.
        *(
            Command("tests", f"every op, {backend}", (*small, f"--backend={backend}"), 30)
            for backend in backends
        ),
        Command("tests", "values", (*pytest, *others, *side_by_side, xml("values")), 130),
        Command("tests", "execution", (*pytest, *alone, xml("execution")), 75),
        *(
            Command(
                "sanitize",
                f"{tool} {backend}",
                (
                    *(sanitize, f"--tool={tool}", *sanitizer, *own),
                    *(*small, f"--backend={backend}"),
                ),
                share,
                plain,
            )
            for backend, share in backends.items()
            for tool, own in tools.items()
        ),
        # Its modules lie beside it: the one script whose folder must be on the path.
        Command("bench", "bench/gpu.py", bench, 80, {"PYTHONSAFEPATH": ""}),
    ]


def cuda_tool(name: str) -> str | None:
    """Where a program of CUDA's toolkit is, looked for as csrc/cuda/build.py looks for nvcc."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which(name, path=os.path.join(home, "bin"))
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def junit_folder(out: Path) -> Path:
    """Where pytest's own reports go: what they say is in report.json."""
    return out / "junit"


def deadlines(chosen: list[Command], seconds: float) -> list[float]:
    """When each step must have ended, counted from the start of the first."""
    whole = sum(command.share for command in chosen)
    return [seconds * total / whole for total in accumulate(command.share for command in chosen)]


def run(command: Command, out: Path, limit: float) -> Step:
    """Run a command in ``limit`` seconds at most, with its output in the log."""
    line = " ".join(command.arguments)
    step = Step(command.stage, command.name, "failed", 0.0, round(limit, 1), line)
    if shutil.which(command.arguments[0]) is None:
        step.detail = f"{command.arguments[0]} was not found"
        return step
    log = out / "log.txt"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    # Of an environment that is not activated too: the build looks for ninja there.
    folders = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    environment["PATH"] = os.pathsep.join(folders)
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        print(f"{_HEADER} {step.stage}: {step.name}: {line}", file=output, flush=True)
        process = subprocess.Popen(
            command.arguments,
            cwd=ROOT,
            env={**environment, **command.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
            step.outcome = "passed" if status == 0 else "failed"
            step.detail = "" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            step.outcome, step.detail = "timed out", f"after {limit:.0f} s"
            _stop(process)
    step.seconds = round(time.monotonic() - start, 1)
    if step.outcome != "passed":
        step.detail += f"; {last_words(log)}"
    return step


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the command and what it started; politely first, so that it can save its results."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "no output" if last.startswith(_HEADER) else last[:200]


def junit(path: Path) -> list[dict[str, Any]]:
    """Each test's id, outcome, seconds, and the first line of what is wrong with it."""
    results = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        found = {"outcome": "passed", "message": ""}
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                text = child.get("message") or child.text or ""
                outcome = {"failure": "failed"}.get(child.tag, child.tag)
                found = {"outcome": outcome, "message": (text.splitlines() or [""])[0][:300]}
        name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
        results.append({"id": name, **found, "seconds": float(case.get("time") or 0)})
    return results


def commit() -> str:
    """From git, or where there is no repository from the environment."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return answer.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE, f"unknown (set {COMMIT_VARIABLE})")


def driver() -> str | None:
    """The GPU driver's version, or None without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.splitlines()[0].strip()


def gather(about: dict[str, Any], steps: list[Step], out: Path) -> dict[str, Any]:
    """report.json: the machine, each step, each test, each figure."""
    report: dict[str, Any] = {"environment": about, "steps": [asdict(step) for step in steps]}
    tests, bench = sorted(junit_folder(out).glob("*.xml")), out / "bench.json"
    if tests:
        report["tests"] = [test for path in tests for test in junit(path)]
    if bench.exists():
        measured = json.loads(bench.read_text(encoding="utf-8"))
        report["bench_environment"] = measured["environment"]
        report["bench"] = measured["gpu_results"]
    return report


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def markdown(report: dict[str, Any]) -> str:
    """report.md."""
    about = report["environment"]
    named = [f"{key}: {value}" for key, value in about.items()]
    parts = ["# GPU check\n", "; ".join(named) + "\n", "## Stages\n"]
    steps = [
        [step["stage"], step["name"], step["outcome"], f"{step['seconds']:.0f} s", step["detail"]]
        for step in report["steps"]
    ]
    parts.append(_markdown(["stage", "step", "outcome", "time", "detail"], steps))
    if "tests" in report:
        tests = report["tests"]
        parts += ["## Tests\n", f"{counts(tests)}\n"]
        wrong = [
            [test["id"], test["outcome"], test["message"]]
            for test in tests
            if test["outcome"] != "passed"
        ]
        if wrong:
            parts.append(_markdown(["test", "outcome", "message"], wrong))
    if "bench" in report:
        parts += ["## Times\n", _markdown(_FIGURES, [figures(r) for r in report["bench"]])]
    return "\n".join(parts)


def counts(tests: list[dict[str, Any]]) -> str:
    """ "12 passed, 1 failed"."""
    found = Counter(test["outcome"] for test in tests)
    return ", ".join(f"{number} {outcome}" for outcome, number in found.items()) or "no tests"


_FIGURES = ["op", "rows", "n", "k", "dtype", "provider", "ms", "x ours", "of copy", "MiB", "note"]


def figures(record: dict[str, Any]) -> list[str]:
    """One measurement as cells."""
    shape = [str(record[key]) for key in ("op", "rows", "n", "k", "dtype", "provider")]
    if record["p50"] is None:
        return [*shape, "-", "-", "-", "-", record["reason"]]
    ratio = record.get("over_ours")
    return [
        *shape,
        f"{record['p50'] * 1e3:.4g}",
        "-" if ratio is None else f"{ratio:.3g}",
        f"{record['floor'] / record['p50']:.0%}",
        f"{record['peak_bytes'] / 2**20:.1f}",
        "" if record["error"] is None else f"error {record['error']:.1g}",
    ]


def summary(report: dict[str, Any]) -> str:
    """The short table on the screen."""
    lines = [f"{report['environment']['device']}, commit {report['environment']['commit'][:12]}"]
    for step in report["steps"]:
        start = f"{step['stage']:10}{step['name']:22}{step['outcome']:11}"
        lines.append(f"{start}{step['seconds']:5.0f} s  {step['detail'][:90]}".rstrip())
    if "tests" in report:
        lines.append(f"tests: {counts(report['tests'])}")
    for record in report.get("bench", []):
        if record["provider"] in ("discrete_grad", "cuda"):
            lines.append("  ".join(figures(record)))
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """The machine and the versions; ends the program where there is no GPU."""
    probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    if probe.returncode != 0:
        lines = probe.stderr.strip().splitlines() or ["torch could not be asked"]
        print(f"gpu-check: {lines[-1]}; nothing was run")
        raise SystemExit(2)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        **json.loads(probe.stdout.splitlines()[-1]),
        "driver": driver(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="time for everything")
    options = parser.parse_args(arguments)

    about = environment()
    out = Path(os.environ.get("OUT") or ROOT / "gpu-check").resolve()
    out.mkdir(parents=True, exist_ok=True)
    for stale in ("bench.json", "kernels.md", "log.txt", "report.json", "report.md"):
        (out / stale).unlink(missing_ok=True)
    shutil.rmtree(junit_folder(out), ignore_errors=True)
    start = time.monotonic()
    steps: list[Step] = []
    report: dict[str, Any] = {}
    chosen = [c for c in commands(out, about["capability"]) if c.stage in options.stages]
    for command, deadline in zip(chosen, deadlines(chosen, options.seconds), strict=True):
        print(f"{command.stage}: {command.name} ...", flush=True)
        steps.append(run(command, out, deadline - (time.monotonic() - start)))
        # After each step, so that a run that is cut off has reported what it did.
        report = gather(about, steps, out)
        (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        (out / "report.md").write_text(markdown(report), encoding="utf-8")
    print(summary(report))
    print(f"wrote {out / 'report.md'}")
    if any(step.outcome != "passed" for step in steps):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
