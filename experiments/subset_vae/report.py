# SPDX-License-Identifier: Apache-2.0
"""The tables, from the results alone."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, stdev

import numpy as np

from experiments.plots import LABELS
from experiments.session import JSON
from experiments.subset_vae.grid import PERTURB_AND_MAP
from experiments.tables import Table, mean_std

_REFERENCE = "simple"
_OWN_LABELS = {"lambda": "λ", "target_norm": "target norm", "temperature": "temperature"}


def tables(results: JSON) -> dict[str, Table]:
    """Bounds of each comparison, differences from SIMPLE, tuning, the published entropy's error."""
    made: dict[str, Table] = {}
    for name, comparison in results["comparisons"].items():
        made[name] = _bounds(results, comparison)
        others = [other for other in comparison["estimators"] if other != _REFERENCE]
        if others and _REFERENCE in comparison["estimators"]:
            made[f"{name}-differences"] = _differences(comparison, others)
    made["tuning"] = _tuning(results)
    if "subsets" in results["comparisons"]:
        made["published-entropy"] = _published_entropy(results["comparisons"]["subsets"])
    return made


def column(entry: JSON, name: str) -> list[float]:
    """One figure of all seeds' runs."""
    return [run[name] for run in entry["runs"]]


def elbo_at(entry: JSON, seconds: float) -> list[float]:
    """Each seed's test ELBO after so many seconds of training, linear between epochs."""
    return [
        float(
            np.interp(
                seconds,
                run["seconds_per_epoch"] * np.arange(1, len(run["test_elbo"]) + 1),
                run["test_elbo"],
            )
        )
        for run in entry["runs"]
    ]


def shortest(comparison: JSON) -> float:
    """Seconds until the first estimator is through with its epochs, its mean over the seeds."""
    return min(
        fmean(run["seconds_per_epoch"] * len(run["test_elbo"]) for run in entry["runs"])
        for entry in comparison["estimators"].values()
    )


def _bounds(results: JSON, comparison: JSON) -> Table:
    until = shortest(comparison)
    rows = [
        [
            LABELS[name],
            str(entry["chosen"]["num_samples"]),
            mean_std(column(entry, "elbo"), 1),
            mean_std(column(entry, "reconstruction"), 1),
            mean_std(column(entry, "divergence"), 1),
            mean_std(column(entry, "own_reconstruction"), 1),
            mean_std([1000 * seconds for seconds in column(entry, "seconds_per_epoch")], 0),
            mean_std(elbo_at(entry, until), 1),
        ]
        for name, entry in comparison["estimators"].items()
    ]
    data, training = results["data"], results["training"]
    return Table(
        f"20 groups of 20 items, k = {comparison['k']}; {data['name']}, {training['epochs']} "
        f"epochs of {data['train_images']} images, {data['test_images']} test images. Nats per "
        f"image, mean ± standard deviation over {len(training['seeds'])} seeds. "
        "Draws per step: of the code of each image, and so runs of the decoder. "
        "ELBO = -(reconstruction + KL), with exact draws of the k-subset law and its exact KL for "
        'every estimator; "own draws": the reconstruction loss with the draws that the estimator '
        "trains with. Seconds: of processor time on a CPU. No model can have a reconstruction loss "
        f"below {data['reconstruction_floor']:.1f}.",
        (
            "estimator",
            "draws per step",
            "test ELBO",
            "reconstruction",
            "KL",
            "own draws",
            "ms per epoch",
            f"ELBO after {until:.1f} s",
        ),
        rows,
    )


