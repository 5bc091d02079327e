# SPDX-License-Identifier: Apache-2.0
"""Learns the costs of terrain from shortest paths alone, through Dijkstra's algorithm.

A map is a picture of 12 x 12 cells of five kinds of terrain. A small network reads a cost for every
cell from its pixels, Dijkstra's algorithm finds the cheapest path from the top left to the bottom
right, and the loss is the number of cells in which it differs from the path that is cheapest under
the true costs. The network sees pictures and paths, never a cost; its gradient comes from AIMLE. At
the end the script prints on how many new maps the path that it finds is a cheapest one, and draws
three of them.

    python examples/shortest_paths.py            # a minute or two
    python examples/shortest_paths.py --compare  # I-MLE and blackbox interpolation too

It needs matplotlib and tqdm: pip install 'discrete-grad[demo]'.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import discrete_grad as dg

COSTS = torch.tensor([0.8, 1.2, 5.3, 7.7, 9.2])  # sand, grass, forest, rock, water
COLOURS = torch.tensor(
    [
        [0.80, 0.74, 0.50],
        [0.55, 0.70, 0.35],
        [0.20, 0.42, 0.22],
        [0.52, 0.48, 0.46],
        [0.22, 0.40, 0.62],
    ]
)
# What the network predicts may be perturbed below 0, where Dijkstra's algorithm does not apply.
MINIMUM = 1e-3
# Fixed steps to compare with: what is added to the cost of a cell that is not on the true path.
STEPS = (0.03, 0.1, 0.3)
# Of Okabe and Ito, told apart by colour-blind readers too.
COLOUR = {"AIMLE": "#0072B2", "I-MLE": "#D55E00", "blackbox": "#009E73"}


@dataclass(frozen=True)
class Maps:
    """Pictures [N, 3, H p, W p] of p x p pixels per cell, costs and cheapest paths [N, H, W]."""

    images: Tensor
    costs: Tensor
    paths: Tensor

    @classmethod
    def random(cls, number: int, size: int, pixels: int, generator: torch.Generator) -> Maps:
        """Patches of terrain with frayed edges, painted in uneven colours."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(number, *shape, generator=generator)

        kinds = len(COSTS)
        smooth = functional.interpolate(
            normal(kinds, 5, 5), size=(size, size), mode="bicubic", align_corners=True
        )
        terrain = (smooth + 0.15 * normal(kinds, size, size)).argmax(1)
        colours = COLOURS[terrain].movedim(-1, 1) * (1 + 0.08 * normal(1, size, size))
        images = colours.repeat_interleave(pixels, 2).repeat_interleave(pixels, 3)
        images = (images + 0.12 * normal(*images.shape[1:])).clamp(0, 1)
        costs = COSTS[terrain]
        return cls(images, costs, dg.solvers.shortest_path()(costs))


class CostNetwork(nn.Module):
    """A positive cost for every cell, from the cell's pixels."""

    def __init__(self, pixels: int, channels: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, pixels, stride=pixels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 1, 1),
            nn.Softplus(),
        )

    def forward(self, images: Tensor) -> Tensor:
        costs: Tensor = self.layers(images)
        return costs.squeeze(1)


Layer = Callable[[Tensor], Tensor]


def aimle(options: argparse.Namespace) -> Layer:
    """Shortest paths with the gradient of AIMLE, which finds the length of its step itself."""
    return dg.aimle(
        dg.solvers.shortest_path(minimum=MINIMUM),
        target_distribution=dg.AdaptiveTargetDistribution(
            initial_beta=0.0, beta_update_step=1e-3, target_norm=5.0
        ),
        noise_distribution=dg.SumOfGammaNoiseDistribution(k=options.size),
        theta_noise_temperature=options.temperature,
        target_noise_temperature=options.temperature,
        symmetric_perturbation=True,
        _is_minimization=True,
    )


