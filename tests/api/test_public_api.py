# SPDX-License-Identifier: Apache-2.0
"""The public names, their signatures, and the direction of imports between the layers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import discrete_grad as dg

ROOT = Path(__file__).resolve().parents[2]

PUBLIC = {
    "AdaptiveTargetDistribution",
    "BaseNoiseDistribution",
    "BaseTargetDistribution",
    "GumbelNoiseDistribution",
    "KSubset",
    "LaplaceNoiseDistribution",
    "LogisticNoiseDistribution",
    "MovingAverageBaseline",
    "NormalNoiseDistribution",
    "SumOfGammaNoiseDistribution",
    "TargetDistribution",
    "aimle",
    "aimle_topk",
    "backend",
    "estimators",
    "gumbel_softmax_topk",
    "imle",
    "imle_topk",
    "nn",
    "perturbed_optimizer",
    "perturbed_topk",
    "perturbed_topk_indices",
    "score_function",
    "show_config",
    "simple",
    "solvers",
    "straight_through_topk",
    "subset",
}
SIGNATURES = {
    "log_partition": "logits, k, *, method='auto'",
    "marginals": "logits, k, *, method='auto'",
    "sample": "logits, k, num_samples=None, *, generator=None",
    "sample_indices": "logits, k, num_samples=None, *, generator=None",
    "log_prob": "logits, k, subset",
    "entropy": "logits, k",
    "kl_divergence": "logits_p, logits_q, k",
    "covariance": "logits, k",
    "count_log_prob": "logits, max_count",
    "mode": "logits, k",
    "logits_from_marginals": "marginals",
}


def bare(function):
    """A signature without its annotations."""
    parameters, starred = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not starred:
            parameters.append("*")
            starred = True
        parameters.append(p.name if p.default is p.empty else f"{p.name}={p.default!r}")
    return ", ".join(parameters)


def test_public_names():
    assert set(dg.__all__) == PUBLIC
    assert all(hasattr(dg, name) for name in PUBLIC)


def test_signatures():
    assert set(dg.subset.__all__) == set(SIGNATURES)
    assert {name: bare(getattr(dg.subset, name)) for name in SIGNATURES} == SIGNATURES
    assert bare(dg.simple) == "logits, k, num_samples=None, *, order=1, generator=None"
    assert bare(dg.KSubset) == "k, logits=None, probs=None, validate_args=None"
    assert bare(dg.backend) == "name"
    assert bare(dg.show_config) == ""


def test_the_import_is_light():
    """It brings no SciPy, no transformers and not PyTorch's compiler, which take longer than all
    the rest.
    """
    code = (
        "import sys, torch; before = set(sys.modules); import discrete_grad;"
        "print(sorted({m.split('.')[0] + '.' + m.split('.')[1] if '.' in m else m"
        " for m in set(sys.modules) - before}"
        " & {'scipy', 'sympy', 'torch._dynamo', 'transformers', 'triton'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert done.stdout.strip() == "[]"


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in PUBLIC if not inspect.ismodule(getattr(dg, name))}
    modules = {path.stem for path in (ROOT / "discrete_grad").iterdir()}
    assert not functions & modules
    assert callable(dg.simple)
    assert inspect.ismodule(dg.subset)


# What each part of the package may import from the package; "" is the package's own name.
LAYERS: dict[str, set[str]] = {
    "reference": set(),
    "gamma_sums": set(),
    "quantiles": {"gamma_sums"},
    "triton_kernels": set(),
    "checks": set(),
    "backends": {"checks"},
    "rng": {"checks"},
    "ops": {"backends", "reference", "triton_kernels"},
    "likelihood": {"ops"},
    "inverse": {"checks", "ops"},
    "noise": {"checks", "ops", "quantiles", "rng"},
    "subset": {"checks", "inverse", "likelihood", "ops", "rng"},
    "solvers": {"checks", "subset"},
    "estimators": {"checks", "likelihood", "noise", "ops", "rng", "solvers", "subset"},
    "distributions": {"checks", "estimators", "subset"},
    "nn": {"checks", "estimators", "likelihood", "ops", "rng", "subset"},
    "__init__": {"backends", "distributions", "estimators", "nn", "noise", "solvers", "subset"},
    "distributed": {"checks", "ops", "reference", "rng"},
    "compat": {""},
    "integrations": {"checks", "likelihood", "nn", "subset"},
    "demo": {""},
}


def imported_parts(source: str, module: tuple[str, ...], known: set[str]) -> set[str]:
    """Parts of the package that ``source``, the code of ``module``, imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        targets = []
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module[: len(module) - node.level] if node.level else ()
            base = above + tuple((node.module or "").split(".") if node.module else ())
            targets = [(*base, alias.name) for alias in node.names]
        for target in targets:
            if target[0] == "discrete_grad":
                found.add(target[1] if len(target) > 1 and target[1] in known else "")
    return found


def sources():
    for root, prefix in (
        (ROOT / "discrete_grad", ()),
        (ROOT / "triton_kernels", ("triton_kernels",)),
    ):
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root).with_suffix("").parts
            # A package's __init__ stands for the package: "." in it is the package itself.
            yield path, ("discrete_grad", *prefix, *relative)


FILES = {str(path.relative_to(ROOT)): (path, module) for path, module in sources()}


@pytest.mark.parametrize(("path", "module"), FILES.values(), ids=FILES)
def test_nothing_imports_upwards(path, module):
    part = module[1]
    assert part in LAYERS, f"{path} is in no layer: give {part!r} a place in the table"
    found = imported_parts(path.read_text(encoding="utf-8"), module, set(LAYERS)) - {part}
    assert found <= LAYERS[part], f"{path} imports {sorted(found - LAYERS[part])}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import discrete_grad.subset", {"subset"}),
        ("import discrete_grad as dg", {""}),
        ("from discrete_grad import ops, subset", {"ops", "subset"}),
        ("from discrete_grad import KSubset", {""}),
        ("def f():\n    from ..ops.marginals import g", {"ops"}),
        ("from .. import checks", {"checks"}),
        ("from . import contour\nfrom .contour import f", {"reference"}),
        ("import torch", set()),
    ],
)
def test_the_layering_test_sees_every_form_of_import(source, found):
    module = ("discrete_grad", "reference", "tilt")
    assert imported_parts(source, module, set(LAYERS)) == found


def test_layers_have_no_cycle():
    done: set[str] = {""}
    left = dict(LAYERS)
    while left:
        ready = [part for part, below in left.items() if below <= done]
        assert ready, f"a cycle among {sorted(left)}"
        done |= set(ready)
        for part in ready:
            del left[part]
