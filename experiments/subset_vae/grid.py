# SPDX-License-Identifier: Apache-2.0
"""The settings that each estimator is tried with: as many for one as for another.

Three learning rates by three values of the one setting that an estimator has of its own; SIMPLE of
either order has none and is given nine learning rates over the same range. The best by the ELBO on
images held out from training, on tuning seeds, is the one that is reported, on other seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import discrete_grad as dg
from discrete_grad.estimators import Estimator
from experiments.session import JSON

TUNING_SEEDS = (1000,)
LEARNING_RATES = (5e-4, 1e-3, 2.5e-3)
FINE_LEARNING_RATES = (5e-4, 6.5e-4, 8e-4, 1e-3, 1.2e-3, 1.45e-3, 1.75e-3, 2.1e-3, 2.5e-3)

# The perturb-and-MAP estimators draw the code with Gumbel noise times this. For 10 items out of 20
# the marginals of that law are within a few percent of those of the k-subset law with the same
# logits, which is the law that the KL divergence is of. Sum-of-Gamma noise at temperature 1, the
# published choice, draws from a far sharper one: see NOISES.
MATCHED_TEMPERATURE = 1.4
PERTURB_AND_MAP = ("imle", "aimle", "aimle_central")
NOISES = {
    "matched": {"noise": "gumbel", "temperature": MATCHED_TEMPERATURE},
    "published": {"noise": "sum_of_gamma", "temperature": 1.0},
}


# AIMLE's beta starts at 0, as its paper's autoencoder was run, but moves ten times as fast: the
# default training has 600 steps, where the paper's has 60,000.
_BETA_STEP = 1e-2


@dataclass(frozen=True)
class Own:
    """The setting that an estimator has of its own, and the values it is tried with."""

    name: str
    values: tuple[float, ...]


OWN = {
    "simple_unbiased": Own("num_samples", (2, 3, 4)),
    "score_function_loo": Own("num_samples", (2, 4, 8)),
    "imle": Own("lambda", (0.1, 0.3, 1.0)),
    "aimle": Own("target_norm", (1.0, 2.0, 4.0)),
    "aimle_central": Own("target_norm", (1.0, 2.0, 4.0)),
    "gumbel_softmax_hard": Own("temperature", (0.25, 0.5, 1.0)),
    "gumbel_softmax": Own("temperature", (0.1, 0.25, 0.5)),
}


@dataclass(frozen=True)
class Comparison:
    """Estimators that are compared on one model."""

    name: str
    k: int
    estimators: tuple[str, ...]
    noise: str = "matched"  # of the perturb-and-MAP estimators


COMPARISONS = (
    Comparison(
        "subsets",
        10,
        (
            "simple",
            "simple_second_order",
            "simple_unbiased",
            "imle",
            "aimle",
            "aimle_central",
            "gumbel_softmax_hard",
            "gumbel_softmax",
            "score_function_loo",
        ),
    ),
    Comparison("published-noise", 10, ("imle",), noise="published"),
    Comparison("categoricals", 1, ("simple", "gumbel_softmax_hard")),
)
ESTIMATORS = COMPARISONS[0].estimators


def candidates(comparison: Comparison, estimator: str) -> list[dict[str, JSON]]:
    """The grid of one estimator, nine settings of a training."""
    base = {"estimator": estimator, "k": comparison.k, "num_samples": 1, "own": {}}
    if estimator in PERTURB_AND_MAP:
        base["noise"] = comparison.noise
    if estimator not in OWN:
        return [{**base, "learning_rate": rate} for rate in FINE_LEARNING_RATES]
    own = OWN[estimator]
    return [
        {**base, "learning_rate": rate, **_setting(own.name, value)}
        for value in own.values
        for rate in LEARNING_RATES
    ]


def _setting(name: str, value: float) -> dict[str, JSON]:
    """Where ``build`` and the training find it."""
    return {name: value} if name == "num_samples" else {"own": {name: value}}


def build(settings: dict[str, JSON]) -> Estimator:
    """The estimator with its settings, ready to be called.

    Args:
        settings: "estimator", its name; "own", its own setting by name; "noise", one of ``NOISES``
            for I-MLE and AIMLE.
    """
    options: dict[str, Any] = dict(NOISES[settings["noise"]]) if "noise" in settings else {}
    for name, value in settings["own"].items():
        options |= _OPTIONS[name](value)
    estimator = dg.estimators.get(settings["estimator"])
    return replace(estimator, options={**estimator.options, **options})


_OPTIONS: dict[str, Callable[[float], dict[str, Any]]] = {
    "temperature": lambda value: {"temperature": value},
    # Divided by lambda, as a finite difference: else its length would be no match for the KL's.
    "lambda": lambda value: {"target": dg.TargetDistribution(beta=value, do_gradient_scaling=True)},
    "target_norm": lambda value: {
        "target": dg.AdaptiveTargetDistribution(
            initial_beta=0.0, beta_update_step=_BETA_STEP, target_norm=value
        )
    },
}
