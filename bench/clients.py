# SPDX-License-Identifier: Apache-2.0
"""Time of the adapter for SFESS and PR-MPNN beside the circuit they come with.

    python bench/clients.py [--quick] [--threads N]

It writes bench/results/clients.json (or the file that --out names) and prints the table of
docs/clients.md. The cases are SFESS's tasks: scores [B, n, 1] of its nearest neighbours (n = 128,
k = 10) and of its learning to explain (n = 784, k = 50); a call is a sample forward and its
gradient backward. The circuit is published_circuit.py: the same arithmetic as the published code,
in level-wide operations.

Marginals and gradients of the adapter in its mode "compat" are first held to the circuit's in
float64, and the errors that float32 brings to each of them are recorded; then the providers are
timed in float32, in turns within this process (measure.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import published_circuit
import torch
from machine import RESULTS, environment, load_average, save
from measure import time_in_turns
from torch import Tensor

from discrete_grad.compat import law
from discrete_grad.compat.sfess import SIMPLESampler

CIRCUIT = "circuit"
# Marginals are in [0, 1], gradients in [-1, 1]; logarithms of size up to a few hundred are rounded
# at each level of the circuit.
LIMIT = 1e-11


@dataclass(frozen=True)
class Case:
    task: str
    rows: int
    n: int
    k: int

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Scores [rows, n, 1] that require a gradient, and the gradient of the sample."""
        generator = torch.Generator().manual_seed(self.rows * self.n + self.k)
        scores = torch.randn(self.rows, self.n, 1, generator=generator)
        grad = torch.rand(self.rows, self.n, 1, generator=generator) * 2 - 1
        return scores.to(dtype).requires_grad_(), grad.to(dtype)


CASES = (Case("nearest neighbours", 256, 128, 10), Case("learning to explain", 128, 784, 50))


def adapter(case: Case, mode: str) -> Callable[[], Tensor]:
    scores, grad = case.inputs()
    sampler = SIMPLESampler(case.k, scores.device, mode=mode)

    def both() -> Tensor:
        samples, _ = sampler(scores)
        (gradient,) = torch.autograd.grad(samples, scores, grad.unsqueeze(0))
        return gradient

    return both


def circuit(case: Case) -> Callable[[], Tensor]:
    scores, grad = (tensor.squeeze(-1) for tensor in case.inputs())
    leaf = scores.detach().requires_grad_()

    def both() -> Tensor:
        (gradient,) = torch.autograd.grad(published_circuit.simple(leaf, case.k), leaf, grad)
        return gradient

    return both


def _derivatives(case: Case, provider: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Marginals and their vector-Jacobian product, [rows, n], in float64."""
    scores, grad = (tensor.squeeze(-1) for tensor in case.inputs(dtype))
    if provider == CIRCUIT:
        mu = published_circuit.marginals(scores, case.k, create_graph=True)
    else:
        mu = law.marginals(scores, case.k, provider)
    (gradient,) = torch.autograd.grad(mu, scores, grad)
    return mu.detach().double(), gradient.double()


def _largest(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict[str, float]:
    names = ("marginals", "gradient")
    differences = zip(names, one, other, strict=True)
    return {name: float(f"{(a - b).abs().max().item():.2g}") for name, a, b in differences}


def check(case: Case) -> dict[str, dict[str, float]]:
    """Adapter against circuit in float64, and of each float32 against the adapter's float64.

    Raises:
        AssertionError: the two differ in float64 by more than ``LIMIT``.
    """
    exact = _derivatives(case, law.COMPAT, torch.float64)
    difference = _largest(exact, _derivatives(case, CIRCUIT, torch.float64))
    assert max(difference.values()) < LIMIT, f"{case}: the adapter and the circuit: {difference}"
    errors = {
        name: _largest(_derivatives(case, name, torch.float32), exact)
        for name in (law.COMPAT, CIRCUIT)
    }
    return {"difference in float64": difference} | {
        f"float32 error of {name}": error for name, error in errors.items()
    }


def run(case: Case, seconds: float, least_rounds: int) -> dict[str, object]:
    checked = check(case)
    calls = {mode: adapter(case, mode) for mode in law.MODES}
    timings = time_in_turns(
        {**calls, CIRCUIT: circuit(case)},
        seconds=seconds,
        most_rounds=100,
        least_rounds=least_rounds,
    )
    return {
        **asdict(case),
        **checked,
        **{name: asdict(timing) for name, timing in timings.items()},
        "speedup": {
            mode: float(f"{timings[CIRCUIT].p50 / timings[mode].p50:.3g}") for mode in law.MODES
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller case, for less time")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--out", type=Path, default=RESULTS / "clients.json")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    record = environment()
    results = []
    for case in CASES[:1] if options.quick else CASES:
        results.append(run(case, 0.2 if options.quick else 5.0, 3))
    record["load_average_after"] = load_average()
    written = {
        "environment": record,
        "quick": options.quick,
        "threads": options.threads,
        "cases": results,
    }
    print(table(written))
    save(written, options.out)


def table(written: dict[str, object]) -> str:
    """The result as the rows of docs/clients.md."""
    lines = [
        "| scores | k | exact | compat | circuit | circuit / exact | circuit / compat |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    cases = written["cases"]
    assert isinstance(cases, list)
    for case in cases:
        times = [f"{case[name]['p50'] * 1e3:.3g} ms" for name in (*law.MODES, CIRCUIT)]
        ratios = [f"{case['speedup'][mode]:.3g}" for mode in law.MODES]
        cells = [f"({case['rows']}, {case['n']}, 1)", str(case["k"]), *times, *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
