# SPDX-License-Identifier: Apache-2.0
"""The ops count_log_prob, its vector-Jacobian product, and the derivative of that."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import TREE_ITEMS
from .counts_kernels import gradient_kernel, leaves_kernel, root_in_kernel, root_out_kernel
from .launch import launch
from .rows import Rows, as_rows, cdiv
from .tree import Tree, climb, descend, slices, tree_of

__all__ = ["count_log_prob", "count_log_prob_vjp", "count_log_prob_vjp_backward"]


def _launch(kernel: object, pairs: int, rows: Rows, *args: object) -> None:
    """An elementwise kernel over pairs."""
    launch(kernel, cdiv(pairs, TREE_ITEMS), *args, num_warps=4, B=TREE_ITEMS, DTYPE=rows.tl_dtype)


class _Turn:
    """Some rows, and their trees in scratch memory up to the root."""

    def __init__(self, rows: Rows, tree: Tree, columns: int, direction: Tensor | None) -> None:
        self.rows, self.tree, self.columns = rows, tree, columns
        self.direction = direction
        self.values = self._empty()
        self.tangents = None if direction is None else self._empty()
        of_leaves = (rows.logits, direction, self.values, self.tangents)
        _launch(leaves_kernel, rows.count * rows.n, rows, *of_leaves, rows.n, rows.count, tree.size)
        climb(tree, self.values, self.tangents, tree.top, rows, log=True)

    def _empty(self) -> Tensor:
        shape = (self.rows.count, self.tree.size)
        return torch.empty(shape, dtype=self.rows.dtype, device=self.rows.logits.device)

    @property
    def _root(self) -> tuple[int, ...]:
        tree = self.tree
        return (self.columns, self.rows.count, tree.n, tree.most, tree.top, tree.size)

    def write_root(self, out: Tensor, *, derivative: bool) -> None:
        """Log-probabilities [rows, columns], or their derivatives along the direction."""
        tangents = self.tangents if derivative else None
        pairs = self.rows.count * self.columns
        _launch(root_out_kernel, pairs, self.rows, self.values, tangents, out, *self._root)

    def write_gradient(self, grad: Tensor, grad_logits: Tensor) -> None:
        """The gradient of <grad, log-probabilities>, or its derivative along the direction."""
        rows, tree = self.rows, self.tree
        adjoints = self._empty()
        adjoint_tangents = None if self.tangents is None else self._empty()
        pairs = rows.count * (tree.most + 1)
        _launch(root_in_kernel, pairs, rows, grad, adjoints, adjoint_tangents, *self._root)
        trees = (self.values, self.tangents, adjoints, adjoint_tangents)
        descend(tree, *trees, tree.top, rows, log=True)
        of_leaves = (rows.logits, self.direction, adjoints, adjoint_tangents, grad_logits)
        pairs = rows.count * rows.n
        _launch(gradient_kernel, pairs, rows, *of_leaves, rows.n, rows.count, tree.size)


def _turns(
    logits: Tensor, max_count: int, direction: Tensor | None, arrays: int
) -> Iterator[tuple[slice, _Turn]]:
    """All rows, in turns that fit the scratch memory; ``arrays``: trees that a turn needs."""
    rows = as_rows(logits, 0, None)
    tree = tree_of(rows.n, max_count)
    for part in slices(rows, arrays, tree):
        taken = rows._replace(logits=rows.logits[part], count=part.stop - part.start)
        along = None if direction is None else direction[part]
        yield part, _Turn(taken, tree, max_count + 1, along)


def _as_columns(tensor: Tensor) -> Tensor:
    """[rows, columns], contiguous."""
    return tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1]).contiguous()


def count_log_prob(logits: Tensor, max_count: int) -> Tensor:
    """log P(sum_i X_i = j), X_i ~ Bernoulli(sigmoid(logits_i)), for j = 0 .. max_count.

    Args:
        logits: [..., n].
        max_count: the last count, at least 0; counts above n have -inf.

    Returns:
        [..., max_count + 1] in the dtype of ``logits``; NaN in rows that hold a NaN.
    """
    if max_count < 0:
        raise ValueError(f"max_count must not be negative, got {max_count}")
    shape = (*logits.shape[:-1], max_count + 1)
    if logits.shape[-1] == 0:
        nothing = torch.arange(max_count + 1, device=logits.device) > 0
        return logits.new_zeros(shape).masked_fill_(nothing, -torch.inf)
    out = logits.new_empty(logits.shape[:-1].numel(), max_count + 1)
    for part, turn in _turns(logits, max_count, None, 1):
        turn.write_root(out[part], derivative=False)
    return out.view(shape)


def count_log_prob_vjp(logits: Tensor, max_count: int, grad: Tensor) -> Tensor:
    """The gradient of <grad, count_log_prob(logits, max_count)>.

    Args:
        logits: [..., n].
        max_count: the last count.
        grad: [..., max_count + 1].

    Returns:
        [..., n] in the dtype of ``logits``. Impossible counts have no gradient.
    """
    if logits.numel() == 0:
        return torch.empty_like(logits)
    grad = _as_columns(grad)
    out = logits.new_empty(logits.shape[:-1].numel(), logits.shape[-1])
    for part, turn in _turns(logits, max_count, None, 2):
        turn.write_gradient(grad[part], out[part])
    return out.view(logits.shape)


def count_log_prob_vjp_backward(
    logits: Tensor, max_count: int, grad: Tensor, tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of <tangent, count_log_prob_vjp(logits, max_count, grad)>.

    Args:
        logits: [..., n].
        max_count: the last count.
        grad: [..., max_count + 1].
        tangent: [..., n].

    Returns:
        For ``grad``, the derivative of the log-probabilities along ``tangent``, and for ``logits``,
        in the dtype of ``logits``.
    """
    if logits.numel() == 0:
        return torch.zeros_like(grad, dtype=logits.dtype), torch.empty_like(logits)
    columns, direction = _as_columns(grad), _as_columns(tangent)
    grad_grad = logits.new_empty(columns.shape)
    grad_logits = logits.new_empty(direction.shape)
    for part, turn in _turns(logits, max_count, direction, 4):
        turn.write_root(grad_grad[part], derivative=True)
        turn.write_gradient(columns[part], grad_logits[part])
    return grad_grad.view(grad.shape), grad_logits.view(logits.shape)
