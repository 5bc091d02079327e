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
    reason = {"cuda": "no CUDA C\\+\\+ kernels", "triton": "serve CUDA tensors only"}[name]
    message = f"backend '{name}' cannot serve tensors on device 'cpu'.*{reason}"
    with dg.backend(name), pytest.raises(RuntimeError, match=message):
        call(torch.randn(4, 4))


def test_who_serves_a_gpu():
    assert backends.select("cuda") == "triton"
    with dg.backend("triton"):
        assert backends.select("cuda") == "triton"
        assert backends.select("meta") == "cpp"
    with dg.backend("reference"):
        assert backends.select("cuda") == "reference"
    with dg.backend("cpp"), pytest.raises(RuntimeError, match="serve CPU tensors only"):
        backends.select("cuda")
    with dg.backend("cuda"), pytest.raises(RuntimeError, match="no CUDA C"):
        backends.select("cuda")
    with pytest.raises(RuntimeError, match="no compiled kernels for that device"):
        backends.select("xla")


@pytest.mark.parametrize("name", ["auto", "triton"])
def test_what_triton_lacks(monkeypatch, name):
    with dg.backend(name):
        monkeypatch.setattr(backends, "_triton_installed", False)
        with pytest.raises(RuntimeError, match=r"Triton is not installed.*reference"):
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
    assert "cuda: missing: this version of discrete_grad has no CUDA C++ kernels" in text
    monkeypatch.setattr(backends.torch.cuda, "is_available", lambda: False)
    assert "triton: missing: PyTorch sees no CUDA device" in dg.show_config()
    monkeypatch.setattr(backends.torch.cuda, "is_available", lambda: True)
    assert "triton: available" in dg.show_config()
    with dg.backend("reference"):
        assert "backend: reference" in dg.show_config()
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
