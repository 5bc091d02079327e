# SPDX-License-Identifier: Apache-2.0
"""The report of the GPU check, and what is checked before a GPU is timed, without a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import gpu
import gpu_check
import gpu_report
import pytest
import torch
from gpu_check import Command, Step

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.gpu.test_rows" name="test_row[triton]" time="0.25" />
<testcase classname="tests.gpu.test_rows" name="test_wrong" time="1.5">
  <failure message="AssertionError: error 1 &gt; 2&#10;second line">long text</failure></testcase>
<testcase classname="" name="tests.gpu.test_large" time="0.0">
  <skipped type="pytest.skip" message="collection skipped">text</skipped></testcase>
<testcase classname="tests.gpu.test_rows" name="test_broken" time="0.5">
  <error message="fixture failed">text</error></testcase>
</testsuite></testsuites>"""

ENVIRONMENT = {"commit": "0123456789abcdef", "device": "GPU", "date": "2026-01-01"}


def record(provider: str = "discrete_grad", **changes: object) -> dict[str, object]:
    made = {
        **{"op": "marginals", "rows": 64, "n": 1000, "k": 10, "dtype": "float32"},
        **{"provider": provider, "error": 1e-7, "p50": 2e-3, "reason": None},
        **{"p20": 1e-3, "p80": 3e-3, "peak_bytes": 2**20, "floor": 1e-3, "over_ours": 1.0},
    }
    return {**made, **changes}


def test_junit(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(JUNIT)
    found = gpu_check.junit(tmp_path / "tests.xml")
    assert [test["outcome"] for test in found] == ["passed", "failed", "skipped", "error"]
    assert found[0] == {
        "id": "tests.gpu.test_rows::test_row[triton]",
        "outcome": "passed",
        "message": "",
        "seconds": 0.25,
    }
    assert found[1]["message"] == "AssertionError: error 1 > 2"
    assert found[2]["id"] == "tests.gpu.test_large"
    assert gpu_check.counts(found) == "1 passed, 1 failed, 1 skipped, 1 error"


def test_report(tmp_path: Path) -> None:
    (tmp_path / "junit").mkdir()
    (tmp_path / "junit" / "tests.xml").write_text(JUNIT)
    slower = record("dp", p50=None, reason="8,192 sequential steps", over_ours=None)
    measured = {"environment": {"copy_bandwidth": 3e12}, "gpu_results": [record(), slower]}
    (tmp_path / "bench.json").write_text(json.dumps(measured))
    steps = [
        Step("tests", "pytest", "failed", 3.2, 100, "pytest", "exit status 1; a | b"),
        Step("bench", "gpu.py", "passed", 9.0, 95, "python bench/gpu.py"),
    ]
    report = gpu_check.gather(ENVIRONMENT, steps, tmp_path)
    assert json.loads(json.dumps(report)) == report
    text = gpu_check.markdown(report)
    assert "| tests | pytest | failed | 3 s | exit status 1; a \\| b |" in text
    assert "| tests.gpu.test_rows::test_wrong | failed | AssertionError: error 1 > 2 |" in text
    ours = (
        "| marginals | 64 | 1000 | 10 | float32 | discrete_grad | 2 | 1 | 50% | 1.0 | error 1e-07 |"
    )
    assert ours in text
    assert "| dp | - | - | - | - | 8,192 sequential steps |" in text
    short = gpu_check.summary(report)
    assert short.startswith("GPU, commit 0123456789ab\n")
    assert "tests: 1 passed, 1 failed, 1 skipped, 1 error" in short


def test_report_of_a_run_that_was_cut_off(tmp_path: Path) -> None:
    report = gpu_check.gather(ENVIRONMENT, [], tmp_path)
    assert set(report) == {"environment", "steps"}
    assert gpu_check.markdown(report)
    assert gpu_check.summary(report)


def python(code: str, share: float = 1.0) -> Command:
    return Command("tests", "a step", (sys.executable, "-c", code), share)


def test_steps(tmp_path: Path) -> None:
    passed = gpu_check.run(python("print('fine')"), tmp_path, 60)
    assert (passed.outcome, passed.detail) == ("passed", "")
    header, output = (tmp_path / "log.txt").read_text().splitlines()
    assert header.startswith("#### step tests: a step: ")
    assert output == "fine"
    failed = gpu_check.run(python("raise SystemExit('no such thing')"), tmp_path, 60)
    assert failed.outcome == "failed"
    assert failed.detail == "exit status 1; no such thing"
    silent = gpu_check.run(python("raise SystemExit(3)"), tmp_path, 60)
    assert silent.detail == "exit status 3; no output"
    missing = gpu_check.run(Command("tests", "x", ("no-such-program",), 1), tmp_path, 60)
    assert (missing.outcome, missing.detail) == ("failed", "no-such-program was not found")


def test_a_step_out_of_time_is_stopped_politely(tmp_path: Path) -> None:
    code = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("saved")))
