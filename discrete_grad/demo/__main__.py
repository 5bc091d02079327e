# SPDX-License-Identifier: Apache-2.0
"""Command line of the demo."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import discrete_grad as dg

_EXTRA = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm", "rich": "rich"}
_NAMES = ("simple", "straight-through", "score-function")
# MNIST has 40 times as many images of 12 times as many pixels.
_DEFAULT_EPOCHS = {"digits": 100, "mnist": 10}


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    result = argparse.ArgumentParser(
        prog="python -m discrete_grad.demo",
        description="Train an autoencoder whose code is 20 subsets of 10 items out of 20 on "
        "handwritten digits, with SIMPLE and with two other gradient estimators. Prints a table; "
        "writes PNG figures and results.json.",
    )
    result.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with MNIST's images as IDX files, gzipped or not (train-images-idx3-ubyte, "
        "t10k-images-idx3-ubyte); without it scikit-learn's bundled 8x8 digits are used",
    )
    result.add_argument(
        "--estimator",
        action="append",
        choices=(*_NAMES, "all"),
        help="repeatable; default: all",
    )
    result.add_argument(
        "--epochs",
        type=_positive,
        help="default: {digits}, with --data {mnist}".format(**_DEFAULT_EPOCHS),
    )
    result.add_argument(
        "--seed",
        type=int,
        action="append",
        help="repeatable: the table then has means over seeds; default: 0",
    )
    result.add_argument("--batch-size", type=_positive, default=100, help="default: 100")
    result.add_argument("--device", default="cpu", help="default: cpu")
    result.add_argument(
        "--backend",
        default="auto",
        choices=("auto", "reference", "cpp", "cuda", "triton"),
        help="what computes the subset operations; default: auto",
    )
    result.add_argument(
        "--threads",
        type=_positive,
        default=1,
        help="default: 1; batches this small gain nothing from more, and lose where another "
        "process wants the cores",
    )
    result.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder; default: demo-output"
    )
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; a wrong argument or missing data ends it with one line that says why."""
    options = parser().parse_args(arguments)
    missing = [name for module, name in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(
            f"The demo needs {', '.join(missing)}, not installed here. "
            "Install the extra: pip install 'discrete-grad[demo]'"
        )
    torch.set_num_threads(options.threads)
    with dg.backend(options.backend):
        _run(options, _usable_device(options.device))


def _usable_device(name: str) -> torch.device:
    """The device, after one small operation on it; ends the demo where that is impossible."""
    try:
        device = torch.device(name)
        dg.subset.marginals(torch.zeros(2, device=device), 1)
    except (RuntimeError, AssertionError) as error:
        # torch's own messages go on for lines about its build.
        sys.exit(f"--device {name}: {str(error).splitlines()[0]}")
    return device


def _run(options: argparse.Namespace, device: torch.device) -> None:
    from rich.console import Console
    from tqdm import tqdm

    from discrete_grad.demo import data, figures, report
    from discrete_grad.demo.estimators import ESTIMATORS
    from discrete_grad.demo.train import Epoch, TrainingError, train

    chosen = list(dict.fromkeys(options.estimator or ["all"]))
    names = _NAMES if "all" in chosen else chosen
    seeds = list(dict.fromkeys(options.seed or [0]))
    epochs = options.epochs or _DEFAULT_EPOCHS["mnist" if options.data else "digits"]
    console = Console()
    start, load = time.perf_counter(), os.getloadavg()[0]
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        runs = []
        with tqdm(total=len(seeds) * len(names) * epochs, unit="epoch", smoothing=0.05) as bar:
            for seed in seeds:
                images = data.load_mnist(options.data) if options.data else data.load_digits(seed)
                for name in names:

                    def show(epoch: Epoch, name: str = name, seed: int = seed) -> None:
                        bar.set_description(f"{name}, seed {seed}", refresh=False)
                        bar.set_postfix_str(f"test ELBO {epoch.test.elbo:.1f}", refresh=False)
                        bar.update()

                    runs.append(
                        train(
                            images,
                            ESTIMATORS[name],
                            seed=seed,
                            epochs=epochs,
                            batch_size=options.batch_size,
                            device=device,
                            on_epoch=show,
                        )
                    )
    except (data.DataError, TrainingError, OSError) as error:
        sys.exit(str(error))
    console.print(report.table(runs))
    written = figures.write_all(runs, device, options.output)
    content = report.results(runs, options.batch_size, device, load)
    written.append(options.output / "results.json")
    report.write(content, written[-1])
    for path in written:
        console.print(f"wrote {path}", highlight=False)
    console.print(f"{time.perf_counter() - start:.0f} seconds in all", highlight=False)


if __name__ == "__main__":
    main()
