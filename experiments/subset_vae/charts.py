# SPDX-License-Identifier: Apache-2.0
"""The figures, from the results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.plots import COLOURS, LABELS, figure, style
from experiments.session import JSON
from experiments.subset_vae import pictures
from experiments.subset_vae.report import column

_SKIPPED_EPOCHS = 4  # of the curves' vertical range: there the fall is steep


def figures(results: JSON) -> dict[str, Figure]:
    """Learning curves and pictures for the comparison of all, final bounds, the KL's error."""
    comparisons = results["comparisons"]
    made = {
        f"curves-{name}": _curves(results, name)
        for name in comparisons
        if name != "published-noise"
    }
    made["elbo"] = _bounds(results)
    if "subsets" in comparisons:
        made["reconstructions"] = _reconstructions(results)
        made["published-entropy"] = _published_entropy(comparisons["subsets"])
    return made


def _curves(results: JSON, name: str) -> Figure:
    """Test ELBO by epochs and by seconds: mean over the seeds, and one standard deviation."""
    comparison = results["comparisons"][name]
    made, ((left, right),) = figure(1, 2, width=5.2, height=4.2, sharey=True)
    shown = []
    for estimator, entry in comparison["estimators"].items():
        curves = np.array(column(entry, "test_elbo"))
        mean = curves.mean(0)
        spread = curves.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(mean)
        epochs = np.arange(1, len(mean) + 1)
        seconds = float(np.mean(column(entry, "seconds_per_epoch")))
        for axes, x in ((left, epochs), (right, seconds * epochs)):
            axes.plot(x, mean, color=COLOURS[estimator], label=LABELS[estimator], linewidth=1.4)
            axes.fill_between(
                x, mean - spread, mean + spread, color=COLOURS[estimator], alpha=0.18, linewidth=0
            )
        late = slice(min(_SKIPPED_EPOCHS, len(mean) - 1), None)
        shown += [(mean - spread)[late].min(), (mean + spread)[late].max()]
    margin = 0.03 * (max(shown) - min(shown)) or 1.0
    left.set_ylim(min(shown) - margin, max(shown) + margin)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    style(left, "epoch", "test ELBO, nats per image")
    left.legend(frameon=False, fontsize="small", loc="lower right")
    style(right, "seconds of training", "")
    made.suptitle(_title(results, comparison), fontsize="medium")
    return made


def _title(results: JSON, comparison: JSON) -> str:
    seeds = len(results["training"]["seeds"])
    return (
        f"20 x (20 choose {comparison['k']}), {results['data']['name']}: exact ELBO, mean and "
        f"standard deviation of {seeds} seeds"
    )


def _bounds(results: JSON) -> Figure:
    """Every seed's final ELBO as a dot, the mean as a line."""
    comparisons = results["comparisons"]
    names = list(comparisons)
    heights = [len(comparisons[name]["estimators"]) for name in names]
    made, axes = figure(
        len(names),
        1,
        width=7.5,
        height=0.36 * sum(heights) / len(names) + 0.75,
        sharex=True,
        height_ratios=heights,
    )
    for row, name in zip(axes[:, 0], names, strict=True):
        _dots(row, comparisons[name])
    style(axes[-1, 0], "test ELBO, nats per image (further right is better)", "")
    return made


def _dots(axes: Axes, comparison: JSON) -> None:
    entries = comparison["estimators"]
    for height, (estimator, entry) in enumerate(entries.items()):
        elbos = column(entry, "elbo")
        # Seeds spread over the row's height, so that equal values stay apart.
        heights = height + np.linspace(-0.22, 0.22, len(elbos))
        axes.scatter(elbos, heights, s=14, color=COLOURS[estimator], alpha=0.75, linewidths=0)
        axes.vlines(np.mean(elbos), height - 0.36, height + 0.36, color="black", linewidth=1.4)
    axes.set_yticks(range(len(entries)), [LABELS[estimator] for estimator in entries])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    noise = {"matched": "", "published": ", Sum-of-Gamma noise at temperature 1"}
    style(axes, "", "", title=f"k = {comparison['k']}{noise[comparison['noise']]}")


def _reconstructions(results: JSON) -> Figure:
    """Test images, and what the first seed's models make of one exact draw of their code."""
    height, width = results["data"]["height"], results["data"]["width"]
    rows = [("original", results["originals"])]
    for estimator, entry in results["comparisons"]["subsets"]["estimators"].items():
        rows.append((LABELS[estimator], entry["runs"][0]["pictures"]))
    made, ((axes,),) = figure(width=8.5, height=0.6 * len(rows))
    # One white row of pixels below each row of pictures.
    strips = [
        np.pad(pictures.from_text(texts, height, width), ((0, 1), (0, 0))) for _, texts in rows
    ]
    axes.imshow(np.concatenate(strips), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    centres = [(height + 1) * row + (height - 1) / 2 for row in range(len(rows))]
    axes.set_yticks(centres, [label for label, _ in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return made


def _published_entropy(comparison: JSON) -> Figure:
    """The KL divergence, exact and as published, of every seed's model."""
    made, ((axes,),) = figure(width=7.0, height=4.2)
    entries = comparison["estimators"]
    for position, (estimator, entry) in enumerate(entries.items()):
        exact, published = column(entry, "divergence"), column(entry, "published_divergence")
        colour = COLOURS[estimator]
        axes.bar(position - 0.2, np.mean(exact), 0.36, color=colour)
        axes.bar(position + 0.2, np.mean(published), 0.36, color=colour, alpha=0.45, hatch="//")
        for offset, values in ((-0.2, exact), (0.2, published)):
            places = position + offset + np.linspace(-0.1, 0.1, len(values))
            axes.scatter(places, values, s=7, color="black", linewidths=0, zorder=3)
    axes.set_xticks(range(len(entries)), [LABELS[estimator] for estimator in entries], rotation=30)
    for label in axes.get_xticklabels():
        label.set_ha("right")
    style(
        axes,
        "",
        "KL of the code, nats per image",
        title="Exact KL (solid), and with the published entropy recursion (hatched)",
    )
    return made
