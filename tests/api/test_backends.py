# SPDX-License-Identifier: Apache-2.0
"""The choice of a backend: setting, restoring, refusing; and what show_config says."""

from __future__ import annotations

import threading

import pytest
import torch

import discrete_grad as dg
from discrete_grad import backends


@pytest.fixture(autouse=True)
def _restored():
    before = backends.current()
    yield
    dg.backend(before)


def test_auto_is_the_default_and_serves_the_cpu_by_compiled_code():
    assert backends.current() == "auto"
    assert backends.select("cpu") == "cpp"


def test_setter_and_context_manager():
    dg.backend("reference")
    assert backends.current() == "reference"
    with dg.backend("cpp"):
        assert backends.current() == "cpp"
        with dg.backend("auto"):
            assert backends.current() == "auto"
        assert backends.current() == "cpp"
    assert backends.current() == "reference"


def test_context_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), dg.backend("reference"):
        raise ZeroDivisionError
    assert backends.current() == "auto"


def test_the_choice_holds_for_all_threads():
    seen = []
    with dg.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(backends.current()))
        thread.start()
        thread.join()
    assert seen == ["reference"]


@pytest.mark.parametrize("name", ["CPP", "numpy", "", None, 3])
def test_unknown_name(name):
    message = f"backend must be one of 'auto', 'reference', 'cpp', 'cuda', 'triton', got {name!r}"
    with pytest.raises(ValueError, match=message):
        dg.backend(name)
    assert backends.current() == "auto"


