# SPDX-License-Identifier: Apache-2.0
"""Trains a small Mixtral of Hugging Face transformers with its routers and with the subset law's.

transformers' MixtralForCausalLM, with random weights (nothing is downloaded), learns to predict the
bytes of Python's reference manual. All runs of a seed start from the same weights and see the same
text; apply_subset_router_to_mixtral replaces the routers: by the k most probable experts of the
k-subset law under the model's own balance loss, the same under the law's own balance loss, and by
draws. At the end the script prints the loss on held-out text, tokens per second (of one core's
time) and the largest share of the tokens that an expert has, and draws the losses.

    python examples/transformers_moe.py            # about five minutes of one core
    python examples/transformers_moe.py --seeds 1  # one

It needs transformers, matplotlib and tqdm: pip install 'discrete-grad[demo,transformers]'.
"""

from __future__ import annotations

import argparse
import time
from statistics import fmean

import torch
from language_model import (
    CONTEXT,
    HEADS,
    LAYERS,
    WIDTH,
    Run,
    command_line,
    environment,
    manual,
    save,
    table,
    windows,
)
from moe_router import BALANCE, EXPERTS, TEMPERATURE, K, picture
from torch import Tensor, nn
from tqdm import tqdm
from transformers import MixtralConfig, MixtralForCausalLM, __version__

from discrete_grad.integrations.huggingface import (
    apply_subset_router_to_mixtral,
    subset_balance_loss,
)

DRAWS = {"selection": "sample", "temperature": TEMPERATURE}
# Settings of the subset router, None to keep the stock one; whether the balance loss is its own.
ROUTERS: dict[str, tuple[dict | None, bool]] = {
    "transformers' router": (None, False),
    "k-subset law": ({}, False),
    "k-subset law, own balance loss": ({}, True),
    "k-subset law, draws": (DRAWS, False),
}


def mixtral(settings: dict | None) -> MixtralForCausalLM:
    """A model of 0.5 million weights; its bytes need neither a tokenizer nor special tokens."""
    config = MixtralConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        num_local_experts=EXPERTS,
        num_experts_per_tok=K,
        max_position_embeddings=2 * CONTEXT,
        router_aux_loss_coef=BALANCE,
        output_router_logits=True,
        use_cache=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = MixtralForCausalLM(config)
    return model if settings is None else apply_subset_router_to_mixtral(model, **settings)


@torch.no_grad()
def evaluate(model: MixtralForCausalLM, passages: Tensor) -> tuple[float, float]:
    """Nats per byte, and the largest load of an expert over an even one, mean over the layers."""
    model.eval()
    losses, counts = [], torch.zeros(LAYERS, EXPERTS)
    for part in passages.split(64):
        logits = model(part, output_router_logits=True).router_logits
        losses.append(model(part, labels=part, output_router_logits=False).loss.item())
        for layer, chosen in enumerate(row.topk(K).indices for row in logits):
            counts[layer] += torch.bincount(chosen.flatten(), minlength=EXPERTS)
    model.train()
    load = (counts.amax(-1) / counts.mean(-1)).mean().item()
    return round(fmean(losses), 4), round(load, 3)


def train(name: str, seed: int, text: Tensor, test: Tensor, options: argparse.Namespace) -> Run:
    """One run: held-out losses by step, training tokens per second, the load at the end."""
    settings, own = ROUTERS[name]
    torch.manual_seed(seed)
    batches = torch.Generator().manual_seed(seed)  # the same text for every router
    model = mixtral(settings).train()
    if own:
        model.router_aux_loss_coef = 0.0
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.lr)
    held_out = windows(test, 32 if options.quick else 256, torch.Generator().manual_seed(0))
    steps, losses, load, seconds = [], [], 0.0, 0.0
    for step in tqdm(range(1, options.steps + 1), desc=f"{name}, seed {seed}", leave=False):
        passages = windows(text, options.batch, batches)
        start = time.process_time()
        out = model(passages, labels=passages)
        loss = out.loss
        if own:
            loss = loss + BALANCE * subset_balance_loss(out.router_logits, K)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seconds += time.process_time() - start
        if step % max(options.steps // 8, 1) == 0 or step == options.steps:
            value, load = evaluate(model, held_out)
            steps.append(step)
            losses.append(value)
    return {
        "steps": steps,
        "losses": losses,
        "loss": losses[-1],
        "cpu_seconds": round(seconds, 1),
        "tokens_per_second": round(options.steps * options.batch * CONTEXT / seconds),
        "largest_load": load,
    }


def main() -> None:
    options = command_line(__doc__, steps=400).parse_args()
    if options.quick:
        options.steps, options.seeds = 16, 1
    torch.set_num_threads(1)  # more gain nothing on a model this small
    where = environment()
    where["versions"]["transformers"] = __version__
    text, test = manual()
    runs: dict[str, list[Run]] = {name: [] for name in ROUTERS}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in ROUTERS:  # in turn: a change of the machine's load hits them all
            runs[name].append(train(name, seed, text, test, options))
    columns = {
        "held-out loss": ("loss", 3),
        "tokens / CPU second": ("tokens_per_second", 0),
        "largest load / even load": ("largest_load", 2),
    }
    print(table(runs, columns))
    save("transformers-moe", where, runs, picture(runs), options)


if __name__ == "__main__":
    main()
