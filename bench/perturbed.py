# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of dg.imle_topk beside the published algorithm (published_imle.py).

    python bench/perturbed.py [--quick] [--threads N]

It writes bench/results/perturbed.json (or the file that --out names) and BENCHMARKS.md.

For each case both providers are first held to one another: k ones in every sample, and inclusion
frequencies and mean gradients that agree within their sampling error; a wrong one ends the run.
Then they are timed in turns within this process (measure.py); the ratio is one of medians of the
same run. Peak memory is what one call adds to a fresh process's resident memory at its highest,
inputs not counted (memory.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import memory
import report
import torch
from machine import RESULTS, cores, environment, load_average, save
from measure import time_in_turns
from published_imle import gumbel, imle_topk_published, sum_of_gamma
from torch import Tensor
from tqdm import tqdm

import discrete_grad as dg

OURS, PUBLISHED = "discrete_grad", "published"
PROVIDERS = (OURS, PUBLISHED)
MODES = ("forward", "forward+backward")
TEMPERATURE, STEP = 1.0, 10.0
# Draws of one row with which the providers are held to one another (fewer of a long row), and the
# standard deviations that the largest of a row's differences may show.
_MOST_DRAWS, _DRAWN, _DEVIATIONS = 2000, 2**22, 5.5


@dataclass(frozen=True)
class Case:
    rows: int
    n: int
    k: int
    samples: int
    noise: str

    @property
    def id(self) -> str:
        return f"{self.noise}-{self.rows}x{self.n}-k{self.k}-s{self.samples}"

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Logits ``[rows, n]`` and one upstream gradient for all samples, ``[rows, n]``."""
        generator = torch.Generator().manual_seed(self.rows * self.n)
        logits = torch.randn(self.rows, self.n, generator=generator)
        return logits.requires_grad_(), torch.randn(self.rows, self.n, generator=generator)


SHAPES = [(256, 1024, 16, 10), (64, 8192, 64, 1), (4096, 64, 8, 1)]
CASES = [Case(*shape, noise) for shape in SHAPES for noise in ("gumbel", "sum_of_gamma")]


def draw(provider: str, case: Case, logits: Tensor, samples: int) -> Tensor:
    """k-hot ``[samples, rows, n]``, or in the published order ``[rows * samples, n]``."""
    if provider == OURS:
        target = dg.TargetDistribution(alpha=1.0, beta=STEP)
        return dg.imle_topk(
            logits, case.k, samples, target=target, noise=case.noise, temperature=TEMPERATURE
        )
    noise = gumbel if case.noise == "gumbel" else sum_of_gamma(case.k)
    return imle_topk_published(logits, case.k, samples, noise, TEMPERATURE, STEP)


def upstream(provider: str, grad: Tensor, samples: int) -> Tensor:
    """The gradient of every sample, in the provider's order, made beforehand as a loss would."""
    if provider == OURS:
        return grad.expand(samples, *grad.shape).contiguous()
    return grad.repeat_interleave(samples, dim=0)


def calls(case: Case, mode: str, provider: str) -> Callable[[], object]:
    logits, grad = case.inputs()
    if mode == "forward":
        return torch.no_grad()(partial(draw, provider, case, logits, case.samples))
    given = upstream(provider, grad, case.samples)

    def both() -> Tensor:
        drawn = draw(provider, case, logits, case.samples)
        (gradient,) = torch.autograd.grad(drawn, logits, given)
        return gradient

    return both


def check(case: Case) -> float:
    """The largest difference of the providers on one row, in standard deviations.

    Raises:
        AssertionError: a sample has not k ones, or the difference is too large.
    """
    logits, grad = (tensor.detach()[:1] for tensor in case.inputs())
    draws = min(_MOST_DRAWS, _DRAWN // case.n)
    frequencies, gradients = [], []
    for provider in PROVIDERS:
        theta = logits.clone().requires_grad_()
        drawn = draw(provider, case, theta, draws)
        hot = drawn.detach()
        assert bool(((hot == 0) | (hot == 1)).all()), f"{case.id}: {provider} is not k-hot"
        assert bool((hot.sum(-1) == case.k).all()), f"{case.id}: {provider} has not k ones"
        drawn.backward(upstream(provider, grad, draws))
        assert theta.grad is not None
        frequencies.append(hot.reshape(draws, case.n).mean(0))
        gradients.append(theta.grad[0])
    pooled = (frequencies[0] + frequencies[1]) / 2
    seen = pooled * (1 - pooled) * draws >= 10  # elsewhere counts are not nearly normal
    spread = (2 * pooled * (1 - pooled) / draws).sqrt()
    of_law = ((frequencies[0] - frequencies[1]).abs() / spread)[seen].max().item()
    # z - z' is -1, 0 or 1, and differs from 0 with at most the frequencies of z and z' together.
    other = pooled - (gradients[0] + gradients[1]) / 2
    spread = (2 * (pooled + other) / draws).sqrt()
    of_gradient = ((gradients[0] - gradients[1]).abs() / spread)[seen].max().item()
    worst = max(of_law, of_gradient)
    assert worst < _DEVIATIONS, f"{case.id}: the providers differ by {worst:.1f} deviations"
    return worst


def peak_of_one_call(case: Case, mode: str, provider: str, threads: int) -> int:
    """Bytes that a call adds at its highest; to be run in a fresh process."""
    torch.set_num_threads(threads)
    small = Case(2, case.n, case.k, 1, case.noise)
    return memory.peak_of(calls(small, mode, provider), calls(case, mode, provider))


def peak_in_fresh_process(case: Case, mode: str, provider: str, threads: int) -> int:
    return memory.in_fresh_process(__file__, [asdict(case), mode, provider, threads])


def run(case: Case, mode: str, threads: int, seconds: float) -> dict[str, object]:
    timings = time_in_turns(
        {provider: calls(case, mode, provider) for provider in PROVIDERS},
        seconds=seconds,
        most_rounds=100,
    )
    peaks = {name: peak_in_fresh_process(case, mode, name, threads) for name in PROVIDERS}
    return {
        **asdict(case),
        "mode": mode,
        "threads": threads,
        **{name: {**asdict(timings[name]), "peak_bytes": peaks[name]} for name in PROVIDERS},
        "speedup": float(f"{timings[PUBLISHED].p50 / timings[OURS].p50:.3g}"),
        "memory_ratio": float(f"{peaks[PUBLISHED] / max(peaks[OURS], 1):.3g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less time for each provider")
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--filter", default="", help="only cases with this in their name")
    parser.add_argument("--out", type=Path, help="another file; BENCHMARKS.md stays as it is")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        case, mode, provider, threads = json.loads(options.peak)
        print(peak_of_one_call(Case(**case), mode, provider, threads))
        return
    cases = [case for case in CASES if options.filter in case.id]
    if not cases:
        parser.error(f"no case has {options.filter!r} in its name: {[case.id for case in CASES]}")

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    record = environment()
    results = []
    with tqdm(cases, unit="case", disable=None) as progress:
        for case in progress:
            progress.set_description(case.id)
            deviations = check(case)
            for mode in MODES:
                result = run(case, mode, options.threads, 0.2 if options.quick else 1.5)
                results.append({**result, "deviations": round(deviations, 2)})
    record["load_average_after"] = load_average()
    for result in results:
        print(_line(result))
    written = {"environment": record, "quick": options.quick, "cases": results}
    if options.out:
        save(written, options.out)
    elif not options.filter:
        save(written, RESULTS / "perturbed.json")
        print(f"wrote {report.write()}")


def _line(result: dict[str, object]) -> str:
    cells = [f"{result['noise']:>12} {result['rows']:>5}x{result['n']:<5} {result['mode']:<17}"]
    for name in PROVIDERS:
        one = result[name]
        assert isinstance(one, dict)
        cells.append(f"{name} {one['p50'] * 1e3:9.2f} ms {one['peak_bytes'] / 2**20:8.1f} MiB")
    return "  ".join([*cells, f"{result['speedup']} x"])


if __name__ == "__main__":
    main()