def imle(options: argparse.Namespace, step: float) -> Layer:
    """The same with the gradient of I-MLE."""
    return dg.imle(
        dg.solvers.shortest_path(minimum=MINIMUM),
        # The loss is a mean over the batch: its gradient in a cell is +-1 / batch.
        target_distribution=dg.TargetDistribution(beta=step * options.batch),
        noise_distribution=dg.SumOfGammaNoiseDistribution(k=options.size),
        theta_noise_temperature=options.temperature,
        target_noise_temperature=options.temperature,
        _is_minimization=True,
    )


def blackbox(options: argparse.Namespace, step: float) -> Layer:
    """The same with the gradient of blackbox interpolation: I-MLE's without noise, over lambda."""
    return dg.imle(
        dg.solvers.shortest_path(minimum=MINIMUM),
        target_distribution=dg.TargetDistribution(
            beta=step * options.batch, do_gradient_scaling=True
        ),
        _is_minimization=True,
    )


def layers(options: argparse.Namespace) -> dict[str, Layer]:
    """What is trained, by label."""
    chosen = {"AIMLE": aimle(options)}
    if options.compare:
        chosen |= {f"I-MLE, step {step}": imle(options, step) for step in STEPS}
        chosen |= {f"blackbox, step {step}": blackbox(options, step) for step in STEPS}
    return chosen


@dataclass(frozen=True)
class Quality:
    """Of the paths that a network finds: the share that is optimal, and the mean excess cost."""

    optimal: float
    excess: float


@torch.no_grad()
def found_paths(network: CostNetwork, images: Tensor) -> Tensor:
    """The paths that are cheapest under the network's costs, without noise."""
    return dg.solvers.shortest_path(minimum=MINIMUM)(network(images))


def quality(network: CostNetwork, maps: Maps) -> Quality:
    """How good its paths are under the true costs."""
    paid = (found_paths(network, maps.images) * maps.costs).sum((1, 2))
    least = (maps.paths * maps.costs).sum((1, 2))
    excess = paid / least - 1
    return Quality((excess < 1e-5).float().mean().item(), excess.mean().item())


@dataclass
class Run:
    """One training: the quality on held-out maps by step, and the seconds without its measuring."""

    label: str
    untrained: CostNetwork
    network: CostNetwork
    steps: list[int]
    curve: list[Quality]
    seconds: float = 0.0


