# SPDX-License-Identifier: Apache-2.0
"""Target distributions of I-MLE: where the second MAP state is taken, and the gradient's scale.

I-MLE compares the MAP state at theta with the one at a target theta', which lies one step against
the gradient: theta' = alpha theta - lambda dL/dz. ``TargetDistribution`` has a fixed lambda,
``AdaptiveTargetDistribution`` AIMLE's, which follows the sparsity of the gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from discrete_grad import checks
from discrete_grad.ops import routing, step_size
from discrete_grad.ops.step_size import Rule, State

if TYPE_CHECKING:  # not every build of torch has it
    from torch.distributed import ProcessGroup


class BaseTargetDistribution(ABC):
    """A rule for the target of I-MLE; derive from it to write your own.

    ``dg.imle`` and ``dg.aimle`` call ``params`` and then ``process``, once per backward pass (the
    central difference calls ``params`` twice) and without autograd. Nothing that must not happen
    twice may happen in ``params``.
    """

    @abstractmethod
    def params(self, theta: Tensor, dy: Tensor | None, *, _is_minimization: bool = False) -> Tensor:
        """The target theta' [B * T, ...], at which the solver runs with the forward pass's noise.

        Args:
            theta: [B * T, ...], the parameters of B examples, repeated for their T samples (the
                sample index runs fastest).
            dy: [B * T, ...], the gradient of the loss with respect to each sample; None asks for
                the target without a step.
            _is_minimization: the solver minimises, so the step is along the gradient.
        """

    @abstractmethod
    def process(self, theta: Tensor, dy: Tensor, gradient: Tensor) -> Tensor:
        """``gradient``, scaled as the rule has it.

        Args:
            theta: [B, ...].
            dy: [B * T, ...].
            gradient: [B, S, ...], the difference of the two MAP states, of each of S samples (T is
                S times the number of marginal samples).
        """


def _stepped(theta: Tensor, alpha: float, step: Tensor) -> Tensor:
    """alpha theta - step, where an infinite theta (an item that is settled) stays as it is."""
    return torch.where(theta.isinf(), theta, alpha * theta - step)


def _samples(theta: Tensor, dy: Tensor) -> int:
    """Rows of dy [B * T, ...] for each of theta [B, ...]."""
    return dy.shape[0] // max(theta.shape[0], 1)


class TargetDistribution(BaseTargetDistribution):
    """The target of I-MLE with a fixed step: theta' = alpha theta - beta dL/dz.

    Args:
        alpha: factor of theta.
        beta: the step lambda.
        do_gradient_scaling: divide the gradient by lambda, which makes it a finite difference.
        eps: the least number that the gradient is divided by, > 0.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Niepert, Minervini, Franceschi, "Implicit MLE: Backpropagating Through Discrete Exponential
        Family Distributions", NeurIPS 2021, arXiv:2106.01798, section 3.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        do_gradient_scaling: bool = False,
        eps: float = 1e-7,
    ) -> None:
        self.alpha = checks.finite("alpha", alpha)
        self.beta = checks.finite("beta", beta)
        self.do_gradient_scaling = do_gradient_scaling
        self.eps = checks.positive("eps", eps)

    def params(self, theta: Tensor, dy: Tensor | None, *, _is_minimization: bool = False) -> Tensor:
        if dy is None:
            return _stepped(theta, self.alpha, torch.zeros_like(theta))
        step = self.beta * dy
        return _stepped(theta, self.alpha, -step if _is_minimization else step)

    def process(self, theta: Tensor, dy: Tensor, gradient: Tensor) -> Tensor:
        return gradient / max(self.beta, self.eps) if self.do_gradient_scaling else gradient

    def __repr__(self) -> str:
        return (
            f"TargetDistribution(alpha={self.alpha}, beta={self.beta}, "
            f"do_gradient_scaling={self.do_gradient_scaling}, eps={self.eps})"
        )


