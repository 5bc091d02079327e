# SPDX-License-Identifier: Apache-2.0
"""State of a training that a checkpoint holds."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from discrete_grad.estimators.registry import Estimator

Part = nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler | torch.Generator


def estimator_state(estimator: Estimator) -> nn.ModuleDict:
    """The modules that the estimator learns in from call to call: AIMLE's target, a baseline."""
    options = estimator.options.items()
    return nn.ModuleDict({name: value for name, value in options if isinstance(value, nn.Module)})


def capture(**parts: Part) -> dict[str, Any]:
    """The states of the named parts, copied."""
    return {
        name: part.get_state()
        if isinstance(part, torch.Generator)
        else copy.deepcopy(part.state_dict())
        for name, part in parts.items()
    }


def restore(state: dict[str, Any], **parts: Part) -> None:
    """Put the parts back in the states that ``capture`` of the same names gave."""
    if state.keys() != parts.keys():
        raise ValueError(f"the state has {sorted(state)}, the parts are {sorted(parts)}")
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            part.set_state(state[name])
        else:
            part.load_state_dict(state[name])