print("started", flush=True)
time.sleep(60)
"""
    step = gpu_check.run(python(code), tmp_path, 2)
    assert step.outcome == "timed out"
    assert step.seconds < 20
    assert step.detail == "after 2 s; saved"


def test_deadlines() -> None:
    """Shares of the whole time; one stage alone has all of it."""
    steps = [python("", 1), python("", 3)]
    assert gpu_check.deadlines(steps, 100) == [25, 100]
    assert gpu_check.deadlines(steps[1:], 100) == [100]
    everything = gpu_check.commands(Path("out"), "90")
    assert gpu_check.deadlines(everything, gpu_check.TOTAL)[-1] == gpu_check.TOTAL < 540
    assert tuple(dict.fromkeys(command.stage for command in everything)) == gpu_check.STAGES


def test_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step that fails does not hide the next; the report goes where OUT says."""

    def write_results(out: Path) -> str:
        path = out / "junit" / "tests.xml"
        start = f"from pathlib import Path; path = Path({str(path)!r}); path.parent.mkdir()"
        return f"{start}; path.write_text({JUNIT!r})"

    def steps(out: Path, capability: str) -> list[Command]:
        assert capability == "90"
        fails = Command("build", "install", (sys.executable, "-c", "1 / 0"), 1)
        return [fails, Command("tests", "pytest", (sys.executable, "-c", write_results(out)), 1)]

    monkeypatch.setattr(gpu_check, "environment", lambda: {**ENVIRONMENT, "capability": "90"})
    monkeypatch.setattr(gpu_check, "commands", steps)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--seconds", "60"])
    assert ended.value.code == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [step["outcome"] for step in report["steps"]] == ["failed", "passed"]
    assert len(report["tests"]) == 4
    assert "ZeroDivisionError" in (tmp_path / "out" / "report.md").read_text()
    assert "tests: 1 passed" in capsys.readouterr().out
    gpu_check.main(["--seconds", "60", "--stages", "tests"])  # all of it passes


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main([])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("gpu-check: no CUDA device")


