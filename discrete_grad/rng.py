# SPDX-License-Identifier: Apache-2.0
"""Seeds of the counter-based noise, from a ``torch.Generator``.

Randomness enters an op as one int64 *tensor*, drawn once per call. A tensor needs no host
synchronisation, can be captured in a CUDA graph, and makes two draws of one compiled graph two
different nodes: an op that drew its own seed would be merged with its twin by
common-subexpression elimination.
"""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_grad import checks

_SEED_BOUND = 2**62


def seed_on(device: torch.device, generator: torch.Generator | None) -> Tensor:
    """A seed, int64 [1] on ``device``, uniform on [0, 2^62).

    Drawn from ``generator``, or where it is None from the default generator of the device. Advances
    that generator by one draw, whatever the size of the sample to come.

    Raises:
        TypeError: ``generator`` is no ``torch.Generator``.
        ValueError: ``generator`` lives on another device.
    """
    if generator is None:  # its own call: torch.compile traces no Generator argument
        return torch.randint(0, _SEED_BOUND, (1,), dtype=torch.int64, device=device)
    checks.generator(generator, device)
    return torch.randint(
        0, _SEED_BOUND, (1,), generator=generator, dtype=torch.int64, device=device
    )


def seed_for(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """``seed_on`` the device of ``logits``."""
    return seed_on(logits.device, generator)
