# SPDX-License-Identifier: Apache-2.0
"""Starts the processes once for all tests of the folder: importing torch takes most of the time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import program

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, object]]]:
    """Of each rank: name of a check to its failure (None: passed), and what it printed."""
    tests = [test for test in request.session.items if "outcomes" in test.fixturenames]
    selected = {test.callspec.params["name"] for test in tests}
    wanted = [name for name in program.names() if name in selected]
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("DISCRETE_GRAD_DISTRIBUTED_DEBUG", None)
    processes = [
        subprocess.Popen(
            [sys.executable, program.__file__, str(rank), str(port), str(folder), *wanted],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(program.PROCESSES)
    ]
    try:
        errors = [process.communicate(timeout=400)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"{rank}.pt" for rank in range(program.PROCESSES)]
    assert files[0].exists(), f"no check has run:\n{errors[0]}"
    return [torch.load(file) if file.exists() else {} for file in files]
