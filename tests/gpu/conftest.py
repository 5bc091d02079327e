# SPDX-License-Identifier: Apache-2.0
"""The backend of each test, and the device's memory given back after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import discrete_grad as dg
from discrete_grad import backends
from tests.gpu.device import BACKENDS


@pytest.fixture(params=BACKENDS)
def gpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once under each backend; one that was not built is skipped, and says why."""
    reason = backends.unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    with dg.backend(request.param):
        yield request.param
    torch.cuda.synchronize()  # an error of this test's kernels is not the next test's