def _differences(comparison: JSON, others: list[str]) -> Table:
    entries = comparison["estimators"]
    reference = entries[_REFERENCE]

    def row(other: str) -> list[str]:
        own = _per_seed(reference, entries[other], lambda e: column(e, "elbo"))
        until = shortest({"estimators": {_REFERENCE: reference, other: entries[other]}})
        in_time = _per_seed(reference, entries[other], lambda e: elbo_at(e, until))
        ahead = sum(difference > 0 for difference in own)
        return [
            LABELS[other],
            mean_std(own, 1),
            _ratio(own),
            f"{ahead} of {len(own)}",
            mean_std(in_time, 1),
            _ratio(in_time),
        ]

    return Table(
        f"{LABELS[_REFERENCE]}'s test ELBO less the other's, seed by seed (a seed's models start "
        "from the same weights and see the images in the same order): positive where "
        f'{LABELS[_REFERENCE]} is better. "In deviations": the mean over the standard deviation '
        "over seeds. Equal time: when the faster of the two is through with its epochs.",
        (
            "less",
            "equal steps",
            "in deviations",
            "seeds ahead",
            "equal time",
            "in deviations, equal time",
        ),
        [row(other) for other in others],
    )


def _per_seed(first: JSON, second: JSON, figure: Callable[[JSON], list[float]]) -> list[float]:
    return [a - b for a, b in zip(figure(first), figure(second), strict=True)]


def _ratio(differences: list[float]) -> str:
    """mean / standard deviation; of one seed there is none."""
    if len(differences) < 2:
        return "–"
    return f"{fmean(differences) / stdev(differences):.1f}"


def _tuning(results: JSON) -> Table:
    rows = []
    for comparison in results["comparisons"].values():
        for name, entry in comparison["estimators"].items():
            tried = [
                fmean(c["validation_elbo"])
                for c in entry["candidates"]
                if None not in c["validation_elbo"]
            ]
            rows.append(
                [
                    f"{LABELS[name]}, {_which(comparison, name)}",
                    _settings(entry["chosen"]),
                    str(len(entry["candidates"])),
                    f"{max(tried):.1f}",
                    f"{min(tried):.1f}",
                    str(len(entry["candidates"]) - len(tried)),
                ]
            )
    seeds = ", ".join(map(str, results["training"]["tuning_seeds"]))
    return Table(
        "The settings with the best ELBO on a fifth of the training images held out (tuning seeds: "
        f"{seeds}), of as many for each estimator; the final runs train with these.",
        ("estimator", "chosen", "tried", "best ELBO", "worst ELBO", "diverged"),
        rows,
    )


def _which(comparison: JSON, name: str) -> str:
    """Tells the rows of one estimator in several comparisons apart."""
    noise = f", {comparison['noise']} noise" if name in PERTURB_AND_MAP else ""
    return f"k = {comparison['k']}{noise}"


def _settings(chosen: JSON) -> str:
    own = [
        f"{_OWN_LABELS[name]} {value:g}" for name, value in chosen.items() if name in _OWN_LABELS
    ]
    samples = [f"{chosen['num_samples']} draws"] if chosen["num_samples"] > 1 else []
    return ", ".join([f"learning rate {chosen['learning_rate']:g}", *own, *samples])


def _published_entropy(comparison: JSON) -> Table:
    def row(name: str, entry: JSON) -> list[str]:
        exact, published = column(entry, "divergence"), column(entry, "published_divergence")
        error = [b - a for a, b in zip(exact, published, strict=True)]
        loss = [-e + d for e, d in zip(column(entry, "elbo"), error, strict=True)]
        return [
            LABELS[name],
            mean_std(exact, 2),
            mean_std(published, 2),
            mean_std(error, 2),
            mean_std([-elbo for elbo in column(entry, "elbo")], 1),
            mean_std(loss, 1),
        ]

    return Table(
        "KL divergence of the code on the test images, nats per image: exact, and with the entropy "
        "recursion that starts at the tenth item of each group as published; the test loss with "
        "either. The same models as above, trained with the exact one.",
        ("estimator", "exact KL", "published KL", "error", "test loss", "with the published KL"),
        [row(name, entry) for name, entry in comparison["estimators"].items()],
    )
