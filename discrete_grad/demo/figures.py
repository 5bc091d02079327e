# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: learning curves, reconstructions, samples from the prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn import functional

import discrete_grad as dg
from discrete_grad.demo.data import Images
from discrete_grad.demo.model import CHOSEN, GROUPS, ITEMS
from discrete_grad.demo.train import Run, generator_for

# Colours of Okabe and Ito, told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73")
_PICTURES = 12
_SAMPLE_ROWS, _SAMPLE_COLUMNS = 6, 7
_DPI = 150
_DRAWS = 9  # the purpose of the generator


def by_estimator(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs under the label of their estimator, in order."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.estimator.label, []).append(run)
    return grouped


def write_all(runs: Sequence[Run], device: torch.device, folder: Path) -> list[Path]:
    """All figures as PNG in ``folder``; pictures are of the first seed's models."""
    first = [group[0] for group in by_estimator(runs).values()]
    figures = {
        "learning-curves.png": learning_curves(runs),
        "reconstructions.png": reconstructions(first, device),
        "samples.png": samples(first, device),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=_DPI)
    return [folder / name for name in figures]


def learning_curves(runs: Sequence[Run]) -> Figure:
    """Negative test ELBO by epochs and by training time: mean over seeds, and their range."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for colour, (label, group) in zip(_COLOURS, by_estimator(runs).items(), strict=False):
        curves = torch.tensor([[-epoch.test.elbo for epoch in run.epochs] for run in group])
        seconds = torch.tensor([[epoch.seconds for epoch in run.epochs] for run in group])
        number = torch.arange(1, curves.shape[1] + 1)
        for axes, x in ((left, number), (right, seconds.cumsum(1).mean(0))):
            axes.plot(x.tolist(), curves.mean(0).tolist(), color=colour, label=label, linewidth=1.6)
            low, high = curves.amin(0).tolist(), curves.amax(0).tolist()
            axes.fill_between(x.tolist(), low, high, color=colour, alpha=0.2, linewidth=0)
    seeds = len({run.seed for run in runs})
    left.set_ylabel("negative test ELBO, nats per image")
    left.set_xlabel("epoch")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_xlabel("seconds of training")
    left.set_ylim(*_limits(runs))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_xlim(left=0)
    shown = "one seed" if seeds == 1 else f"mean and range of {seeds} seeds"
    figure.suptitle(f"{runs[0].images.name}: exact ELBO on the test set ({shown})", fontsize=11)
    return figure


def _limits(runs: Sequence[Run]) -> tuple[float, float]:
    """All values but those of the first twentieth of the epochs, where the fall is steep."""
    skipped = len(runs[0].epochs) // 20
    values = [-epoch.test.elbo for run in runs for epoch in run.epochs[skipped:]]
    margin = 0.04 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


@torch.no_grad()
def reconstructions(runs: Sequence[Run], device: torch.device) -> Figure:
    """Test images above what each model makes of one exact draw of their code; one seed's runs."""
    images = runs[0].images
    originals = images.test[:_PICTURES].to(device)
    rows = [("original", originals)]
    for run in runs:
        generator = generator_for(run.seed, _DRAWS, device)
        code = dg.subset.sample(run.model.encode(originals), CHOSEN, generator=generator)
        rows.append((run.estimator.label, run.model.decode(code).sigmoid()))
    figure = Figure(figsize=(10, 0.75 * len(rows) + 0.35), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for row, (label, pixels) in zip(axes, rows, strict=True):
        _show(row, _mosaic(pixels, images, 1))
        row.text(-0.015, 0.5, label, transform=row.transAxes, ha="right", va="center")
    figure.suptitle("Test digits, each coded as 20 subsets and decoded again", fontsize=11)
    return figure


@torch.no_grad()
def samples(runs: Sequence[Run], device: torch.device) -> Figure:
    """What each decoder makes of codes drawn from the uniform law, the prior."""
    number = _SAMPLE_ROWS * _SAMPLE_COLUMNS
    uniform = torch.zeros(number, GROUPS, ITEMS, device=device)
    figure = Figure(figsize=(3.3 * len(runs), 3.3), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False, gridspec_kw={"wspace": 0.12})[0]
    for axes, run in zip(panels, runs, strict=True):
        # The same codes for every model.
        code = dg.subset.sample(uniform, CHOSEN, generator=generator_for(run.seed, _DRAWS, device))
        _show(axes, _mosaic(run.model.decode(code).sigmoid(), run.images, _SAMPLE_ROWS))
        axes.set_title(run.estimator.label, fontsize=10)
    figure.suptitle("Decoded from codes drawn from the uniform prior", fontsize=11)
    return figure


def _mosaic(pixels: Tensor, images: Images, rows: int) -> Tensor:
    """Images [rows * columns, pixels] side by side, white between them."""
    tiles = pixels.cpu().reshape(rows, -1, images.height, images.width)
    gap = max(1, images.height // 8)
    tiles = functional.pad(tiles, (0, gap, 0, gap))
    whole = tiles.permute(0, 2, 1, 3).reshape(rows * tiles.shape[2], -1)
    return whole[:-gap, :-gap]


def _show(axes: Axes, picture: Tensor) -> None:
    axes.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
