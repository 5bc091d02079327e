# SPDX-License-Identifier: Apache-2.0
"""What came out: a table for the terminal, and everything in results.json."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.table import Table

from discrete_grad import show_config
from discrete_grad.demo.figures import by_estimator
from discrete_grad.demo.model import CHOSEN, GROUPS, ITEMS, reconstruction_floor
from discrete_grad.demo.train import CURVE_SAMPLES, FINAL_SAMPLES, Run

# Of the table, in its order: key in the results, heading, digits after the point.
COLUMNS = (
    ("elbo", "test ELBO", 1),
    ("reconstruction", "reconstr.", 1),
    ("divergence", "KL", 1),
    ("entropy", "entropy", 1),
    ("seconds_per_epoch", "s/epoch", 2),
)


def summarise(group: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """Mean over seeds and sample standard deviation (None for one seed) of every column."""
    values = {
        "elbo": [run.final.elbo for run in group],
        "reconstruction": [run.final.reconstruction for run in group],
        "divergence": [run.final.divergence for run in group],
        "entropy": [run.final.entropy for run in group],
        "seconds_per_epoch": [run.seconds_per_epoch for run in group],
    }
    return {
        name: {
            "mean": round(fmean(column), 4),
            "standard_deviation": round(stdev(column), 4) if len(column) > 1 else None,
        }
        for name, column in values.items()
    }


def cell(summary: dict[str, float | None], digits: int) -> str:
    """mean ± standard deviation, or the one value there is."""
    deviation = summary["standard_deviation"]
    mean = f"{summary['mean']:.{digits}f}"
    return mean if deviation is None else f"{mean}±{deviation:.{digits}f}"


def table(runs: Sequence[Run]) -> Table:
    """One line per estimator."""
    seeds, images = len({run.seed for run in runs}), runs[0].images
    result = Table(
        title=f"{images.name}: {len(images.train)} training and {len(images.test)} test images",
        caption=(
            f"nats per image, {FINAL_SAMPLES} exact draws per test image; reconstruction cannot "
            f"fall below {_floor(runs):.1f}"
            + (f"; mean ± standard deviation over {seeds} seeds" if seeds > 1 else "")
        ),
    )
    result.add_column("trained with", no_wrap=True)
    for _, heading, _ in COLUMNS:
        result.add_column(heading, justify="right")
    for label, group in by_estimator(runs).items():
        summary = summarise(group)
        result.add_row(label, *(cell(summary[name], digits) for name, _, digits in COLUMNS))
    return result


def results(
    runs: Sequence[Run], batch_size: int, device: torch.device, load: float | None
) -> dict[str, Any]:
    """Everything needed to repeat the run and to judge it, ready for JSON."""
    images = runs[0].images
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "discrete_grad.demo", *sys.argv[1:]]),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads_used": torch.get_num_threads(),
            "load_average_at_start": load,
            "device": _device_name(device),
        },
        "versions": {
            name: metadata.version(name)
            for name in ("discrete-grad", "torch", "numpy", "scikit-learn", "matplotlib")
        }
        | {"python": platform.python_version()},
        # Without the folder of the installation, which is nobody else's.
        "configuration": [
            line for line in str(show_config()).splitlines() if not line.startswith("package:")
        ],
        "data": {
            "name": images.name,
            "train_images": len(images.train),
            "test_images": len(images.test),
            "pixels": images.pixels,
            "observations_per_pixel": images.trials,
            "reconstruction_floor": round(_floor(runs), 4),
        },
        "settings": {
            "groups": GROUPS,
            "items": ITEMS,
            "chosen": CHOSEN,
            "optimizer": "Adam, constant learning rate",
            "epochs": len(runs[0].epochs),
            "batch_size": batch_size,
            "seeds": sorted({run.seed for run in runs}),
            "draws_per_test_image": FINAL_SAMPLES,
            "draws_per_test_image_in_curves": CURVE_SAMPLES,
        },
        "units": "nats per image; mean and sample standard deviation over seeds",
        "estimators": {
            group[0].estimator.name: _estimator(group) for group in by_estimator(runs).values()
        },
    }


def _floor(runs: Sequence[Run]) -> float:
    """Mean over the seeds' test sets."""
    return fmean(reconstruction_floor(run.images.test, run.images.trials) for run in runs)


def _estimator(group: Sequence[Run]) -> dict[str, Any]:
    estimator = group[0].estimator
    return {
        "label": estimator.label,
        "learning_rate": estimator.learning_rate,
        "options": dict(estimator.options),
        "summary": summarise(group),
        "runs": [
            {
                "seed": run.seed,
                "elbo": round(run.final.elbo, 4),
                "reconstruction": round(run.final.reconstruction, 4),
                "divergence": round(run.final.divergence, 4),
                "entropy": round(run.final.entropy, 4),
                "seconds_per_epoch": round(run.seconds_per_epoch, 4),
                "test_elbo_by_epoch": [round(epoch.test.elbo, 2) for epoch in run.epochs],
                "train_loss_by_epoch": [round(epoch.train_loss, 2) for epoch in run.epochs],
                "seconds_by_epoch": [round(epoch.seconds, 3) for epoch in run.epochs],
            }
            for run in group
        ],
    }


def write(content: dict[str, Any], path: Path) -> None:
    """Indented JSON, with lists of numbers on one line each."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    text = re.sub(r"\[[-\d.,\s]*\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(text + "\n", encoding="utf-8")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
