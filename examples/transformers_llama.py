# SPDX-License-Identifier: Apache-2.0
"""Learnable 2:4 masks and token selection in a small Llama of Hugging Face transformers.

transformers' Llama models, with random weights (nothing is downloaded). Two parts:

- *2:4 masks*: a LlamaForCausalLM is trained dense on the bytes of Python's reference manual. Then
  its blocks keep 2 of every 4 weights: the larger ones, as they are or fine-tuned; or masks that
  dg.nn.sparsify_ learns with the weights. The result is a plain Llama with zeros; it writes text.
- *token selection*: four of 64 bytes, in random places, are the same digit, the others noise; which
  digit is asked for. A LlamaModel sees all 64 bytes; or the eight that a dg.nn.TokenSelector keeps,
  whose scorer learns from the model's loss alone; or eight drawn blindly.

At the end the script prints held-out losses and accuracies and CPU time per step.

    python examples/transformers_llama.py            # about five minutes of one core
    python examples/transformers_llama.py --seeds 1  # one

It needs transformers, matplotlib and tqdm: pip install 'discrete-grad[demo,transformers]'.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

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
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, __version__

import discrete_grad as dg
from discrete_grad.integrations.huggingface import selected_inputs

DIGITS, KEPT = 4, 8  # of the CONTEXT bytes


def config() -> LlamaConfig:
    """Bytes need neither a tokenizer nor special tokens."""
    return LlamaConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=2 * CONTEXT,
        use_cache=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def train(loss: Callable[[], Tensor], groups: list[dict], steps: int, title: str, each=None) -> Run:
    """AdamW with a cosine schedule, ``each`` after every step; milliseconds per step."""
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    start = time.process_time()
    for _ in trange(steps, desc=title, leave=False):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        cosine.step()
        if each is not None:
            each()
    return {"milliseconds_per_step": round(1000 * (time.process_time() - start) / steps, 1)}


def masks(seed: int, options: argparse.Namespace) -> dict[str, Run]:
    """A dense model and three with 2:4 masks: held-out losses in nats per byte."""
    text, test = manual()
    held_out = windows(test, 256, torch.Generator().manual_seed(0))
    batches = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    dense, runs = LlamaForCausalLM(config()).train(), {}

    def finish(model: LlamaForCausalLM, name: str, run: Run) -> None:
        if name != "dense":
            dg.nn.bake_masks_(model.model)
            groups = torch.cat([w.reshape(-1, 4) for w in linear_weights(model)])
            if (groups != 0).sum(-1).max() > 2:
                raise RuntimeError(f"{name} left more than 2 of 4 weights in a group")
        model.eval()
        with torch.no_grad():
            loss = model(held_out, labels=held_out).loss.item()
        runs[name] = run | {"loss": round(loss, 4), "accuracy": None, "text": sample(model)}

    def loss_of(model: LlamaForCausalLM) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            passages = windows(text, options.batch, batches)
            return model(passages, labels=passages).loss

        return loss

    weights = [{"params": dense.parameters(), "lr": options.lr}]
    run = train(loss_of(dense), weights, options.dense_steps, f"dense, seed {seed}")
    finish(dense, "dense", run)
    for name in ("2:4 by magnitude", "2:4 by magnitude, fine-tuned", "2:4 learnt"):
        model = copy.deepcopy(dense).train()
        weights = [{"params": list(model.parameters()), "lr": options.lr / 3}]
        layers = dg.nn.sparsify_(model.model)
        if name == "2:4 learnt":
            logits = [layer.mask_logits for layer in layers.values()]
            weights.append({"params": logits, "lr": options.mask_lr})
            schedule = dg.nn.TemperatureSchedule(model, 1.0, 0.1, options.steps)
            run = train(loss_of(model), weights, options.steps, name, schedule.step)
        else:
            dg.nn.harden_masks_(model)  # to the law's mode, which at the start is the magnitudes'
            run = {"milliseconds_per_step": None}
            if "fine-tuned" in name:
                run = train(loss_of(model), weights, options.steps, name)
        finish(model, name, run)
    return runs


def linear_weights(model: LlamaForCausalLM) -> list[Tensor]:
    """Of the blocks; the head stays dense."""
    return [part.weight for part in model.model.modules() if isinstance(part, nn.Linear)]


def sample(model: LlamaForCausalLM) -> str:
    """What the model goes on with, greedily."""
    prompt = torch.tensor([list(b"The assignment ")])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=48, do_sample=False
    )
    return bytes(out[0].tolist()).decode(errors="replace")


class Reader(nn.Module):
    """Tells the digit by the hidden state of the last of the tokens that are kept."""

    def __init__(self, selection: str) -> None:
        super().__init__()
        self.llama = LlamaModel(config())
        self.head = nn.Linear(WIDTH, 10)
        self.selector = None
        if selection == "learnt":
            self.selector = dg.nn.TokenSelector(KEPT, nn.Linear(WIDTH, 1))
        elif selection == "blind":
            self.selector = dg.nn.TokenSelector(KEPT, evaluation="sample")

    def forward(self, text: Tensor) -> Tensor:
        tokens = self.llama.get_input_embeddings()(text)
        if self.selector is None:
            inputs = {"inputs_embeds": tokens}
        else:
            blind = torch.zeros(text.shape) if self.selector.scorer is None else None
            inputs = selected_inputs(self.selector(tokens, blind))
        return self.head(self.llama(**inputs).last_hidden_state[:, -1])


def digits(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bytes [number, CONTEXT] and the digit of each row."""
    text = torch.randint(ord("9") + 1, 256, (number, CONTEXT), generator=generator)
    places = torch.rand(text.shape, generator=generator).argsort(-1)[:, :DIGITS]
    digit = torch.randint(10, (number, 1), generator=generator)
    return text.scatter(1, places, (ord("0") + digit).expand_as(places)), digit[:, 0]


