# SPDX-License-Identifier: Apache-2.0
"""The adaptive state under data parallelism: two gloo processes agree with one."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from tests.imle import data_parallel
from tests.imle.data_parallel import CASES, RANKS, STEPS, run


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen([sys.executable, data_parallel.__file__, str(rank), str(port), folder])
        for rank in range(RANKS)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * RANKS
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_ranks_agree_with_each_other_and_with_one_process(ranks, case):
    whole, gradients = run(case, slice(None), None)
    states = [result[case][0] for result in ranks]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], whole)
    assert len(set(whole[:, 0].tolist())) == STEPS
    # Each rank divides its loss by its own examples: its gradients are RANKS times those of the
    # whole batch, which data parallelism averages away.
    theirs = torch.cat([result[case][1] for result in ranks], 1) / RANKS
    assert gradients.any()
    assert_close(theirs, gradients)


def test_an_overflow_on_one_rank_counts_on_none(ranks):
    states = [result["overflow"][0] for result in ranks]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0][4], states[0][3])
    assert not torch.equal(states[0][5], states[0][4])


def test_without_a_group_ranks_drift_apart(ranks):
    """The comparison above is not of runs that would agree anyway."""
    halves = [run(CASES[0], slice(h * 3, h * 3 + 3), None)[0] for h in range(2)]
    assert not torch.equal(halves[0], halves[1])
