# SPDX-License-Identifier: Apache-2.0
"""What stops a number that is not reached, from measurements: the cost of a call that does next to
nothing, taken in the same run, and the instructions that bench/instructions.py counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from machine import RESULTS
from tables import Record, duration

# Functions of the kernels by what they do; the rest is loading, storing and moving.
_SIGMOIDS = ("tilt_segment", "shift_segment", "tilt")
_NODES = ("multiply_nodes", "marginals_segment", "dot_nodes", "vjp_segment")
_COEFFICIENTS = ("linear_group", "up", "down", "tree_up", "tree_down", "with_fixed", "multiply_few")
_RANDOM = ("draw_segment",)


def _instructions(case: str) -> Record | None:
    """Of an item of a case, if they were counted."""
    path = RESULTS / "instructions.json"
    if not path.exists():
        return None
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return next((found for found in cases if found["case"] == case), None)


def _sum(case: Record, names: tuple[str, ...]) -> float:
    return sum(case["parts"].get(name, 0.0) for name in names)


def of_call_and_arithmetic(shape: str) -> Callable[[Record], str]:
    """Of a forward and backward pass: its fixed cost, and what an item takes."""

    def bound(row: Record) -> str:
        left = row["best_seconds"] / row["goal"] - row["fixed_seconds"]
        share = left / (row["ours"] - row["fixed_seconds"])
        text = (
            f"a forward and backward call on 8 items takes {duration(row['fixed_seconds'])} in the "
            f"same run, which {row['goal']:g}x includes; what it leaves for the rows is "
            f"{max(share, 0.0):.0%} of what they take."
        )
        forward, vjp = (_instructions(f"{op}-{shape}-s1") for op in ("forward", "vjp"))
        if forward is None or vjp is None:
            return text
        each = forward["per_item"] + vjp["per_item"]
        products = sum(_sum(case, (*_NODES, *_COEFFICIENTS)) for case in (forward, vjp))
        sigmoids = _sum(forward, _SIGMOIDS) + _sum(vjp, _SIGMOIDS)
        return (
            f"{text} They execute {each:.0f} instructions an item (AVX2, below): {products:.0f} on "
            "the products and sums that each item enters (of the contour's nodes, or of the "
            f"recursion's coefficients), {sigmoids:.0f} on sigmoids."
        )

    return bound


def of_sampling(shape: str) -> Callable[[Record], str]:
    """Of a draw beside the marginals of the same row: what an item takes, and for what."""

    def bound(row: Record) -> str:
        forward, sample = (_instructions(f"{op}-{shape}-s1") for op in ("forward", "sample"))
        text = (
            "beyond 64 items a draw finds the tilt to rounding, at each level of halving again, "
            "and the law of a half there; and it takes 1.41 random words an item."
        )
        if forward is None or sample is None:
            return text
        parts = [
            (_sum(sample, _SIGMOIDS), "sigmoids and steps of the tilt"),
            (_sum(sample, _NODES), "nodes"),
            (_sum(sample, _RANDOM), "random numbers"),
        ]
        named = ", ".join(f"{value:.0f} {what}" for value, what in parts)
        return (
            f"{text} Of {shape.replace('-', ', ')} it executes {sample['per_item']:.0f} "
            f"instructions an item (AVX2, below) for the marginals' {forward['per_item']:.0f}: "
            f"{named}. Random numbers and the marginals' own work alone are "
            f"{1 + parts[2][0] / forward['per_item']:.1f}x."
        )

    return bound


def of_node_counts(row: Record) -> str:
    """Of rows of one length and any k."""
    times = {r["k"]: r["p50"] for r in row["details"] if r["provider"] == "discrete_grad"}
    slowest, fastest = max(times, key=times.__getitem__), min(times, key=times.__getitem__)
    return (
        f"the slowest is k = {slowest:,} ({duration(times[slowest])}), the fastest k = "
        f"{fastest:,} ({duration(times[fastest])}). A law with few chosen is skewed: its tilt "
        "takes two passes where that of k = n/2 of this symmetric row is right at once, and it "
        "keeps up to 11 nodes, where one that is close to normal keeps 5."
    )


# By the work of the row in targets.py. Shown only of a row that is missed.
BOUNDS: dict[str, Callable[[Record], str]] = {
    "marginals forward + backward, same": of_call_and_arithmetic("64x256-k32"),
    "marginals forward + backward, B=1024 n=64 k=8": of_call_and_arithmetic("1024x64-k8"),
    "exact sample over the marginals": of_sampling("64x1024-k64"),
    "marginals, n=10^6, k=10^5": of_node_counts,
}
