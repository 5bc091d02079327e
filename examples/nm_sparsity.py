# SPDX-License-Identifier: Apache-2.0
"""Learns which 2 of every 4 weights of a trained language model to keep (2:4 sparsity).

A small language model is trained dense on the bytes of Python's reference manual. Then, each from
that same model and for the same number of steps: the larger two of every four weights are kept, as
they are or fine-tuned; masks are learnt, weights frozen, by dg.nn.NMSparseLinear (SIMPLE) and by a
straight-through Gumbel-softmax over the six masks of a group (the parametrization of MaskLLM,
arXiv:2409.17481), from the same initial law; and SIMPLE learns masks and weights together. At the
end every model is plain nn.Linear layers with zeros; the script prints held-out losses, CPU time
per step and how many groups have another mask than magnitudes give, and draws the losses.

    python examples/nm_sparsity.py            # about six minutes of one core
    python examples/nm_sparsity.py --seeds 1  # one or two

It needs matplotlib and tqdm: pip install 'discrete-grad[demo]'.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from statistics import fmean

import torch
from language_model import (
    WIDTH,
    LanguageModel,
    Run,
    command_line,
    environment,
    evaluate,
    loss_of,
    manual,
    save,
    table,
    windows,
)
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from tqdm import tqdm

import discrete_grad as dg

# The temperature of the law of the masks, at first and at the end.
TEMPERATURES = (1.0, 0.1)
STRENGTH = 4.0  # of the initial logits
METHODS = (
    "magnitude",
    "magnitude, weights fine-tuned",
    "masks by SIMPLE",
    "masks by straight-through Gumbel",
    "masks by SIMPLE, weights too",
)
COLOURS = ("#999999", "#000000", "#0072B2", "#D55E00", "#56B4E9")


class GumbelMask(nn.Module):
    """The weight under one of the six masks of every group: a parametrization.

    The six logits of a group are the sums of the two logits that each mask keeps.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        pairs = itertools.combinations(range(4), 2)
        self.register_buffer("masks", torch.zeros(6, 4))
        for mask, pair in zip(self.masks, pairs, strict=True):
            mask[list(pair)] = 1
        size = weight.detach().abs().reshape(-1, 4)
        self.logits = nn.Parameter(STRENGTH / size.mean() * size @ self.masks.T)
        self.temperature = TEMPERATURES[0]

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            logits = self.logits / self.temperature
            mask = functional.gumbel_softmax(logits, hard=True) @ self.masks
        else:
            mask = self.masks[self.logits.argmax(-1)]
        return weight * mask.view_as(weight)


def masked_layers(model: nn.Module) -> list[nn.Linear]:
    """All linear layers but the head."""
    return [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]


def magnitude_masks(model: nn.Module) -> list[Tensor]:
    """1 at the larger two of every four weights, of every layer."""
    sizes = [layer.weight.detach().abs().reshape(-1, 4) for layer in masked_layers(model)]
    return [dg.subset.mode(size, 2) for size in sizes]


def prepare(model: nn.Module, method: str, options: argparse.Namespace) -> list[dict]:
    """Puts the masks into the model; what the optimizer trains."""
    model.requires_grad_(not method.startswith("masks") or "weights" in method)
    if "straight-through" in method:
        for layer in masked_layers(model):
            parametrize.register_parametrization(layer, "weight", GumbelMask(layer.weight))
        masks = [p for p in model.parameters() if p.requires_grad]
        return [{"params": masks, "lr": options.mask_lr}]
    weights = list(model.parameters())
    dg.nn.sparsify_(model.blocks, strength=STRENGTH)
    masks = [p for name, p in model.named_parameters() if name.endswith("mask_logits")]
    trained = {"params": masks, "lr": options.mask_lr}
    if "magnitude" in method:
        dg.nn.harden_masks_(model)
        return [{"params": weights, "lr": options.lr / 3}]
    if "weights" in method:
        return [trained, {"params": weights, "lr": options.lr / 3}]
    return [trained]


def cool(model: nn.Module, step: int, steps: int) -> None:
    """The Gumbel masks' temperature, as dg.nn.TemperatureSchedule has it."""
    start, end = TEMPERATURES
    for module in model.modules():
        if isinstance(module, GumbelMask):
            module.temperature = start * (end / start) ** (step / steps)


def finish(model: nn.Module, method: str) -> None:
    """Plain linear layers with zeros."""
    if "straight-through" in method:
        model.eval()
        for layer in masked_layers(model):
            parametrize.remove_parametrizations(layer, "weight")
    else:
        dg.nn.bake_masks_(model)


