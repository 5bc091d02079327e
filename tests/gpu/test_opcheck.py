# SPDX-License-Identifier: Apache-2.0
"""torch.library.opcheck of every op on CUDA tensors."""

from __future__ import annotations

import pytest
import torch

from tests.autograd.test_opcheck import LAST_DERIVATIVES, NAMES, OPS, _fixed, _sample
from tests.gpu.device import DEVICE, require_cuda

require_cuda()
pytestmark = pytest.mark.gpu

# Per row k, masks, more items than one tile of short rows, and nothing at all.
LABELS = ("row-k", "masked", "long", "no-items")


def _on_device(args: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in args)


CASES = [
    pytest.param(op, _on_device(args), id=f"{op}-{tag}")
    for op in NAMES
    for tag, args in _fixed(op)
    if any(f"float64-{label}" in tag for label in LABELS) or "float32-masked" in tag
]


@pytest.mark.parametrize(("op", "args"), CASES)
def test_opcheck(gpu_backend, op, args):
    torch.library.opcheck(getattr(OPS, op).default, _sample(args, False))


@pytest.mark.parametrize(
    ("op", "args"),
    [case for case in CASES if case.values[0] not in LAST_DERIVATIVES and "float64" in case.id],
)
def test_opcheck_with_gradients(gpu_backend, op, args):
    torch.library.opcheck(getattr(OPS, op).default, _sample(args, True))
