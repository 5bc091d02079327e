# SPDX-License-Identifier: Apache-2.0
"""method="recursion", and method="linear" where rows do not fit registers: the tree in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import TREE_ITEMS, Tile, join_tile, leaves_tile, tilt_tile
from .launch import launch
from .recursion_kernels import (
    close_kernel,
    close_vjp_kernel,
    join_kernel,
    leaf_tangents_kernel,
    leaves_kernel,
    tilt_kernel,
)
from .rows import Rows, as_rows, cdiv
from .tree import Tree, climb, descend, slices, tree_of

__all__ = ["marginals", "marginals_by_tree", "most_counted", "vjp_by_tree"]


def most_counted(rows: Rows) -> int:
    """The most items that a row's tree counts: chosen or unchosen ones, whichever are fewer."""
    return rows.n // 2 if rows.row_k is not None else max(0, min(rows.k, rows.n - rows.k))


class _Trees:
    """Scratch memory of one turn of rows."""

    def __init__(self, rows: Rows, tree: Tree, *, tangents: bool) -> None:
        def empty(*shape: int, dtype: torch.dtype = rows.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=rows.logits.device)

        self.values = empty(rows.count, tree.size)
        self.adjoints = empty(rows.count, tree.size)
        self.tangents = empty(rows.count, tree.size) if tangents else None
        self.adjoint_tangents = empty(rows.count, tree.size) if tangents else None
        self.tilt = empty(rows.count)
        self.target = empty(rows.count, dtype=torch.int32)
        self.kind = empty(rows.count, dtype=torch.int32)
        self.outside = empty(rows.count, dtype=torch.float64)
        self.probability = empty(rows.count)


def _take(rows: Rows, part: slice) -> Rows:
    logits = rows.logits[part]
    row_k = None if rows.row_k is None else rows.row_k[part]
    return rows._replace(logits=logits, row_k=row_k, count=logits.shape[0])


def _launch(kernel: object, rows: Rows, tile: Tile, *args: object, **constants: object) -> None:
    """A kernel whose programs take a tile of rows each."""
    launch(
        kernel,
        cdiv(rows.count, tile.rows),
        *args,
        num_warps=tile.num_warps,
        R=tile.rows,
        C=tile.items,
        DTYPE=rows.tl_dtype,
        **constants,
    )


def _inside_outside(
    rows: Rows, tree: Tree, grad: Tensor | None, *, log: bool, tangents: bool
) -> _Trees:
    """Leaves, their adjoints, and the probability of the count, of every row."""
    trees = _Trees(rows, tree, tangents=tangents)
    problem = (rows.logits, rows.row_k, trees.tilt)
    sizes = (rows.k, rows.n, rows.count)
    _launch(
        tilt_kernel, rows, tilt_tile(rows.n, rows.dtype), *problem, trees.kind, trees.target, *sizes
    )
    tile = leaves_tile(rows.n)
    of_leaves = (trees.kind, trees.values, trees.outside)
    _launch(leaves_kernel, rows, tile, *problem, *of_leaves, *sizes, tree.size, LOG=log)
    if tangents:
        _launch(leaf_tangents_kernel, rows, tile, *problem, grad, trees.tangents, *sizes, tree.size)
    climb(tree, trees.values, trees.tangents, tree.top - 1, rows, log=log)
    _launch(
        join_kernel,
        rows,
        join_tile(tree.most + 1, rows.dtype),
        *(trees.values, trees.tangents, trees.adjoints, trees.adjoint_tangents),
        *(trees.target, trees.probability),
        *(tree.n, tree.most, tree.top, tree.size, rows.count),
        LOG=log,
    )
    descend(
        tree,
        trees.values,
        trees.tangents,
        trees.adjoints,
        trees.adjoint_tangents,
        tree.top - 1,
        rows,
        log=log,
    )
    return trees


def marginals_by_tree(rows: Rows, *, log: bool) -> tuple[Tensor, Tensor]:
    """Marginals [rows, n] and log-partition [rows] in the dtype of the logits, for n > 0.

    Args:
        rows: the problem.
        log: the algebra of logarithms (relative accuracy), else of probabilities.
    """
    marginals = torch.empty_like(rows.logits)
    log_partition = rows.logits.new_empty(rows.count)
    tree = tree_of(rows.n, most_counted(rows))
    for turn in slices(rows, 2, tree):
        part = _take(rows, turn)
        trees = _inside_outside(part, tree, None, log=log, tangents=False)
        launch(
            close_kernel,
            cdiv(part.count * part.n, TREE_ITEMS),
            part.logits,
            part.row_k,
            trees.values,
            trees.adjoints,
            trees.kind,
            trees.outside,
            trees.probability,
            marginals[turn],
            log_partition[turn],
            part.k,
            part.n,
            part.count,
            tree.size,
            num_warps=4,
            LOG=log,
            B=TREE_ITEMS,
            DTYPE=part.tl_dtype,
        )
    return marginals, log_partition


def vjp_by_tree(
    rows: Rows, grad_marginals: Tensor | None, grad_log_partition: Tensor | None
) -> Tensor:
    """The vector-Jacobian product [rows, n] by the linear form with tangents, for n > 0.

    Args:
        rows: the problem.
        grad_marginals: [rows, n], contiguous, or None for 0.
        grad_log_partition: [rows], contiguous, or None for 0.
    """
    grad_logits = torch.empty_like(rows.logits)
    tree = tree_of(rows.n, most_counted(rows))
    for turn in slices(rows, 4, tree):
        part = _take(rows, turn)
        grad = None if grad_marginals is None else grad_marginals[turn]
        scale = None if grad_log_partition is None else grad_log_partition[turn]
        trees = _inside_outside(part, tree, grad, log=False, tangents=True)
        launch(
            close_vjp_kernel,
            cdiv(part.count * part.n, TREE_ITEMS),
            part.logits,
            part.row_k,
            trees.values,
            trees.tangents,
            trees.adjoints,
            trees.adjoint_tangents,
            trees.kind,
            scale,
            grad_logits[turn],
            part.k,
            part.n,
            part.count,
            tree.size,
            num_warps=4,
            B=TREE_ITEMS,
            DTYPE=part.tl_dtype,
        )
    return grad_logits


def marginals(logits: Tensor, k: int, row_k: Tensor | None) -> tuple[Tensor, Tensor]:
    """method="recursion" of the op ``subset_marginals``, for n > 0.

    Args:
        logits: [..., n].
        k: of every row, unless ``row_k`` is given.
        row_k: int64, [...], or None.

    Returns:
        Marginals [..., n] and log-partition [...], in the dtype of ``logits``.
    """
    mu, log_partition = marginals_by_tree(as_rows(logits, k, row_k), log=True)
    return mu.view(logits.shape), log_partition.view(logits.shape[:-1])
