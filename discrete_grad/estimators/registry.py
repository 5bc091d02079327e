# SPDX-License-Identifier: Apache-2.0
"""All estimators by name, with one call signature: an experiment picks one by its name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from discrete_grad import checks, likelihood, subset
from discrete_grad.estimators import surrogate
from discrete_grad.estimators.gumbel_softmax import gumbel_softmax_topk
from discrete_grad.estimators.imle_topk import aimle_topk, imle_topk
from discrete_grad.estimators.interpolation import blackbox
from discrete_grad.estimators.negative_identity import identity
from discrete_grad.estimators.perturbed_optimizer import perturbed_optimizer
from discrete_grad.estimators.score_function import Loss, MovingAverageBaseline, score_function
from discrete_grad.estimators.simple import simple
from discrete_grad.estimators.simple_parts import simple_backward_only, simple_forward_only
from discrete_grad.estimators.straight_through import straight_through_topk
from discrete_grad.estimators.targets import AdaptiveTargetDistribution
from discrete_grad.noise import GumbelNoiseDistribution
from discrete_grad.rng import seed_for

Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Estimator:
    """An estimator of E[f(z)] and its gradient, z a random k-subset of n items.

    Call it: ``estimator(logits, k, fn, num_samples, *, generator=None, **options)`` gives the mean
    loss over the draws, and its backward pass gives ``logits`` the estimate of the gradient. What
    else ``fn`` depends on gets the gradient of the mean loss.

    Args:
        logits: theta, [..., n].
        k: size of the subsets: an int (or where the estimator takes it, an integer tensor that
            broadcasts to [...]).
        fn: takes the draws [S, ..., n] to losses [S, ...] (or to fewer of the batch's dimensions:
            see ``dg.score_function``). The draws are k-hot, but for "gumbel_softmax" and
            "perturbed_optimizer", which hand over points between the k-hot vectors.
        num_samples: S.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.
        options: settings of the estimator, over those in ``self.options``; the function that does
            the work documents them.
    """

    name: str
    summary: str
    function: Callable[..., Tensor] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        logits: Tensor,
        k: int | Tensor,
        fn: Loss,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Tensor:
        settings = {**self.options, **options}
        return self.function(logits, k, fn, num_samples, generator=generator, **settings)


def names() -> tuple[str, ...]:
    """The names of all estimators."""
    return tuple(_ESTIMATORS)


def get(name: str) -> Estimator:
    """The estimator of this name.

    One that learns from call to call ("aimle", "aimle_central", "score_function_moving_average")
    comes with a new state of its own, a module in its ``options``: keep the estimator as long as
    the training lasts, and save that module with the model.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    checks.one_of("name", name, names())
    estimator = _ESTIMATORS[name]
    state = {option: make() for option, make in _STATE.get(name, {}).items()}
    return replace(estimator, options={**estimator.options, **state})


def _mean_loss(fn: Loss, draws: Tensor) -> Tensor:
    return checks.losses(fn(draws), draws).mean(0)


def _pathwise(draw: Draw) -> Callable[..., Tensor]:
    """Of a function whose draws' gradients add up."""

    def estimate(
        logits: Tensor, k: int | Tensor, fn: Loss, num_samples: int, **options: Any
    ) -> Tensor:
        checks.draws_at_least(num_samples, 1, "to take a mean")
        return _mean_loss(fn, draw(logits, k, num_samples, **options))

    return estimate


def _averaging(draw: Draw) -> Callable[..., Tensor]:
    """Of a function that averages its draws' gradients, each from the whole gradient of a loss.

    The mean loss gives every draw 1/S of that; it is multiplied by S on the way back.
    """

    def estimate(
        logits: Tensor, k: int | Tensor, fn: Loss, num_samples: int, **options: Any
    ) -> Tensor:
        checks.draws_at_least(num_samples, 1, "to take a mean")
        draws = draw(logits, k, num_samples, **options)
        return _mean_loss(
            fn, surrogate.with_gradient(draws, draws, lambda _, grad: num_samples * grad)
        )

    return estimate


def _solver_draws(decorate: Callable[..., Callable[..., Tensor]]) -> Draw:
    """Draws of a differentiable solver for the k largest logits + temperature * Gumbel noise."""

    def draw(
        logits: Tensor,
        k: int | Tensor,
        num_samples: int,
        *,
        generator: torch.Generator | None,
        temperature: float,
        **options: Any,
    ) -> Tensor:
        k = checks.row_counts(k, logits)
        scale = checks.temperature("temperature", temperature)
        theta = likelihood.working(logits)
        shape = torch.Size([num_samples, *logits.shape])
        eps = GumbelNoiseDistribution().draw(shape, seed_for(logits, generator), theta.dtype)
        points = surrogate.with_gradient(
            logits, theta + scale * eps, lambda _, grad: grad.sum(0) / num_samples
        )
        solver = decorate(_largest(k, shape), **options)
        return solver(points.flatten(0, -2)).reshape(shape).to(logits.dtype)

    return draw


