# SPDX-License-Identifier: Apache-2.0
"""The baselines through torch.compile: marginals, or marginals and gradient, as one graph.

Which: the circuit, as it is run in SFESS, at the cases of the numbers to reach; the dynamic
programme's marginals up to n = 64. Its n steps become n pieces of generated code: on two cores 36 s
of compilation at n = 64 for the marginals, 106 s for their gradient, which then ran 40 times slower
than without. The compiler does not differentiate twice through autograd: torch.func.grad in
torch.func.grad is what it compiles, shapes fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import baselines
import circuit
import torch
from cases import Case, Inputs
from providers import CIRCUIT, DP, Provider
from torch import Tensor

SUFFIX = ", compiled"
_LOG_PARTITIONS = {DP: baselines.log_partition, CIRCUIT: circuit.log_partition}
_DP_STEPS = 64
BACKEND = "inductor"


@cache
def _marginals(name: str, k: int) -> Callable[[Tensor], Tensor]:
    marginals = torch.func.grad(lambda logits: _LOG_PARTITIONS[name](logits, k).sum())
    return torch.compile(marginals, fullgraph=True, dynamic=False, backend=BACKEND)


@cache
def _vjp(name: str, k: int) -> Callable[[Tensor, Tensor], Tensor]:
    marginals = torch.func.grad(lambda logits: _LOG_PARTITIONS[name](logits, k).sum())

    def vjp(logits: Tensor, grad: Tensor) -> Tensor:
        return torch.func.grad(lambda theta: (marginals(theta) * grad).sum())(logits)

    return torch.compile(vjp, fullgraph=True, dynamic=False, backend=BACKEND)


def _run_marginals(name: str, case: Case, inputs: Inputs) -> Tensor:
    return _marginals(name, case.k)(inputs.logits.detach())


def _run_vjp(name: str, case: Case, inputs: Inputs) -> Tensor:
    return _vjp(name, case.k)(inputs.logits.detach(), inputs.grad)


def providers_of(case: Case) -> list[Provider]:
    """The compiled baselines of a case; which compile on their first call."""
    forward = case.op == "marginals"
    names = [CIRCUIT, *([DP] if forward and case.n <= _DP_STEPS else [])]
    run, quantity = (_run_marginals, "marginals") if forward else (_run_vjp, "vjp")
    return [
        Provider(name + SUFFIX, quantity, lambda *a, name=name: run(name, *a)) for name in names
    ]