def train(
    model: nn.Module,
    parameters: list[dict],
    text: Tensor,
    held_out: Tensor,
    seed: int,
    length: int,
    title: str,
    batch: int,
) -> Run:
    """AdamW with a cosine schedule; held-out losses by step, seconds per step."""
    torch.manual_seed(seed)
    batches = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, length)
    subset = any(isinstance(module, dg.nn.NMSparseLinear) for module in model.modules())
    schedule = dg.nn.TemperatureSchedule(model, *TEMPERATURES, length) if subset else None
    steps, losses, seconds = [0], [evaluate(model, held_out)], 0.0
    for step in tqdm(range(1, length + 1), desc=f"{title}, seed {seed}", leave=False):
        start = time.process_time()
        loss = loss_of(model, windows(text, batch, batches))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cosine.step()
        if schedule is not None:
            schedule.step()
        cool(model, step, length)
        seconds += time.process_time() - start
        if step % max(length // 6, 1) == 0 or step == length:
            steps.append(step)
            losses.append(evaluate(model, held_out))
    return {
        "steps": steps,
        "losses": losses,
        "milliseconds_per_step": round(1000 * seconds / length, 1),
    }


def prune(
    dense: nn.Module,
    method: str,
    text: Tensor,
    held_out: Tensor,
    seed: int,
    options: argparse.Namespace,
) -> Run:
    """One method on a copy of the dense model."""
    model = copy.deepcopy(dense)
    before = magnitude_masks(model)
    parameters = prepare(model, method, options)
    if method == "magnitude":
        run: Run = {"steps": [0], "losses": [evaluate(model, held_out)]}
        run["milliseconds_per_step"] = None
    else:
        length, batch = options.steps, options.batch
        run = train(model, parameters, text, held_out, seed, length, method, batch)
    finish(model, method)
    run["loss"] = evaluate(model, held_out)
    after = [(layer.weight.reshape(-1, 4) != 0).float() for layer in masked_layers(model)]
    if any(mask.sum(-1).max() > 2 for mask in after):
        raise RuntimeError(f"{method} left more than 2 of 4 weights in a group")
    flipped = sum((a != b).any(-1).sum().item() for a, b in zip(after, before, strict=True))
    run["flipped_percent"] = 100 * flipped / sum(len(mask) for mask in after)
    return run


def picture(runs: dict[str, list[Run]]) -> Figure:
    """Mean losses with their standard deviations."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    dense = fmean(run["loss"] for run in runs["dense"])
    axes.axhline(dense, color="#009E73", linestyle="--", label="dense")
    for method, colour in zip(METHODS[1:], COLOURS[1:], strict=True):
        losses = torch.tensor([run["losses"] for run in runs[method]])
        mean, spread = losses.mean(0), losses.std(0, correction=min(1, len(losses) - 1))
        steps = runs[method][0]["steps"]
        axes.plot(steps, mean, color=colour, label=method)
        axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="step after pruning", ylabel="held-out loss, nats per byte")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def feed_forward() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


def main() -> None:
    parser = command_line(__doc__, steps=400)
    parser.add_argument("--dense-steps", type=int, default=1000, help="before; default: 1000")
    parser.add_argument("--mask-lr", type=float, default=0.1, help="of masks; default: 0.1")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.dense_steps, options.seeds = 8, 8, 1
    torch.set_num_threads(1)  # more gain nothing on a model this small
    where = environment()
    text, test = manual()
    held_out = windows(test, 32 if options.quick else 256, torch.Generator().manual_seed(0))
    runs: dict[str, list[Run]] = {name: [] for name in ("dense", *METHODS)}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        torch.manual_seed(seed)
        model = LanguageModel(feed_forward)
        weights = [{"params": model.parameters(), "lr": options.lr}]
        length, batch = options.dense_steps, options.batch
        dense = train(model, weights, text, held_out, seed, length, "dense", batch)
        runs["dense"].append(dense | {"loss": dense["losses"][-1], "flipped_percent": 0.0})
        for method in METHODS:
            runs[method].append(prune(model, method, text, held_out, seed + 10**6, options))
    columns = {
        "held-out loss": ("loss", 3),
        "CPU ms / step": ("milliseconds_per_step", 1),
        "groups with another mask, %": ("flipped_percent", 1),
    }
    print(table(runs, columns))
    save("nm-sparsity", where, runs, picture(runs), options)


if __name__ == "__main__":
    main()