def _perturbed_mean(
    logits: Tensor,
    k: int | Tensor,
    fn: Loss,
    num_samples: int,
    *,
    generator: torch.Generator | None,
    **options: Any,
) -> Tensor:
    k = checks.row_counts(k, logits)
    checks.draws_at_least(num_samples, 1, "to take a mean")
    solver = perturbed_optimizer(
        _largest(k, torch.Size([num_samples, *logits.shape])),
        num_samples=num_samples,
        generator=generator,
        **options,
    )
    rows = logits.reshape(math.prod(logits.shape[:-1]), logits.size(-1))
    return _mean_loss(fn, solver(rows).reshape(1, *logits.shape))


def _largest(k: int | Tensor, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """The solver of flattened rows, whose ``k`` fits ``shape``."""
    return lambda scores: subset.mode(scores.reshape(shape), k).reshape(scores.shape)


def _exact(
    logits: Tensor,
    k: int | Tensor,
    fn: Loss,
    num_samples: int,
    *,
    generator: torch.Generator | None,
    max_subsets: int,
) -> Tensor:
    """E[f(z)] itself, and by autograd its gradient: ``fn`` is given every subset."""
    k = checks.single_count(k, logits, 'the estimator "exact"')
    checks.generator(generator, logits.device)
    checks.draws_at_least(num_samples, 1, "as for every estimator (it has no effect here)")
    n = logits.size(-1)
    total = math.comb(n, k)
    if total > max_subsets:
        raise ValueError(
            f'the estimator "exact" lists all subsets: there are {total} of k = {k} items out of '
            f"n = {n}, more than max_subsets = {max_subsets}"
        )
    chosen = torch.tensor(list(itertools.combinations(range(n), k)), device=logits.device)
    hot = logits.new_zeros(total, n).scatter(-1, chosen.reshape(total, k).long(), 1.0)
    hot = hot.reshape(total, *(1,) * (logits.dim() - 1), n).expand(total, *logits.shape)
    losses = checks.losses(fn(hot), hot)
    if losses.dim() != logits.dim():
        raise ValueError(
            'fn must return one loss per row for the estimator "exact" (it lists the subsets of '
            f"each row by itself): shape {tuple(hot.shape[:-1])}, got {tuple(losses.shape)}"
        )
    probability = likelihood.log_prob(logits, k, hot).exp()
    # A subset that cannot be drawn counts for nothing, whatever its loss.
    return torch.where(probability > 0, probability * losses, 0.0).sum(0).to(losses.dtype)


_ESTIMATORS = {
    estimator.name: estimator
    for estimator in (
        Estimator(
            "exact",
            "the expectation itself, over all subsets (one loss per row, k an int)",
            _exact,
            {"max_subsets": 10_000},
        ),
        Estimator("simple", "dg.simple: Sigma g", _pathwise(simple)),
        Estimator(
            "simple_second_order",
            "dg.simple(order=2): unbiased for quadratic losses",
            _pathwise(simple),
            {"order": 2},
        ),
        Estimator(
            "simple_unbiased",
            'dg.score_function(control_variate="simple")',
            score_function,
            {"control_variate": "simple"},
        ),
        Estimator("simple_f", "SIMPLE's forward part only", _averaging(simple_forward_only)),
        Estimator("simple_b", "SIMPLE's backward part only", _averaging(simple_backward_only)),
        Estimator(
            "score_function",
            "dg.score_function without a control variate",
            score_function,
            {"control_variate": None},
        ),
        Estimator(
            "score_function_moving_average",
            "dg.score_function with a MovingAverageBaseline",
            score_function,
        ),
        Estimator(
            "score_function_loo",
            "dg.score_function with the leave-one-out baseline",
            score_function,
            {"control_variate": "leave_one_out"},
        ),
        Estimator(
            "straight_through",
            "dg.straight_through_topk on exact draws, or with noise= perturb-and-MAP",
            _pathwise(straight_through_topk),
        ),
        Estimator("gumbel_softmax", "dg.gumbel_softmax_topk", _pathwise(gumbel_softmax_topk)),
        Estimator(
            "gumbel_softmax_hard",
            "dg.gumbel_softmax_topk(hard=True)",
            _pathwise(gumbel_softmax_topk),
            {"hard": True},
        ),
        Estimator("imle", "dg.imle_topk", _averaging(imle_topk)),
        Estimator("aimle", "dg.aimle_topk, forward difference", _averaging(aimle_topk)),
        Estimator(
            "aimle_central",
            "dg.aimle_topk, central difference",
            _averaging(aimle_topk),
            {"symmetric": True},
        ),
        Estimator(
            "perturbed_optimizer",
            "dg.perturbed_optimizer of the k largest (fn is given one mean of S draws)",
            _perturbed_mean,
            {"noise": "gumbel"},
        ),
        Estimator(
            "blackbox",
            "blackbox interpolation of the k largest of logits + temperature * Gumbel noise",
            _averaging(_solver_draws(blackbox)),
            {"temperature": 1.0},
        ),
        Estimator(
            "identity",
            "identity with projection, on the k largest of logits + temperature * Gumbel noise",
            _averaging(_solver_draws(identity)),
            {"temperature": 1.0},
        ),
    )
}

# Options that are modules with a state.
_STATE: dict[str, dict[str, Callable[[], torch.nn.Module]]] = {
    "aimle": {"target": AdaptiveTargetDistribution},
    "aimle_central": {"target": AdaptiveTargetDistribution},
    "score_function_moving_average": {"control_variate": MovingAverageBaseline},
}