def train(label: str, layer: Layer, maps: Maps, held_out: Maps, options: argparse.Namespace) -> Run:
    """Adam on the Hamming distance between the found and the true paths."""
    torch.manual_seed(options.seed)
    network = CostNetwork(options.pixels)
    optimiser = torch.optim.Adam(network.parameters(), lr=options.lr)
    run = Run(label, copy.deepcopy(network), network, [0], [quality(network, held_out)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    bar = tqdm(range(1, options.steps + 1), desc=label, unit="step")
    for step in bar:
        start = time.perf_counter()
        chosen = torch.randint(len(maps.images), (options.batch,))
        found, true = layer(network(maps.images[chosen])), maps.paths[chosen]
        loss = (found + true - 2 * found * true).sum((1, 2)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        run.seconds += time.perf_counter() - start
        if step % 50 == 0 or step == options.steps:
            run.steps.append(step)
            run.curve.append(quality(network, held_out))
            bar.set_postfix_str(f"{run.curve[-1].optimal:.1%} optimal")
    return run


def draw_path(axes: Axes, path: Tensor, colour: str) -> None:
    """The cells of a path, joined: neighbours follow each other, or there would be a shortcut."""
    cells = path.nonzero()
    steps = [
        torch.stack([here, there]).T.tolist()
        for here, there in itertools.combinations(cells, 2)
        if (here - there).abs().max() == 1
    ]
    for paint, width in (("black", 4.0), (colour, 2.2)):
        for rows, columns in steps:
            axes.plot(columns, rows, color=paint, linewidth=width, solid_capstyle="round")


def picture(runs: list[Run], held_out: Maps) -> Figure:
    """The first three held-out maps, their paths, and the learning curves."""
    first, size = runs[0], held_out.costs.shape[-1]
    images, costs, true = held_out.images[:3], held_out.costs[:3], held_out.paths[:3]
    rows = {
        "cheapest": (true, "white"),
        "found before training": (found_paths(first.untrained, images), "#D55E00"),
        "found after training": (found_paths(first.network, images), "#F0E442"),
    }
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 0.8))
    panels = left.subplots(len(rows), len(images))
    for row, (title, (paths, colour)) in zip(panels, rows.items(), strict=True):
        row[0].set_ylabel(title)
        for axes, image, cost, path in zip(row, images, costs, paths, strict=True):
            axes.imshow(image.movedim(0, -1), extent=(-0.5, size - 0.5, size - 0.5, -0.5))
            draw_path(axes, path, colour)
            axes.set_title(f"cost {(path * cost).sum():.1f}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
    axes = right.subplots()
    for run in runs:
        method, _, length = run.label.partition(", step ")
        axes.plot(
            run.steps,
            [100 * point.optimal for point in run.curve],
            label=run.label,
            color=COLOUR[method],
            linestyle=("-", "--", ":")[STEPS.index(float(length))] if length else "-",
        )
    axes.set(xlabel="step", ylabel=f"optimal paths on {len(held_out.costs)} new maps, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    return figure


def record(runs: list[Run], options: argparse.Namespace, load: float) -> dict[str, object]:
    """Everything needed to repeat the run and to judge it."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads_used": torch.get_num_threads(),
            "load_average_at_start": load,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("discrete-grad", "torch", "scipy")},
        },
        "settings": {name: value for name, value in vars(options).items() if name != "out"},
        "units": "share of held-out maps; mean cost over the least cost, minus 1; seconds",
        "runs": {
            run.label: {
                "before": asdict(run.curve[0]),
                "after": asdict(run.curve[-1]),
                "training_seconds": round(run.seconds, 1),
                "steps": run.steps,
                "optimal": [round(point.optimal, 4) for point in run.curve],
            }
            for run in runs
        },
    }


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--out", type=Path, default=Path(__file__).with_name("output"))
    result.add_argument("--quick", action="store_true", help="a tenth of everything")
    result.add_argument("--compare", action="store_true", help="train with other gradients too")
    result.add_argument("--steps", type=int, default=2000, help="default: 2000")
    result.add_argument("--batch", type=int, default=50, help="default: 50 maps")
    result.add_argument("--lr", type=float, default=1e-2, help="at first; default: 0.01")
    result.add_argument("--temperature", type=float, default=0.2, help="of the noise; 0.2")
    result.add_argument("--train-maps", type=int, default=2000, help="default: 2000")
    result.add_argument("--test-maps", type=int, default=1000, help="default: 1000")
    result.add_argument("--size", type=int, default=12, help="of the maps, in cells; 12")
    result.add_argument("--pixels", type=int, default=4, help="per cell and side; 4")
    result.add_argument("--seed", type=int, default=0)
    return result


def main() -> None:
    options = parser().parse_args()
    if options.quick:
        for name in ("steps", "train_maps", "test_maps"):
            setattr(options, name, getattr(options, name) // 10)
    load = os.getloadavg()[0]
    torch.set_num_threads(1)  # more gain nothing on batches this small
    generator = torch.Generator().manual_seed(options.seed)
    maps, held_out = (
        Maps.random(number, options.size, options.pixels, generator)
        for number in (options.train_maps, options.test_maps)
    )
    runs = [
        train(label, layer, maps, held_out, options) for label, layer in layers(options).items()
    ]
    for run in runs:
        before, after = run.curve[0], run.curve[-1]
        print(
            f"{run.label}: {before.optimal:.1%} of the paths on new maps are optimal before "
            f"training, {after.optimal:.1%} after; on average {before.excess:.1%} and "
            f"{after.excess:.1%} dearer than the cheapest ({run.seconds:.0f} s)"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    picture(runs, held_out).savefig(options.out / "shortest-paths.png", dpi=110)
    content = json.dumps(record(runs, options, load), indent=2)
    (options.out / "shortest-paths.json").write_text(content + "\n")
    print(f"wrote shortest-paths.png and .json in {options.out}")


if __name__ == "__main__":
    main()
