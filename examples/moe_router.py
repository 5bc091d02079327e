# SPDX-License-Identifier: Apache-2.0
"""Routes tokens to experts by exact k-subsets, beside softmax and top-k and straight-through.

A small mixture-of-experts language model learns to predict the bytes of Python's reference manual.
Only the router differs: the usual softmax, top-k, renormalisation and load-balancing loss;
dg.nn.SubsetRouter, which takes the k most probable experts, or draws them; and a straight-through
estimator on exact draws. At the end the script prints the loss on held-out text after equal steps,
tokens per second (of one core's time) and the largest share of the tokens that an expert has, and
draws the losses.

    python examples/moe_router.py            # about six minutes of one core
    python examples/moe_router.py --seeds 1  # one or two

It needs matplotlib and tqdm: pip install 'discrete-grad[demo]'.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import fmean

import torch
from language_model import (
    CONTEXT,
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
from tqdm import tqdm

import discrete_grad as dg

EXPERTS, K = 8, 2
BALANCE = 0.01  # weight of the load-balancing loss, for every router
TEMPERATURE = 0.25  # of SubsetRouter's draws; straight-through is worse below 1
COLOURS = ("#000000", "#0072B2", "#56B4E9", "#D55E00")
Routed = tuple[Tensor, Tensor, Tensor]  # weights [T, k], experts [T, k], load-balancing loss []


def counted_balance(experts: Tensor, probability: Tensor) -> Tensor:
    """The usual loss E sum_e f_e P_e, f_e the counted share of the tokens: no gradient in it."""
    share = functional.one_hot(experts, EXPERTS).sum(1).float().mean(0) / K
    return EXPERTS * (share * probability.mean(0)).sum()


class TopK(nn.Linear):
    """The usual router."""

    def forward(self, hidden: Tensor) -> Routed:
        probability = super().forward(hidden).softmax(-1)
        weights, experts = probability.topk(K)
        weights = weights / weights.sum(-1, keepdim=True)
        return weights, experts, counted_balance(experts, probability)


class StraightThrough(nn.Linear):
    """Exact draws with the identity as their gradient; each expert's weight is 1 / k."""

    def __init__(self, width: int, experts: int, bias: bool) -> None:
        super().__init__(width, experts, bias)
        self.choose = dg.nn.SubsetLayer(K, "straight_through", output="indices")

    def forward(self, hidden: Tensor) -> Routed:
        logits = super().forward(hidden)
        experts, gates = self.choose(logits)
        return gates / K, experts, counted_balance(experts, logits.softmax(-1))


class Subset(dg.nn.SubsetRouter):
    """dg.nn.SubsetRouter, with what is used here of its statistics."""

    def forward(self, hidden: Tensor) -> Routed:
        weights, experts, aux = super().forward(hidden)
        return weights, experts, aux.balance_loss


ROUTERS: dict[str, Callable[[], nn.Module]] = {
    "softmax, top-k": lambda: TopK(WIDTH, EXPERTS, bias=False),
    "SubsetRouter": lambda: Subset(WIDTH, EXPERTS, K),
    "SubsetRouter, draws": lambda: Subset(
        WIDTH, EXPERTS, K, gates="normalized", selection="sample", temperature=TEMPERATURE
    ),
    "straight-through": lambda: StraightThrough(WIDTH, EXPERTS, bias=False),
}


class Experts(nn.Module):
    """Two-layer networks, each run on the tokens that are routed to it."""

    def __init__(self, router: nn.Module) -> None:
        super().__init__()
        self.router = router
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, 2 * WIDTH, WIDTH) / (2 * WIDTH) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        weights, experts, self.balance = self.router(tokens)
        self.counts = torch.bincount(experts.flatten(), minlength=EXPERTS)
        out = torch.zeros_like(tokens)
        for expert in range(EXPERTS):
            rows, slot = (experts == expert).nonzero(as_tuple=True)
            hidden = functional.gelu(tokens[rows] @ self.up[expert]) @ self.down[expert]
            out = out.index_add(0, rows, hidden * weights[rows, slot].unsqueeze(-1))
        return out.view_as(x)


def train(name: str, seed: int, text: Tensor, test: Tensor, options: argparse.Namespace) -> Run:
    """One run: held-out losses by step, training tokens per second, the load at the end."""
    torch.manual_seed(seed)
    batches = torch.Generator().manual_seed(seed)  # the same text for every router
    model = LanguageModel(lambda: Experts(ROUTERS[name]()))
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.lr)
    held_out = windows(test, 32 if options.quick else 256, torch.Generator().manual_seed(0))
    steps, losses, seconds = [], [], 0.0
    for step in tqdm(range(1, options.steps + 1), desc=f"{name}, seed {seed}", leave=False):
        start = time.process_time()
        loss = loss_of(model, windows(text, options.batch, batches))
        balance = sum(block.feed_forward.balance for block in model.blocks)
        optimiser.zero_grad()
        (loss + BALANCE * balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seconds += time.process_time() - start
        if step % max(options.steps // 8, 1) == 0 or step == options.steps:
            steps.append(step)
            losses.append(evaluate(model, held_out))
    counts = [block.feed_forward.counts for block in model.blocks]  # of the last evaluation
    return {
        "steps": steps,
        "losses": losses,
        "loss": losses[-1],
        "cpu_seconds": round(seconds, 1),
        "tokens_per_second": round(options.steps * options.batch * CONTEXT / seconds),
        "largest_load": round(fmean((c.max() / c.sum()).item() * EXPERTS for c in counts), 3),
    }


def picture(runs: dict[str, list[Run]]) -> Figure:
    """Mean losses with their standard deviations, over steps and over seconds."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for (name, group), colour in zip(runs.items(), COLOURS, strict=True):
        losses = torch.tensor([run["losses"] for run in group])
        mean, spread = losses.mean(0), losses.std(0, correction=min(1, len(group) - 1))
        steps = torch.tensor(group[0]["steps"])
        seconds = steps * fmean(run["cpu_seconds"] for run in group) / steps[-1]
        for axes, x in zip(panels, (steps, seconds), strict=True):
            axes.plot(x, mean, color=colour, label=name)
            axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(xlabel="step", ylabel="held-out loss, nats per byte")
    panels[1].set(xlabel="CPU seconds of training")
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    options = command_line(__doc__, steps=400).parse_args()
    if options.quick:
        options.steps, options.seeds = 16, 1
    torch.set_num_threads(1)  # more gain nothing on a model this small
    where = environment()
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
    save("moe-router", where, runs, picture(runs), options)


if __name__ == "__main__":
    main()
