# SPDX-License-Identifier: Apache-2.0
"""The section of BENCHMARKS.md on I-MLE, from what bench/perturbed.py wrote."""

from __future__ import annotations

from tables import Record, duration, multiple, spread, table


def section(written: Record) -> str:
    about = written["environment"]

    def row(case: Record) -> list[str]:
        ours, published = case["discrete_grad"], case["published"]
        return [
            case["noise"],
            *(f"{case[part]:,}" for part in ("rows", "n", "k", "samples", "threads")),
            case["mode"],
            spread(ours),
            duration(published["p50"]),
            f"**{multiple(case['speedup'])}**",
            *(f"{one['peak_bytes'] / 2**20:.1f}" for one in (ours, published)),
        ]

    header = ["noise", "rows", "n", "k", "samples", "threads", "pass", "discrete_grad"]
    header += ["published", "published / ours", "our MiB", "published MiB"]
    parts = [
        "## I-MLE for top-k\n",
        f"{about['processor']}, {about['cores']} cores, {about['date'][:10]}, load average "
        f"{about['load_average']} before, {about['load_average_after']} after. `dg.imle_topk` "
        "beside a transcript in plain PyTorch of the published algorithm (published_imle.py): all "
        "noise stored, torch.topk, the gamma variates of Sum-of-Gamma noise drawn one by one. "
        "float32. Memory is what one call adds to a fresh process at its highest.\n",
        table(header, [row(case) for case in written["cases"]]),
    ]
    return "\n".join(parts)
