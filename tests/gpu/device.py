# SPDX-License-Identifier: Apache-2.0
"""The device that the tests of this folder need, and its backends.

Every test file here calls ``require_cuda`` first: without a device the file is one skipped line.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

# Deterministic algorithms, which the settings of all tests ask for, need it of cuBLAS.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

BACKENDS = ("triton", "cuda")
DEVICE = torch.device("cuda")


def require_cuda() -> None:
    """Skips the calling test file where there is no CUDA device."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device", allow_module_level=True)


def require_memory(gib: float) -> None:
    """Skips a test on a device with less free memory."""
    gc.collect()
    torch.cuda.empty_cache()
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    if free < gib:
        pytest.skip(f"needs {gib:.0f} GiB of device memory, {free:.1f} of {total:.1f} GiB are free")


@contextmanager
def synchronisation_is_an_error() -> Iterator[None]:
    """Inside, PyTorch raises where it would wait for the device."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it does not detect every synchronisation
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def seeded(seed: int, device: torch.device = DEVICE) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator(device).manual_seed(seed)
