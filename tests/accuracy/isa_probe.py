# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own with ATEN_CPU_CAPABILITY set: computes rows with the C++ kernels of
that level.

Usage: python isa_probe.py ROWS.npz OUT.npz. ROWS holds logits, k, grad; OUT receives what each
dtype and method gives, and the level that the kernels say they ran at.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import discrete_grad as dg
from discrete_grad import _C


def main(rows_path: str, out_path: str) -> None:
    torch.set_num_threads(2)
    rows = np.load(rows_path)
    k = torch.from_numpy(rows["k"])
    out = {"capability": np.array(_C.cpu_capability())}
    with dg.backend("cpp"):
        for dtype in (torch.float64, torch.float32):
            name = str(dtype).removeprefix("torch.")
            for method in ("contour", "linear", "recursion"):
                theta = torch.from_numpy(rows["logits"]).to(dtype).requires_grad_()
                marginals = dg.subset.marginals(theta, k, method=method)
                (vjp,) = torch.autograd.grad(
                    marginals, theta, torch.from_numpy(rows["grad"]).to(dtype)
                )
                out[f"{name}/{method}/marginals"] = marginals.detach().double().numpy()
                out[f"{name}/{method}/vjp"] = vjp.double().numpy()
                log_z = dg.subset.log_partition(theta, k, method=method)
                out[f"{name}/{method}/log_partition"] = log_z.detach().double().numpy()
            theta = theta.detach()
            generator = torch.Generator().manual_seed(11)
            out[f"{name}/sample"] = (
                dg.subset.sample(theta, k, 2, generator=generator).double().numpy()
            )
            out[f"{name}/count"] = dg.subset.count_log_prob(theta, 40).double().numpy()
    np.savez(out_path, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