def selection(seed: int, options: argparse.Namespace) -> dict[str, Run]:
    """Held-out accuracies of three readers."""
    held_out, answers = digits(2000, torch.Generator().manual_seed(10**6))
    runs = {}
    for name in ("all", "learnt", "blind"):
        torch.manual_seed(seed)
        batches = torch.Generator().manual_seed(seed)
        model = Reader(name).train()

        def loss(model=model, batches=batches) -> Tensor:
            text, wanted = digits(4 * options.batch, batches)
            return functional.cross_entropy(model(text), wanted)

        title = "all 64 tokens" if name == "all" else f"8 of 64 tokens, {name}"
        scorer = [] if name != "learnt" else list(model.selector.parameters())
        rest = [p for p in model.parameters() if not any(p is q for q in scorer)]
        weights = [{"params": rest, "lr": options.lr}, {"params": scorer, "lr": 10 * options.lr}]
        run = train(loss, weights, 2 * options.steps, f"{title}, seed {seed}")
        model.eval()
        with torch.no_grad():
            logits = model(held_out)
        right = (logits.argmax(-1) == answers).float().mean().item()
        value = functional.cross_entropy(logits, answers).item()
        runs[title] = run | {"loss": round(value, 4), "accuracy": round(right, 4)}
    return runs


def main() -> None:
    parser = command_line(__doc__, steps=400)
    parser.add_argument("--dense-steps", type=int, default=600, help="before; default: 600")
    parser.add_argument("--mask-lr", type=float, default=0.1, help="of masks; default: 0.1")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.dense_steps, options.seeds = 8, 8, 1
    torch.set_num_threads(1)  # more gain nothing on a model this small
    where = environment()
    where["versions"]["transformers"] = __version__
    runs: dict[str, list[Run]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for part in (masks, selection):
            for name, run in part(seed, options).items():
                runs.setdefault(name, []).append(run)
    columns = {
        "held-out loss": ("loss", 3),
        "accuracy": ("accuracy", 3),
        "CPU ms / step": ("milliseconds_per_step", 1),
    }
    print(table(runs, columns))
    print(f"with learnt masks it writes: {runs['2:4 learnt'][0]['text']!r}")
    save("transformers-llama", where, runs, None, options)


if __name__ == "__main__":
    main()