CALLS = {
    "marginals": lambda x: dg.subset.marginals(x, 2),
    "log_partition": lambda x: dg.subset.log_partition(x, 2),
    "sample": lambda x: dg.subset.sample(x, 2),
    "sample_indices": lambda x: dg.subset.sample_indices(x, 2),
    "log_prob": lambda x: dg.subset.log_prob(x, 2, torch.ones_like(x)),
    "entropy": lambda x: dg.subset.entropy(x, 2),
    "kl_divergence": lambda x: dg.subset.kl_divergence(x, x, 2),
    "covariance": lambda x: dg.subset.covariance(x, 2),
    "count_log_prob": lambda x: dg.subset.count_log_prob(x, 2),
    "logits_from_marginals": lambda x: dg.subset.logits_from_marginals(torch.full_like(x, 0.5)),
    "simple": lambda x: dg.simple(x, 2),
    "simple, order 2": lambda x: dg.simple(x, 2, order=2),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_gpu_backend_raises_in_every_call_on_a_cpu(monkeypatch, name, call):
    monkeypatch.setattr(backends.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "_cuda_built", True)
    message = f"backend '{name}' cannot serve tensors on device 'cpu'.*serve CUDA tensors only"
    with dg.backend(name), pytest.raises(RuntimeError, match=message):
        call(torch.randn(4, 4))


@pytest.mark.parametrize("built", [False, True], ids=["without cuda", "with cuda"])
def test_who_serves_a_gpu(monkeypatch, built):
    """Triton is the default; the CUDA C++ kernels serve where they are asked for."""
    monkeypatch.setattr(backends, "_cuda_built", built)
    assert backends.select("cuda") == "triton"
    with dg.backend("triton"):
        assert backends.select("cuda") == "triton"
        assert backends.select("meta") == "cpp"
    with dg.backend("reference"):
        assert backends.select("cuda") == "reference"
    with dg.backend("cpp"), pytest.raises(RuntimeError, match="serve CPU tensors only"):
        backends.select("cuda")
    with dg.backend("cuda"):
        assert backends.select("meta") == "cpp"
        if built:
            assert backends.select("cuda") == "cuda"
        else:
            with pytest.raises(RuntimeError, match="no CUDA C"):
                backends.select("cuda")
    with pytest.raises(RuntimeError, match="no compiled kernels for that device"):
        backends.select("xla")


def test_without_triton_the_cuda_kernels_serve(monkeypatch):
    monkeypatch.setattr(backends, "_triton_installed", False)
    monkeypatch.setattr(backends, "_cuda_built", True)
    assert backends.select("cuda") == "cuda"
    assert "CUDA tensors: served by cuda (Triton is not installed)" in dg.show_config()
    with dg.backend("triton"), pytest.raises(RuntimeError, match="Triton is not installed"):
        backends.select("cuda")


@pytest.mark.parametrize("name", ["auto", "triton", "cuda"])
def test_what_a_gpu_backend_lacks(monkeypatch, tmp_path, name):
    report = tmp_path / "report.json"
    report.write_text('{"cuda_reason": "nvcc was not found"}')
    monkeypatch.setattr(backends, "_BUILD_REPORT", report)
    monkeypatch.setattr(backends, "_triton_installed", False)
    monkeypatch.setattr(backends, "_cuda_built", False)
    reasons = {"triton": "Triton is not installed", "cuda": "no CUDA C.. kernels: nvcc was not"}
    wanted = reasons.get(name, f"{reasons['triton']}; .*{reasons['cuda']}")
    with dg.backend(name):
        with pytest.raises(RuntimeError, match=f"{wanted}.*reference"):
            backends.select("cuda")
        monkeypatch.setattr(backends, "_triton_installed", True)
        monkeypatch.setattr(backends, "extension_loaded", False)
        with pytest.raises(RuntimeError, match=r"derivatives are in the C.. extension.*reference"):
            backends.select("cuda")


@pytest.mark.parametrize("name", ["auto", "cpp"])
def test_a_missing_extension_raises_with_reason_and_remedy(monkeypatch, name):
    monkeypatch.setattr(backends, "extension_loaded", False)
    monkeypatch.setattr(backends, "_extension_error", "the C++ extension is not built: no compiler")
    message = r"not built: no compiler\. Reinstall .*compiler.*dg\.backend\(\"reference\"\)"
    with dg.backend(name), pytest.raises(RuntimeError, match=message):
        dg.subset.marginals(torch.randn(4), 2)
    with dg.backend("reference"):
        dg.subset.marginals(torch.randn(4), 2)


def test_meta_tensors_have_shapes():
    logits = torch.randn(3, 5, device="meta")
    assert dg.subset.marginals(logits, 2).shape == (3, 5)
    assert dg.subset.log_partition(logits, 2).device.type == "meta"


def test_show_config(monkeypatch):
    text = dg.show_config()
    assert isinstance(text, str)
    assert repr(text) == str(text)  # an interactive prompt shows the lines
    for part in (f"torch {torch.__version__}", "backend: auto", "reference: available", "SIMD"):
        assert part in text
    assert "cpp: available" in text
    monkeypatch.setattr(backends, "_cuda_built", False)
    assert "cuda: missing: this installation has no CUDA C++ kernels" in dg.show_config()
    assert "CUDA tensors: served by triton, the default" in dg.show_config()
    monkeypatch.setattr(backends.torch.cuda, "is_available", lambda: False)
    assert "triton: missing: PyTorch sees no CUDA device" in dg.show_config()
    monkeypatch.setattr(backends.torch.cuda, "is_available", lambda: True)
    assert "triton: available" in dg.show_config()
    monkeypatch.setattr(backends, "_cuda_built", True)
    assert "cuda: available" in dg.show_config()
    with dg.backend("reference"):
        assert "backend: reference" in dg.show_config()
        assert "CUDA tensors: served by reference, which was chosen" in dg.show_config()
    with dg.backend("cpp"):
        assert "CUDA tensors: not served" in dg.show_config()
    monkeypatch.setattr(backends, "_extension", None)
    monkeypatch.setattr(backends, "_extension_error", "the C++ extension is not built: no compiler")
    assert "cpp: missing: the C++ extension is not built: no compiler" in dg.show_config()


def test_why_an_extension_is_missing(monkeypatch, tmp_path):
    """Not built and built-for-another-torch are told apart; the build's own reason is passed on."""

    def fail(error):
        def load(name):
            raise error

        monkeypatch.setattr(backends.importlib, "import_module", load)
        return backends._load_extension()[1]

    missing = ModuleNotFoundError("No module named 'discrete_grad._C'", name="discrete_grad._C")
    report = tmp_path / "report.json"
    monkeypatch.setattr(backends, "_BUILD_REPORT", report)
    assert "not built: the package was not installed by its setup.py" in fail(missing)
    report.write_text('{"extension": false, "reason": "no C++ compiler was found"}')
    assert fail(missing) == "the C++ extension is not built: no C++ compiler was found"
    stale = fail(ImportError("undefined symbol: _ZN3c10"))
    assert torch.__version__ in stale
    assert "undefined symbol: _ZN3c10" in stale
