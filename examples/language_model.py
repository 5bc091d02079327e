# SPDX-License-Identifier: Apache-2.0
"""What the language models' examples share: a small language model, its text, their records.

The text is Python's own reference manual, shipped with Python as pydoc_data: half a megabyte of
English, as bytes. The last tenth is held out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics
from statistics import fmean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LAYERS, CONTEXT = 64, 4, 2, 64
Run = dict[str, Any]  # of one method and seed


class Block(nn.Module):
    """Causal attention, then a feed-forward layer."""

    def __init__(self, feed_forward: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).movedim(2, 0)
        heads = (part.transpose(1, 2) for part in (q, k, v))
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.feed_forward(self.norms[1](x))


class LanguageModel(nn.Module):
    """Bytes [B, CONTEXT] to logits [B, CONTEXT, 256]."""

    def __init__(self, make_feed_forward: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block(make_feed_forward()) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, text: Tensor) -> Tensor:
        x = self.bytes(text) + self.places.weight
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def manual() -> tuple[Tensor, Tensor]:
    """The text's bytes, training and held-out part, int64."""
    text = torch.tensor(list("\n".join(topics[name] for name in sorted(topics)).encode()))
    train, test = text.split([len(text) * 9 // 10, len(text) - len(text) * 9 // 10])
    return train, test


def windows(text: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Random passages [number, CONTEXT + 1]."""
    start = torch.randint(len(text) - CONTEXT, (number, 1), generator=generator)
    return text[start + torch.arange(CONTEXT + 1)]


def loss_of(model: nn.Module, passages: Tensor) -> Tensor:
    """Nats per byte."""
    logits = model(passages[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), passages[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: nn.Module, passages: Tensor) -> float:
    """The loss of the model in evaluation mode."""
    model.eval()
    losses = [loss_of(model, part).item() for part in passages.split(64)]
    model.train()
    return round(fmean(losses), 4)


def command_line(description: str, steps: int) -> argparse.ArgumentParser:
    """The options that the examples share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("output"))
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps")
    parser.add_argument("--steps", type=int, default=steps, help=f"default: {steps}")
    parser.add_argument("--batch", type=int, default=16, help="default: 16 passages of 64 bytes")
    parser.add_argument("--lr", type=float, default=3e-3, help="of the weights; default: 0.003")
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    parser.add_argument("--first-seed", type=int, default=0, help="default: 0")
    return parser


def table(runs: dict[str, list[Run]], columns: dict[str, tuple[str, int]]) -> str:
    """Markdown: mean ± standard deviation over the seeds; columns: heading to (key, digits)."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, group in runs.items():
        cells = []
        for key, digits in columns.values():
            values = [run[key] for run in group if run[key] is not None]
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.{digits}f}{spread}" if values else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Of a run that starts: when, where, and of which commit."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or None,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads_used": torch.get_num_threads(),
            "load_average_at_start": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in ("discrete-grad", "torch")},
    }


def save(
    name: str,
    where: dict[str, Any],
    runs: dict[str, list[Run]],
    figure: Figure | None,
    options: argparse.Namespace,
) -> None:
    """Writes the picture, if any, and everything needed to repeat the run and to judge it."""
    record = where | {
        "settings": {key: value for key, value in vars(options).items() if key != "out"},
        "units": "losses in nats per byte of held-out text",
        "runs": runs,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    if figure is not None:
        figure.savefig(options.out / f"{name}.png", dpi=110)
    (options.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {name}{'' if figure is None else '.png and '}.json in {options.out}")


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
