# SPDX-License-Identifier: Apache-2.0
"""Every estimator of the registry under torch.compile: the eager value and gradient."""

from __future__ import annotations

import pytest
import torch

import discrete_grad as dg
from discrete_grad.estimators import registry

WEIGHT = torch.linspace(-2, 3, 8)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Dynamo's own: it instantiates the autograd.Function that it traces, and looks at the .grad of what
# is alive at a graph break.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("name", registry.names())
def test_compiled(name):
    """Without a graph break, but for the one that documents it. Three calls, as states change."""
    # The reference's sampler reads values, which no compiler can trace.
    with dg.backend("cpp"):
        results = []
        for compiled in (False, True):
            estimator = registry.get(name)

            def loss(logits, estimator=estimator):
                return estimator(logits, 3, lambda z: (z @ WEIGHT).square(), 4).sum()

            function = loss
            if compiled:
                whole = name != "score_function_moving_average"
                function = torch.compile(loss, fullgraph=whole, backend="aot_eager")
            torch.manual_seed(3)
            base = torch.randn(4, 8)
            for _ in range(3):
                logits = base.clone().requires_grad_()
                value = function(logits)
                value.backward()
                results.append((value.detach(), logits.grad))
    for eager, graph in zip(results[:3], results[3:], strict=True):
        assert eager[1].abs().sum() > 0
        torch.testing.assert_close(graph, eager)