def test_small_shapes_run_every_op() -> None:
    path = gpu_check.ROOT / "tests" / "gpu" / "small_shapes.py"
    spec = importlib.util.spec_from_file_location("small_shapes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from discrete_grad.ops.library import kernel_ops

    ran = module.run(torch.device("cpu"), torch.float32, 70)
    assert ran == set(kernel_ops())


@pytest.mark.parametrize("op", gpu.OPS)
def test_providers(op: str) -> None:
    """What is timed on a GPU, on the CPU: ours passes its check, the baseline agrees with it."""
    case = gpu.Case(op, 8, 48, 6, torch.float32)
    logits = torch.randn(8, 48, requires_grad=True)
    inputs = gpu.Inputs(logits, torch.rand(8, 48))
    assert gpu.check(case, inputs) <= 1e-6
    providers = {name: run for name, run in gpu.PROVIDERS[op].items() if name != gpu.CUDA}
    results = {name: run(case, inputs) for name, run in providers.items()}
    assert {gpu.OURS, gpu.DP, gpu.SOFTMAX} <= set(results)
    if op == "sample":
        assert bool((results[gpu.DP].sum(-1) == 6).all())
        return
    for name in (gpu.DP, *gpu.METHODS):
        torch.testing.assert_close(results[name], results[gpu.OURS], rtol=0, atol=1e-5)


@pytest.mark.parametrize("op", gpu.PERTURBED_OPS)
@pytest.mark.parametrize("samples", [1, 3])
def test_providers_of_perturbed_topk(op: str, samples: int) -> None:
    """Ours passes its check, and the baseline has its shape and its law: equal sums in the mean."""
    case = gpu.Case(op, 500, 20, 4, torch.float32, samples)
    logits = torch.randn(20, generator=torch.Generator().manual_seed(0)).expand(500, 20)
    inputs = gpu.Inputs(logits.contiguous(), torch.linspace(-1, 1, 20).expand(500, 20))
    assert gpu.check(case, inputs) == 0
    providers = gpu.PROVIDERS[op]
    ours, baseline = (providers[name](case, inputs) for name in (gpu.OURS, gpu.gpu_perturbed.TORCH))
    assert isinstance(ours, torch.Tensor)
    assert isinstance(baseline, torch.Tensor)
    assert baseline.shape == ours.shape
    ours, baseline = (x.reshape(-1, 20).mean(0) for x in (ours, baseline))
    torch.testing.assert_close(ours, baseline, rtol=0, atol=0.15)  # 5 standard deviations


@pytest.mark.parametrize("op", gpu.OPS)
def test_the_cuda_kernels_are_timed_by_name(op: str) -> None:
    """They serve no tensor of the CPU, and nothing else serves in their place."""
    case = gpu.Case(op, 8, 48, 6, torch.float32)
    inputs = gpu.Inputs(torch.randn(8, 48, requires_grad=True), torch.rand(8, 48))
    for call in (gpu.PROVIDERS[op][gpu.CUDA], lambda *at: gpu.check(*at, gpu.CUDA)):
        with pytest.raises(RuntimeError, match="backend 'cuda'"):
            call(case, inputs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_installation_without_cuda_kernels_is_told() -> None:
    reason = gpu.obstacle(gpu.CASES[0], gpu.CUDA, 2**30)
    assert reason is not None
    assert reason == gpu.backends.unavailable("cuda")


@pytest.mark.parametrize("op", gpu.PERTURBED_OPS)
def test_a_wrong_selection_is_not_timed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = gpu.Case(op, 8, 48, 6, torch.float32, 2)
    inputs = gpu.Inputs(torch.randn(8, 48), torch.rand(8, 48))
    right = gpu.gpu_perturbed.ours
    monkeypatch.setattr(gpu.gpu_perturbed, "ours", lambda *args: right(*args).roll(1, -1))
    with pytest.raises(AssertionError, match="of the rows are not those of"):
        gpu.check(case, inputs)


@pytest.mark.parametrize("op", ["marginals", "marginals_grad"])
def test_a_wrong_result_is_not_timed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = gpu.Case(op, 8, 48, 6, torch.float32)
    inputs = gpu.Inputs(torch.randn(8, 48, requires_grad=True), torch.rand(8, 48))
    right = gpu.dg.subset.marginals

    def wrong(x: torch.Tensor, k: int) -> torch.Tensor:
        return right(x, k) * (1.0 if x.dtype == torch.float64 else 1.01)

    monkeypatch.setattr(gpu.dg.subset, "marginals", wrong)
    with pytest.raises(AssertionError, match="error"):
        gpu.check(case, inputs)


def test_obstacles() -> None:
    short = gpu.Case("marginals", 4, 48, 6, torch.float32)
    long = gpu.Case("marginals", 4, 2**20, 6, torch.float32)
    assert gpu.obstacle(short, gpu.DP, 2**30) is None
    assert "GiB" in str(gpu.obstacle(short, gpu.DP, 2**10))
    assert "steps" in str(gpu.obstacle(long, gpu.DP, 2**40))
    assert gpu.obstacle(long, gpu.OURS, 0) is None


def test_section_of_the_benchmarks() -> None:
    environment = {
        **{"device": "GPU", "date": "2026-01-01T00:00", "multiprocessors": 132},
        **{"device_memory_gib": 79.6, "copy_bandwidth": 3e12, "discrete_grad": "0.1.0"},
        **{"commit": "0123456789abcdef", "uncommitted_changes": False},
        **{"torch": "2.11", "python": "3.12"},
    }
    results = [
        record(),
        record("dp", p50=0.2, over_ours=100.0),
        record("softmax", p50=1e-3),
        record("cuda", p50=5e-3, over_ours=2.5),
        record(op="sample"),
        record("dp", op="sample", p50=None, reason="out of memory", over_ours=None),
        record("softmax", op="sample", p50=1e-3),
        record(op="perturbed", samples=3, error=0.0),
        record("torch.topk", op="perturbed", samples=3, p50=6e-3, over_ours=3.0),
    ]
    text = gpu_report.section({"environment": environment, "gpu_results": results})
    assert (
        "| 64 | 1,000 | 10 | float32 | 2 ms | 50% | 2.0 | **100** | 1.0 | 1e-07 | **2.5** |" in text
    )
    assert "- (out of memory)" in text
    assert "| 64 | 1,000 | 10 | 3 | 2 ms | 50% | **3.0** | 1.0 | 0.00% | - |" in text
    assert "3.00 TB/s" in text
