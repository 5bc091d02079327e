# SPDX-License-Identifier: Apache-2.0
"""transformers is optional: what is said where it is missing, or is another version."""

from __future__ import annotations

import importlib
import sys

import pytest

MODULE = "discrete_grad.integrations.huggingface"


@pytest.fixture
def _not_imported(monkeypatch):
    """As in a new process, and as before afterwards."""
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


@pytest.mark.usefixtures("_not_imported")
def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "discrete-grad\[transformers\]"') as caught:
        importlib.import_module(MODULE)
    assert "needs Hugging Face transformers" in str(caught.value)
    importlib.import_module("discrete_grad.integrations")


@pytest.mark.usefixtures("_not_imported")
def test_a_version_without_these_routers(monkeypatch):
    """Those of transformers 4 have an nn.Linear in their place."""
    import transformers
    from transformers.models.mixtral import modeling_mixtral

    monkeypatch.delattr(modeling_mixtral, "MixtralTopKRouter")
    monkeypatch.setattr(transformers, "__version__", "4.57.6")
    with pytest.raises(ImportError, match=r"transformers>=5\.0,<6, got transformers 4\.57\.6"):
        importlib.import_module(MODULE)


@pytest.mark.usefixtures("_not_imported")
def test_what_transformers_itself_lacks_is_told_as_it_is(monkeypatch):
    """Not as transformers' being absent."""

    class Broken:
        def find_spec(self, name, path, target=None):
            if name == "transformers":
                raise ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers")

    monkeypatch.delitem(sys.modules, "transformers")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="tokenizers"):
        importlib.import_module(MODULE)
