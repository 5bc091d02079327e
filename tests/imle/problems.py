# SPDX-License-Identifier: Apache-2.0
"""What the tests of I-MLE share: problems, stored noise, a quadratic loss."""

from __future__ import annotations

import torch

from discrete_grad.rng import seed_for


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def stored_noise(law, theta, samples, seed=5):
    """[B, T, n], what a call that starts from ``generator(seed)`` draws."""
    one = seed_for(theta, generator(seed))
    wide = torch.float64 if theta.dtype == torch.float64 else torch.float32
    return law.draw((samples, *theta.shape), one, wide).movedim(0, 1)


def weights(theta, samples, scale=1.0):
    """dL/dz [B, T, n] of the linear loss sum(weights * z)."""
    shape = (theta.shape[0], samples, *theta.shape[1:])
    return (scale * torch.randn(shape, dtype=torch.float64)).to(theta.dtype)


def gradient(theta, z, dy):
    """dL/dtheta of L = sum(dy * z), for z [B * T, ...] (a decorator's) and dy [B, T, ...]."""
    (value,) = torch.autograd.grad(z, theta, dy.reshape(z.shape))
    return value


def topk_gradient(theta, z, dy):
    """The same for z [T, B, n] (of imle_topk)."""
    (value,) = torch.autograd.grad(z, theta, dy.movedim(1, 0))
    return value
