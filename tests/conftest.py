# SPDX-License-Identifier: Apache-2.0
"""Settings that hold for every test: poisoned memory, two threads, fixed seeds, and the choice of
backends.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

CPU_BACKENDS = ("reference", "cpp")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends",
        default=",".join(CPU_BACKENDS),
        help="comma-separated backends under test; one that is named but missing fails its tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Raised inside PyTorch, when the first forward-mode derivative imports its decompositions.
    config.addinivalue_line(
        "filterwarnings", "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        names = [name.strip() for name in metafunc.config.getoption("--backends").split(",")]
        unknown = sorted(set(names) - set(CPU_BACKENDS))
        if unknown:
            raise pytest.UsageError(f"--backends: {unknown} not in {list(CPU_BACKENDS)}")
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once under each CPU backend. A backend that cannot serve raises: there is no
    skip.
    """
    import discrete_grad as dg

    with dg.backend(request.param):
        yield request.param


@pytest.fixture(autouse=True, scope="session")
def _threads() -> Iterator[None]:
    """Two threads, so that the threaded paths run in every test, also on a larger machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Uninitialised floating memory holds NaN (integers their maximum): an output that a kernel
    does not write shows.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same seed, whatever ran before it."""
    torch.manual_seed(20230501)
