# SPDX-License-Identifier: Apache-2.0
"""The checks of ``checks/``, each on the first 1 to 4 of the shared processes."""

from __future__ import annotations

import pytest

from tests.distributed import program
from tests.distributed.checks import batch, lost_rank, rows, sampling  # noqa: F401


def marks(name):
    return pytest.mark.slow if name.rpartition("-")[0] in program.SLOW else ()


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n)) for n in program.names()])
def test_check(outcomes, name):
    size = int(name.rpartition("-")[2])
    for rank in range(size):
        if (name, rank) == (f"a_lost_rank_ends_the_others-{size}", size - 1):
            assert name not in outcomes[rank], "the rank that was to be lost is not"
            continue
        assert name in outcomes[rank], f"rank {rank} did not come to this check"
        assert outcomes[rank][name]["failure"] is None, outcomes[rank][name]["failure"]
    print(outcomes[0][name]["printed"], f"{outcomes[0][name]['seconds']:.1f} s")
