# SPDX-License-Identifier: Apache-2.0
"""The score-function estimator on exact draws, with control variates; unbiased SIMPLE."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from discrete_grad import checks, likelihood, ops
from discrete_grad.estimators import surrogate
from discrete_grad.rng import seed_for

Loss = Callable[[Tensor], Tensor]


class MovingAverageBaseline(torch.nn.Module):
    """A baseline for ``dg.score_function``: the exponential moving average of earlier mean losses.

    b = sum_t decay^(T - t) m_t / sum_t decay^(T - t) over the mean losses m_t of the calls before;
    0 before the first. It does not depend on the draws it is subtracted from, so it adds no bias.
    The state is in buffers: saved by ``state_dict``, never read on the host, moved to the device of
    the losses where it is on another. A call in ``eval()`` mode or without gradients uses the
    average and leaves it as it is; so does one whose mean loss is not finite. Under
    ``torch.compile`` the update breaks the graph.

    Args:
        decay: from 0 (the last call only) to below 1.
        device: of the buffers.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
        Learning", Machine Learning 8, 1992, section 4 (reinforcement baseline).
    """

    total: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.decay = checks.finite("decay", decay, least=0.0, below=1.0)
        self.register_buffer("total", torch.zeros((), device=device))
        self.register_buffer("weight", torch.zeros((), device=device))

    def forward(self) -> Tensor:
        """The average of the mean losses seen so far, []; 0 where there was none."""
        return torch.where(self.weight > 0, self.total / self.weight, 0.0)

    def update(self, losses: Tensor) -> None:
        """Take the mean of ``losses`` into the average, unless it is not finite."""
        if torch.compiler.is_compiling():
            # A graph's backward pass may compute the baseline again, from what the buffers hold by
            # then. Not a decorator: that imports the compiler.
            torch.compiler.disable(self._update)(losses)
        else:
            self._update(losses)

    @torch.no_grad()
    def _update(self, losses: Tensor) -> None:
        mean = losses.mean().to(self.total.dtype)
        known = mean.isfinite()
        for buffer, now in ((self.total, mean), (self.weight, torch.ones_like(mean))):
            buffer.copy_(torch.where(known, self.decay * buffer + now, buffer))


def score_function(
    logits: Tensor,
    k: int | Tensor,
    fn: Loss,
    num_samples: int,
    *,
    control_variate: str | MovingAverageBaseline | None = "leave_one_out",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean loss of exact draws, whose backward pass is an unbiased estimate of E[f(z)]'s.

    Forward: (1/S) sum_i f(z_i), z_i ~ p(S) independent. Backward, in theta, with l_i = f(z_i), mu
    the marginals, grad log p(z) = z - mu and Sigma = Cov(z):

    - None: mean_i l_i (z_i - mu);
    - "leave_one_out": mean_i (l_i - b_i) (z_i - mu), b_i the mean loss of the *other* draws;
    - a ``MovingAverageBaseline``: mean_i (l_i - b) (z_i - mu), b the average over earlier calls;
    - "simple": with gbar_i the mean of the others' df/dz, l_i = f(z_i) - <gbar_i, z_i - mu> and
      b_i the mean of the other l_j: mean_i (l_i - b_i) (z_i - mu) + Sigma gbar_i. SIMPLE made
      unbiased; its variance is that of what f has beyond a linear function. Needs a differentiable
      fn.

    All are unbiased for any f. What else fn depends on (its parameters) gets the gradient of the
    mean loss. fn runs once, and the backward pass goes through it once. Beside it, time O(n) per
    draw; kept are the draws.

    Args:
        logits: theta, [..., n]; -inf excludes an item, +inf forces it in.
        k: size of the subsets: an int, or an integer tensor that broadcasts to [...].
        fn: takes the draws, k-hot [S, ..., n] in the dtype of ``logits``, to losses [S, ...]. A
            loss may cover several rows: with losses of shape [S, *head], head the first dimensions
            of the batch shape (or none), the rows of a loss are one draw together, of probability
            the product of theirs.
        num_samples: S; at least 1, and at least 2 for "leave_one_out" and "simple".
        control_variate: see above. The string "moving_average" is refused: the average lasts from
            call to call, so it must be an object that you keep.
        generator: source of the randomness, on the device of ``logits``; None is torch's default
            one.

    Returns:
        The mean over the S draws, of the shape of the losses less their first dimension.

    Raises:
        ValueError, TypeError: a bad argument, or losses of another shape, named in the message.

    Sources:
        Williams, Machine Learning 8, 1992. Leave-one-out: Kool, van Hoof, Welling, "Buy 4 REINFORCE
        Samples, Get a Baseline for Free!", ICLR 2019 workshop; for k-subsets: Wijk, Vinuesa,
        Azizpour, "SFESS: Score Function Estimators for k-Subset Sampling", ICLR 2025 (which draws
        by Gumbel top-k; here the draws have the probabilities that are differentiated). "simple":
        double control variates of Titsias, Shi, "Double Control Variates for Gradient Estimation in
        Discrete Latent Variable Models", AISTATS 2022, arXiv:2111.05300, section 3, with the
        covariance of the k-subset law.
    """
    k = checks.row_counts(k, logits)
    _check_control_variate(control_variate)
    needs_others = control_variate in ("leave_one_out", "simple")
    why = f"with control_variate={control_variate!r}" if needs_others else "to take a mean"
    draws = checks.draws_at_least(num_samples, 2 if needs_others else 1, why)
    hot = ops.sample(logits.detach(), k, draws, seed_for(logits, generator))
    return mean_loss(logits, k, fn, hot, control_variate)


