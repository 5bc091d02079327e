# SPDX-License-Identifier: Apache-2.0
"""Exports a network that ends in dg.subset.marginals, for run_exported.cpp to run without Python.

python examples/cpp/export_marginals.py network.pt2
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import discrete_grad as dg

FEATURES, ITEMS, CHOSEN = 8, 12, 3


class Selector(torch.nn.Module):
    """Scores 12 items and gives the probability of each to be among the 3 that are chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Linear(FEATURES, ITEMS)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.score(features)
        return scores, dg.subset.marginals(scores, CHOSEN)


def main() -> None:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=2, max=4096)
    with torch.no_grad():
        program = torch.export.export(
            Selector(), (torch.randn(5, FEATURES),), dynamic_shapes=({0: batch},)
        )
        torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1])


if __name__ == "__main__":
    main()
