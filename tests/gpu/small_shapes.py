# SPDX-License-Identifier: Apache-2.0
"""Runs every op once for each kind of row, small: for compute-sanitizer, which slows a GPU down.

    python tests/gpu/small_shapes.py [--backend triton|cuda] [--device cuda]

Lengths: several rows in one program, one row in one, one row over many programs. The results are
checked only for being there (a sum of k): what they are worth is what the tests check.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import discrete_grad as dg  # registers the ops

OPS = torch.ops.discrete_grad
LENGTHS = (4, 70, 1500, 20_000)
# float64 is the same code with other tiles, 16 bits another load.
PROBLEMS = [(torch.float32, n) for n in LENGTHS]
PROBLEMS += [(torch.float64, 1500), (torch.bfloat16, 70)]
ROWS = 3
METHODS = ("contour", "linear", "recursion")


def expect_sums(name: str, values: Tensor, k: int) -> None:
    sums = values.double().sum(-1)
    error = float((sums - k).abs().max())
    if not error <= 0.05 * max(k, 1):  # sums of bfloat16 numbers
        raise SystemExit(f"{name}: the rows sum to {sums.flatten().tolist()}, expected {k}")


def run(device: torch.device, dtype: torch.dtype, n: int) -> set[str]:
    """Every op on rows of n items; returns the names of those that ran."""
    k = min(max(1, n // 3), 40)
    logits = torch.randn(ROWS, n, device=device).to(dtype)
    grad, other = torch.rand_like(logits), torch.rand_like(logits)
    per_row = torch.rand_like(logits[:, 0])
    row_k = torch.full((ROWS,), k, device=device)
    seed = torch.tensor([1], device=device)
    ran: set[str] = set()

    def call(name: str, *arguments: object) -> tuple[Tensor, ...]:
        ran.add(name)
        result = getattr(OPS, name)(*arguments)
        return result if isinstance(result, tuple) else (result,)

    for method in METHODS:
        for counts in ((k, None), (n, row_k)):
            mu, _, state = call("subset_marginals", logits, *counts, method)
            expect_sums(f"marginals, {method}, {dtype}, n = {n}", mu, k)
        for saved in (state, None) if method == "contour" else (state,):
            call("subset_marginals_vjp", logits, n, row_k, method, saved, grad, per_row)
    call("subset_third_cumulant", logits, n, row_k, grad, other)
    for name, arguments in (
        ("subset_sample", (k, None, 2, seed)),
        ("simple", (n, row_k, 2, "contour", seed)),
    ):
        (hot,) = call(name, logits, *arguments)
        expect_sums(f"{name}, {dtype}, n = {n}", hot, k)
    call("subset_sample_indices", logits, k, 2, seed)
    (counted,) = call("count_log_prob", logits, k)
    cotangent = torch.rand_like(counted)
    call("count_log_prob_vjp", logits, k, cotangent)
    call("count_log_prob_vjp_backward", logits, k, cotangent, other)

    compute = torch.float64 if dtype == torch.float64 else torch.float32
    # A table of quantiles that falls piece by piece; without one the noise is Gumbel.
    table = torch.linspace(20, -20, 881, device=device, dtype=compute)
    table = torch.stack([table, *[torch.zeros_like(table)] * 3], -1)
    step = torch.full((ROWS,), 0.5, device=device, dtype=compute)
    for quantiles in (None, table):
        call("perturbation_noise", 2 * ROWS, n, quantiles, seed, compute)
        for counts in ((k, None), (n, row_k)):
            (hot,) = call("perturbed_topk", logits, *counts, 2, quantiles, 1.0, seed)
            expect_sums(f"perturbed_topk, {dtype}, n = {n}", hot, k)
            for symmetric in (False, True):
                settings = (quantiles, step, 1.0, 1.0, 1.0, 1.0, symmetric, seed)
                gradients = grad.expand(2, ROWS, n)
                difference, _ = call(
                    "perturbed_topk_difference", logits, gradients, *counts, *settings
                )
                expect_sums(f"perturbed_topk_difference, {dtype}, n = {n}", difference, 0)
        call("perturbed_topk_indices", logits, k, 2, quantiles, 1.0, seed)
    return ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    device = options.device
    dg.backend(options.backend)
    torch.manual_seed(0)
    ran: set[str] = set()
    for dtype, n in PROBLEMS:
        ran |= run(device, dtype, n)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"{len(ran)} ops ran on {device} ({options.backend}): {', '.join(sorted(ran))}")


if __name__ == "__main__":
    main()