def mean_loss(
    logits: Tensor,
    k: int | Tensor,
    fn: Loss,
    hot: Tensor,
    control_variate: str | MovingAverageBaseline | None,
) -> Tensor:
    """``score_function`` on given draws ``hot`` [S, ..., n]."""
    joint: tuple[int, ...] = ()  # set below, once it is known which rows a loss covers
    code = hot
    if control_variate == "simple":
        code = surrogate.with_gradient(
            logits, hot, lambda theta, grad: _simple_part(theta, k, hot, grad, joint)
        )
    losses = checks.losses(fn(code), hot)
    if code.requires_grad and not losses.requires_grad:
        raise ValueError(
            "fn must be differentiable in the draws with control_variate='simple', got losses "
            "without a gradient"
        )
    joint = tuple(range(losses.dim(), hot.dim() - 1))
    log_prob = likelihood.log_prob(logits, k, hot)
    if joint:
        log_prob = log_prob.sum(joint)
    fixed = losses.detach().to(log_prob.dtype)
    score = ((fixed - _baseline(fixed, control_variate)) * log_prob).mean(0)
    return surrogate.straight_through(losses.mean(0), score)


def _simple_part(
    logits: Tensor, k: int | Tensor, hot: Tensor, grad: Tensor, joint: tuple[int, ...]
) -> Tensor:
    """What "simple" adds to leave-one-out: of order one in the gradients g_i = S ``grad``.

    mean_i [Sigma gbar_i - (c_i - mean of the other c_j) (z_i - mu)], c_i = <gbar_i, z_i - mu> over
    the rows that share a loss.
    """
    theta = likelihood.working(logits)
    grad = grad.to(theta.dtype)
    deviation = hot.to(theta.dtype) - ops.marginals(theta, k)[0]
    along = (_others_mean(grad) * deviation).sum((*joint, -1), keepdim=True)
    weighted = ((along - _others_mean(along)) * deviation).sum(0)
    return ops.vjp(theta, k, grad.sum(0)) - weighted


def _others_mean(values: Tensor) -> Tensor:
    """For every draw (first dimension) the mean over all others."""
    return (values.sum(0) - values) / (values.size(0) - 1)


def _baseline(
    losses: Tensor, control_variate: str | MovingAverageBaseline | None
) -> Tensor | float:
    if control_variate is None:
        return 0.0
    if isinstance(control_variate, MovingAverageBaseline):
        if control_variate.total.device != losses.device:
            control_variate.to(losses.device)
        average: Tensor = control_variate()
        if control_variate.training and torch.is_grad_enabled():
            control_variate.update(losses)
        return average
    return _others_mean(losses)


def _check_control_variate(value: object) -> None:
    if value == "moving_average":
        raise ValueError(
            "control_variate='moving_average' has nowhere to keep its average: pass a "
            "discrete_grad.MovingAverageBaseline(decay=0.9) and keep it from call to call"
        )
    if value is not None and not isinstance(value, MovingAverageBaseline):
        checks.one_of("control_variate", value, ("leave_one_out", "simple"))
