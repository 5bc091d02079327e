# SPDX-License-Identifier: Apache-2.0
"""The estimators that are compared, and what is tuned for each: the same number of cells."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from experiments.session import JSON

TUNING_SEEDS = (1000, 1001)  # never reported
CELLS = 6

# With nothing but the learning rate to tune, all cells are spent on it.
_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
_TWO_RATES = (1e-3, 4e-3)

# The published runs: 20 epochs of some 80,000 reviews in batches of 40; how far beta moves in each
# step.
PUBLISHED_STEPS = 40_000
_PUBLISHED_UPDATE = 1e-4

# I-MLE's lambda, with its tuned learning rate and the seeds that are reported.
LAMBDAS = (100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)

Options = dict[str, JSON]


@dataclass(frozen=True)
class Candidate:
    """An estimator with the options that are fixed, and those of its own that are tuned.

    Args:
        key: names it in the results.
        estimator: its name in ``dg.estimators``.
        fixed: options (see ``fit.estimator``).
        tuned: the values of what is tuned beside the learning rate.
        from_zero: AIMLE as its authors run it: beta from 0, and in all its steps it can move
            as far as in theirs.
    """

    key: str
    estimator: str
    fixed: Options = field(default_factory=dict)
    tuned: tuple[Options, ...] = ({},)
    from_zero: bool = False

    def cells(self) -> list[tuple[float, Options]]:
        """Learning rates and options."""
        rates = _RATES if len(self.tuned) == 1 else _TWO_RATES
        return list(itertools.product(rates, self.tuned))

    def options(self, tuned: Options, steps: int) -> Options:
        """All options for a training of that many steps."""
        update = _PUBLISHED_UPDATE * PUBLISHED_STEPS / steps
        rule = {"initial_beta": 0.0, "beta_update_step": update} if self.from_zero else {}
        return {**self.fixed, **rule, **tuned}


def _values(name: str, *values: float) -> tuple[Options, ...]:
    return tuple({name: value} for value in values)


CANDIDATES = {
    candidate.key: candidate
    for candidate in (
        Candidate("simple", "simple"),
        Candidate("imle", "imle", tuned=_values("lambda", 1e2, 1e3, 1e4)),
        Candidate("aimle", "aimle"),
        Candidate("aimle_central", "aimle_central"),
        Candidate("aimle_from_zero", "aimle", from_zero=True),
        Candidate("aimle_central_from_zero", "aimle_central", from_zero=True),
        Candidate(
            "gumbel_softmax_hard",
            "gumbel_softmax_hard",
            tuned=_values("temperature", 0.1, 0.5, 1.0),
        ),
        Candidate("gumbel_softmax", "gumbel_softmax", tuned=_values("temperature", 0.1, 0.5, 1.0)),
        Candidate(
            "score_function_loo", "score_function_loo", tuned=_values("num_samples", 2, 4, 8)
        ),
    )
}

# AIMLE's rule with other steps, from beta = 0: does it matter how fast lambda adapts?
RULE_STEPS = (1e-4, 1e-2)
