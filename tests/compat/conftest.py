# SPDX-License-Identifier: Apache-2.0
"""One thread for the adapters' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Thousands of small operations in turn: beside other work, two threads wait at each of them.

    The ops' threaded paths are run by their own tests.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
