# SPDX-License-Identifier: Apache-2.0
"""The backend of each test, and a report of a run that is stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

import discrete_grad as dg
from discrete_grad import backends
from tests.gpu.device import BACKENDS


def pytest_sessionstart() -> None:
    """A run that is out of time ends as by Ctrl-C: with a report of the tests that did run."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(params=BACKENDS)
def gpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once under each backend; one that was not built is skipped, and says why."""
    reason = backends.unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    with dg.backend(request.param):
        yield request.param
    torch.cuda.synchronize()  # an error of this test's kernels is not the next test's
