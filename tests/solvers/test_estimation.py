# SPDX-License-Identifier: Apache-2.0
"""The solvers inside dg.imle and dg.aimle: the gradient is the difference of two MAP states, and
descending it brings the solution to a wanted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import discrete_grad as dg

EDGES = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)]
# All of its paths have three edges, so that the costs decide; as those of a grid without diagonals.
LAYERS = [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (2, 4), (2, 5), (3, 4), (3, 5), (4, 6), (5, 6)]


@dataclass(frozen=True)
class Case:
    solve: Callable[[Tensor], Tensor]
    instance: tuple[int, ...]
    minimises: bool = False


CASES = {
    "topk": Case(dg.solvers.topk(3), (8,)),
    "tree": Case(dg.solvers.spanning_tree(), (5, 5)),
    "tree-edges": Case(dg.solvers.spanning_tree(EDGES), (7,)),
    "matching": Case(dg.solvers.matching(), (4, 4)),
    "path": Case(dg.solvers.shortest_path(neighbours=4, minimum=1e-3), (4, 4), True),
    "path-edges": Case(dg.solvers.shortest_path(LAYERS, minimum=1e-3), (11,), True),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def weights(case: Case, batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, *case.instance, generator=generator, dtype=torch.float64) + 0.5


@each_case
def test_gradient_is_the_difference_of_the_map_states(case: Case) -> None:
    theta = weights(case, 6, 1).requires_grad_()
    wanted = case.solve(weights(case, 6, 2))
    layer = dg.imle(
        case.solve,
        target_distribution=dg.TargetDistribution(beta=2.0),
        _is_minimization=case.minimises,
    )
    found = layer(theta)
    (found - wanted).square().sum().backward()
    step = 2.0 * 2 * (found - wanted)
    with torch.no_grad():
        right = case.solve(theta + step if case.minimises else theta - step)
    difference = right - found if case.minimises else found - right
    assert difference.count_nonzero() > 0
    assert torch.equal(theta.grad, difference)


@each_case
@pytest.mark.parametrize("samples", [1, 3])
def test_learns_wanted_states(case: Case, samples: int) -> None:
    """One weight per entry, trained from the distance to the wanted state alone."""
    torch.manual_seed(3)
    theta = weights(case, 8, 3).requires_grad_()
    wanted = case.solve(weights(case, 8, 4))
    layer = dg.aimle(
        case.solve,
        target_distribution=dg.AdaptiveTargetDistribution(initial_beta=0.1, beta_update_step=1e-2),
        noise_distribution=dg.GumbelNoiseDistribution(),
        nb_samples=samples,
        theta_noise_temperature=0.05,
        target_noise_temperature=0.05,
        symmetric_perturbation=True,
        _is_minimization=case.minimises,
    )
    before = (case.solve(theta) - wanted).abs().sum()
    optimiser = torch.optim.Adam([theta], lr=0.05)
    for _ in range(120):
        loss = (layer(theta) - wanted.repeat_interleave(samples, 0)).square().sum()
        optimiser.zero_grad()
        loss.backward()
        assert theta.grad is not None
        assert theta.grad.isfinite().all()
        optimiser.step()
    after = (case.solve(theta) - wanted).abs().sum()
    assert after <= 0.25 * before
    assert before > 10


def test_infeasible_instance_inside_a_layer() -> None:
    """The element is the one of the batch that the solver is given: samples run fastest."""
    costs = torch.ones(3, 3, 3)
    costs[1, -1, -1] = torch.inf
    layer = dg.imle(dg.solvers.shortest_path(minimum=1e-3), nb_samples=2, _is_minimization=True)
    with pytest.raises(ValueError, match=r"costs must leave a path .* in batch element 2$"):
        layer(costs)
