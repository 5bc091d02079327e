# SPDX-License-Identifier: Apache-2.0
"""Tiny models of transformers with random weights, and a text that they can learn in some steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCABULARY, WIDTH, EXPERTS, K = 32, 32, 4, 2
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    # Larger than transformers' 0.02: the routers then tell tokens apart from the first step.
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
ROUTED = COMMON | {"num_experts_per_tok": K, "output_router_logits": True}
QWEN = ROUTED | {"num_experts": EXPERTS, "moe_intermediate_size": WIDTH}


def mixtral(**settings: Any) -> MixtralForCausalLM:
    return MixtralForCausalLM(MixtralConfig(**ROUTED | {"num_local_experts": EXPERTS} | settings))


def qwen2_moe(**settings: Any) -> Qwen2MoeForCausalLM:
    shared = {"shared_expert_intermediate_size": WIDTH}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**QWEN | shared | settings))


def qwen3_moe(**settings: Any) -> Qwen3MoeForCausalLM:
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**QWEN | {"head_dim": 8} | settings))


def llama(**settings: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**COMMON | settings))


def gates(model: nn.Module) -> list[Any]:
    """The routers, in order."""
    return [part.gate for part in model.modules() if hasattr(part, "experts")]


def text(number: int, length: int = 16) -> Tensor:
    """Sequences [number, length] that count upwards by 1, 2 or 3 from a random start."""
    start = torch.randint(VOCABULARY, (number, 1))
    return (start + torch.randint(1, 4, (number, 1)) * torch.arange(length)) % VOCABULARY


def train(
    loss: Callable[[], Tensor], parameters: Iterable[nn.Parameter], steps: int, lr: float = 1e-2
) -> list[float]:
    """The losses of ``steps`` steps of Adam."""
    optimiser = torch.optim.Adam(parameters, lr=lr)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    return losses
