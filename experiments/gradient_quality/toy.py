# SPDX-License-Identifier: Apache-2.0
"""Part one: bias, variance and error on SIMPLE's problem of 10 items, 5 chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import discrete_grad as dg
from experiments.gradient_quality import measure, problems
from experiments.gradient_quality.enumeration import EXPECTATIONS, Law, expectation
from experiments.gradient_quality.estimation import adapted, configured, estimate
from experiments.gradient_quality.published import published
from experiments.session import JSON, Context, Session, Task

N, K = 10, 5
SEEDS = (1234, 1067, 9198, 9453, 6240, 7044, 1755, 7898, 3131, 1277)
REPEATS = 10_000
STEP = 2.5  # lambda of I-MLE, SIMPLE-F and SIMPLE-B
RELAXED_TEMPERATURE = 2.0
AIMLE_PASSES = 1000
AIMLE_RULE: dict[str, Any] = {"initial_beta": 0.0, "beta_update_step": 1e-3, "target_norm": 1.0}
# Unbiased for this loss, which is quadratic.
UNBIASED = ("score_function", "score_function_loo", "simple_second_order", "simple_unbiased")


@dataclass(frozen=True)
class Row:
    """One estimator with a number of draws.

    Args:
        estimator: its name in ``dg.estimators``.
        samples: S.
        published: its name in SIMPLE's published code, where that has it.
        options: over the library's defaults.
        log_sigmoid: the scores are log sigmoid(theta).
        adapts: AIMLE, whose step is adapted first.
    """

    estimator: str
    samples: int = 1
    published: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    log_sigmoid: bool = False
    adapts: bool = False

    @property
    def key(self) -> str:
        return f"{self.estimator}/S-{self.samples}"


def _several(name: str) -> list[Row]:
    return [Row(name, samples) for samples in (2, 8, 32)]


ROWS = (
    Row("exact", published="Exact"),
    Row("straight_through", published="STE"),
    Row(
        "gumbel_softmax",
        published="SoftSub",
        options={"temperature": RELAXED_TEMPERATURE},
        log_sigmoid=True,
    ),
    Row("gumbel_softmax_hard", options={"temperature": RELAXED_TEMPERATURE}, log_sigmoid=True),
    Row(
        "imle",
        published="IMLE",
        options={"target": dg.TargetDistribution(beta=STEP), "noise": "sum_of_gamma"},
    ),
    Row("aimle", options={"noise": "sum_of_gamma"}, adapts=True),
    Row("aimle_central", options={"noise": "sum_of_gamma"}, adapts=True),
    Row("score_function", published="SFE"),
    Row("simple_f", published="SIMPLE-F", options={"step": STEP}),
    Row("simple_b", published="SIMPLE-B", options={"step": STEP}),
    Row("simple", published="SIMPLE"),
    Row("simple_second_order"),
    *_several("simple"),
    *_several("simple_second_order"),
    *_several("simple_unbiased"),
    *_several("score_function_loo"),
)
_BY_KEY = {row.key: row for row in ROWS}
NAMES = tuple(dict.fromkeys(row.estimator for row in ROWS))


def run(session: Session, names: list[str]) -> JSON:
    """The measured rows, the enumerated biases, and what SIMPLE's code gives."""
    repeats, passes = (1000, 100) if session.quick else (REPEATS, AIMLE_PASSES)
    seeds = list(SEEDS[: len(session.seeds(len(SEEDS)))])
    rows = [row for row in ROWS if row.estimator in names]
    tasks = [
        Task(
            f"toy/{row.key}",
            {"row": row.key, "setting": plain(row, passes), "seeds": seeds, "repeats": repeats},
            len(seeds),
        )
        for row in rows
    ]
    measured = session.map(sample_row, tasks, "toy: sampling")
    enumerated = [
        Task(f"toy/enumerated/{name}", {"estimator": name, "seeds": seeds, "step": STEP})
        for name in EXPECTATIONS
        if name in names
    ]
    biases = session.map(enumerate_bias, enumerated, "toy: enumeration")
    return {
        "n": N,
        "k": K,
        "seeds": seeds,
        "repeats": repeats,
        "rows": [
            {
                "estimator": row.estimator,
                "samples": row.samples,
                "published": published()["toy"]["rows"].get(row.published),
                **values,
            }
            for row, values in zip(rows, measured, strict=True)
        ],
        "enumerated": {
            task.settings["estimator"]: bias for task, bias in zip(enumerated, biases, strict=True)
        },
        "enumerated_published": published()["toy"]["enumerated"],
    }


def plain(row: Row, passes: int = AIMLE_PASSES) -> JSON:
    """What a task's result depends on, besides its key."""
    options = {name: str(value) for name, value in row.options.items()}
    adaptive = {"passes": passes, **AIMLE_RULE} if row.adapts else None
    return {"options": options, "log_sigmoid": row.log_sigmoid, "adaptive": adaptive}


def sample_row(settings: dict[str, JSON], context: Context) -> JSON:
    """The measures of one row at each seed, lists by their names."""
    row, adaptive = _BY_KEY[settings["row"]], settings["setting"]["adaptive"]
    found: dict[str, list[float]] = {}
    for seed in settings["seeds"]:
        theta, loss = problems.published(seed, N)
        exact = loss.gradient(theta, K)
        estimates = sample(row, theta, loss, settings["repeats"], seed, context.device, adaptive)
        values = measure.quality(estimates, exact)
        if row.estimator in UNBIASED:
            statistic, freedom = measure.chi_square(estimates, exact)
            values |= {"chi_square": round(statistic, 3), "freedom": freedom}
        for name, value in values.items():
            found.setdefault(name, []).append(value)
        context.advance()
    return found


def sample(
    row: Row,
    theta: Tensor,
    loss: problems.Distance,
    repeats: int,
    seed: int,
    device: torch.device,
    adaptive: dict[str, Any] | None = None,
) -> Tensor:
    """Independent estimates [repeats, n], each from the row's number of draws.

    ``adaptive`` is for AIMLE: the passes that adapt the step, and the rule.
    """
    generator = torch.Generator(device).manual_seed(seed)
    theta, loss = theta.to(device), loss.to(device)
    if adaptive is not None:
        estimator = adapted(
            row.estimator,
            theta,
            K,
            loss,
            row.samples,
            generator=generator,
            **adaptive,
            **row.options,
        )
    else:
        estimator = configured(row.estimator, **row.options)
    copies = 1 if row.estimator == "exact" else repeats
    estimates = estimate(
        estimator,
        theta.expand(copies, N),
        K,
        loss,
        row.samples,
        generator,
        log_sigmoid=row.log_sigmoid,
    )
    return estimates.expand(repeats, N).cpu()


def enumerate_bias(settings: dict[str, JSON], context: Context) -> JSON:
    """1 - cos(mean of the estimator over all subsets, exact gradient) at each seed."""
    biases = []
    for seed in settings["seeds"]:
        theta, loss = problems.published(seed, N)
        law = Law.of(theta, K, loss)
        mean = expectation(settings["estimator"], law, settings["step"])
        bias = (1 - measure.cosine(mean, loss.gradient(theta, K))).item()
        biases.append(round(bias, 16))
    context.advance()
    return biases