class AdaptiveTargetDistribution(BaseTargetDistribution, torch.nn.Module):
    """AIMLE's target: a step lambda = beta ||theta|| / ||dL/dz|| with a beta that adapts itself.

    The norms are over the examples of the batch and their samples (theta repeated for each), and
    the gradient is divided by lambda. Each backward pass in training mode then makes one step of
    the rule: with d the number of non-zero gradient entries per example and sample,

        grad_norm <- decay grad_norm + (1 - decay) d
        u = + beta_update_step where grad_norm < target_norm, else - beta_update_step
        previous_update <- momentum previous_update + u
        beta <- max(beta + previous_update, 0)

    The state is in three buffers of float64, ``beta``, ``grad_norm`` and ``previous_update``: they
    are in ``state_dict`` if the module is part of the model, never read on the host, and they
    follow theta to its device. ``half()`` and the like leave their dtype alone: a step of 1e-4
    would be lost in 16 bits.

    - *When it changes*: in a backward pass only, and not in ``eval()`` mode (freeze it by that),
      nor where dL/dz is not finite, as when mixed precision overflows. A constant factor of the
      loss changes nothing but the gradient's length.
    - *Gradient accumulation*: every backward pass is one step of the rule, in the order in which
      they run, and uses the beta that it finds, whatever the order of the forward passes. So does
      each backward pass through one graph that is kept.
    - *Data-parallel training*: with ``process_group`` the squared norms and the counts are summed
      over its ranks, so N ranks with a batch of B / N take the same steps as one with B, and their
      beta stays equal. Every rank must then run as many backward passes as the others.

    - *Threads*: backward passes that run at the same time need a target each.

    Args:
        initial_alpha: alpha, the factor of theta.
        initial_beta: beta at first, >= 0. From 0 the first gradients are zero.
        initial_grad_norm: the moving average at first, >= 0.
        beta_update_step: by how much beta changes, >= 0.
        beta_update_momentum: share of the previous change that is added, in [0, 1).
        grad_norm_decay_rate: decay of the moving average, in [0, 1].
        target_norm: number of non-zero gradient entries per example and sample to reach, >= 0. For
            subsets, one item changed for another is two.
        per_example: a lambda for each example, beta ||theta_b|| / ||(dL/dz)_b||, with the one beta.
        process_group: whose ranks share the state; the name of one, or None for this process alone.
        published_scale: divide by lambda computed with the norm of theta *not* repeated, as the
            published code does: the gradient is then sqrt(samples) times as long.

    Raises:
        ValueError, TypeError: a bad argument, named in the message.

    Source:
        Minervini, Franceschi, Niepert, "Adaptive Perturbation-Based Gradient Estimation for
        Discrete Latent Variable Models", AAAI 2023, arXiv:2209.04862, section 4.
    """

    beta: Tensor
    grad_norm: Tensor
    previous_update: Tensor

    def __init__(
        self,
        initial_alpha: float = 1.0,
        initial_beta: float = 1.0,
        initial_grad_norm: float = 1.0,
        beta_update_step: float = 0.0001,
        beta_update_momentum: float = 0.0,
        grad_norm_decay_rate: float = 0.9,
        target_norm: float = 1.0,
        *,
        per_example: bool = False,
        process_group: ProcessGroup | str | None = None,
        published_scale: bool = False,
    ) -> None:
        super().__init__()
        self.alpha = checks.finite("initial_alpha", initial_alpha)
        initial = {
            "beta": checks.finite("initial_beta", initial_beta, least=0),
            "grad_norm": checks.finite("initial_grad_norm", initial_grad_norm, least=0),
            "previous_update": 0.0,
        }
        self.rule = Rule(
            checks.finite("beta_update_step", beta_update_step, least=0),
            checks.finite("beta_update_momentum", beta_update_momentum, least=0, below=1),
            checks.finite("grad_norm_decay_rate", grad_norm_decay_rate, least=0, most=1),
            checks.finite("target_norm", target_norm, least=0),
        )
        self.per_example = per_example
        self.published_scale = published_scale
        # The name alone: a process group can be neither copied nor pickled with the module.
        self.group = checks.process_group("process_group", process_group)
        for name, value in initial.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    @property
    def state(self) -> State:
        """The buffers, as the ops take them."""
        return State(self.beta, self.grad_norm, self.previous_update)

    def prepare(self, device: torch.device) -> None:
        """Moves the state to ``device``, that of theta, where it is on another one.

        Raises:
            RuntimeError: a transform of torch.func would have to change the state: it cannot.
        """
        if self.training and routing.transformed():
            raise RuntimeError(
                "target_distribution adapts its step size in place in the backward pass, which the "
                "transforms of torch.func cannot do: freeze it with .eval(), or use torch.autograd"
            )
        if self.beta.device != device:
            self.to(device)

    def params(self, theta: Tensor, dy: Tensor | None, *, _is_minimization: bool = False) -> Tensor:
        """As in ``BaseTargetDistribution``, at lambda = beta ||theta|| / ||dy||.

        With ``per_example`` theta is [B, ...] and repeated here: which rows are samples of one
        example shows by the number of rows of dy alone.
        """
        if dy is None:
            return _stepped(theta, self.alpha, torch.zeros_like(theta))
        self.prepare(theta.device)
        step, _ = self._step(theta, dy)
        samples = _samples(theta, dy)
        if self.per_example:
            step = step.repeat_interleave(samples, 0)
        move = -step * dy if _is_minimization else step * dy
        return _stepped(theta.repeat_interleave(samples, 0), self.alpha, move)

    def process(self, theta: Tensor, dy: Tensor, gradient: Tensor) -> Tensor:
        """``gradient`` over the lambda of ``params``; then, in training mode, one step of the rule.

        Args:
            theta: [B, ...].
            dy: [B * T, ...].
            gradient: [B, S, ...]; its non-zero entries are what is counted.
        """
        self.prepare(theta.device)
        step, grad_norm = self._step(theta, dy)
        length = step_size.divisor(step, _samples(theta, dy), self.published_scale)
        if self.training:
            with torch.no_grad():
                step_size.adapt_(
                    self.state,
                    self.rule,
                    gradient.abs() > 0,  # not "!= 0": NaN is a state that is not there
                    gradient.shape[0] * gradient.shape[1],
                    grad_norm.isfinite(),
                    self.group,
                )
        return gradient / length.unsqueeze(1)

    def _step(self, theta: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """lambda, [B, 1, ...] with ``per_example``, else [1, 1, ...]; and ||dy||."""
        examples = theta.shape[0]
        rows = theta.reshape(examples, theta[:1].numel())
        grad = dy.reshape(examples, _samples(theta, dy), rows.shape[1]).movedim(1, 0)
        theta_norm, grad_norm = step_size.norms(rows, grad, self.per_example, self.group)
        step = step_size.step_length(self.beta, theta_norm, grad_norm, theta.dtype)
        shape = [examples if self.per_example else 1] + [1] * (theta.dim() - 1)
        return step.reshape(shape), grad_norm

    def extra_repr(self) -> str:
        rule = ", ".join(f"{name}={value}" for name, value in self.rule._asdict().items())
        return f"alpha={self.alpha}, {rule}, per_example={self.per_example}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keeping_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keeping_dtype, recurse)  # type: ignore[no-untyped-call]
