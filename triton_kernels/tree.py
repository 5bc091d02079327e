# SPDX-License-Identifier: Apache-2.0
"""Trees in memory: their shape, and the launches that go up and down them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from .blocks import TREE_TILE, tree_share
from .launch import launch
from .rows import Rows, cdiv
from .tree_kernels import tree_down_kernel, tree_up_kernel

__all__ = ["Tree", "climb", "descend", "slices", "tree_of"]

# Scratch memory of one launch at most; more rows are served in turns.
_SCRATCH_BYTES = 2**28


class Tree(NamedTuple):
    """The shape of every row's tree, as tree_kernels.py lays it out."""

    n: int
    most: int  # the largest degree kept, at least 1
    top: int  # the level of the root, at least 1
    size: int  # numbers of one row


def tree_of(n: int, most: int) -> Tree:
    """The tree over n >= 1 items that keeps degrees up to ``most``, or to n if that is less."""
    most = max(1, min(most, n))
    top = max(1, (n - 1).bit_length())
    size = sum(cdiv(n, 1 << level) * (min(1 << level, most) + 1) for level in range(top + 1))
    return Tree(n, most, top, size)


def slices(rows: Rows, arrays: int, tree: Tree) -> Iterator[slice]:
    """Rows in turns of as many as ``arrays`` trees of each fit the scratch memory.

    On meta tensors only the first turn, since the others start the same kernels.
    """
    per_row = arrays * tree.size * rows.dtype.itemsize
    turn = max(1, _SCRATCH_BYTES // per_row)
    turns = range(0, rows.count, turn)
    for first in turns[:1] if rows.logits.is_meta else turns:
        yield slice(first, min(first + turn, rows.count))


def _run(
    kernel: object,
    trees: tuple[Tensor | None, ...],
    tree: Tree,
    levels: range,
    rows: Rows,
    log: bool,
) -> None:
    values = trees[0]
    assert values is not None
    count = values.shape[0]
    share = tree_share(count, max(tree.n * 2, 1))
    programs = cdiv(count, share.group) * share.parts
    shape = (tree.n, tree.most, tree.size, count, share.group, share.parts)
    # One program per row: all levels in a launch. Otherwise the programs meet after each level.
    steps = [levels] if share.parts == 1 else [range(level, level + 1) for level in levels]
    for step in steps if levels else []:
        launch(
            kernel,
            programs,
            *trees,
            *shape,
            step[0],
            step[-1],
            num_warps=TREE_TILE.num_warps,
            LOG=log,
            A=TREE_TILE.rows,
            J=TREE_TILE.items,
            DTYPE=rows.tl_dtype,
        )


def climb(
    tree: Tree, values: Tensor, tangents: Tensor | None, last_level: int, rows: Rows, *, log: bool
) -> None:
    """Levels 1 to ``last_level`` of ``values`` (and ``tangents``) [rows, size] from the leaves.

    Args:
        tree: their shape.
        values: probabilities, or logarithms of them.
        tangents: None for the algebras without them.
        last_level: nothing to do where that is 0.
        rows: for the dtype.
        log: the algebra of logarithms.
    """
    _run(tree_up_kernel, (values, tangents), tree, range(1, last_level + 1), rows, log)


def descend(
    tree: Tree,
    values: Tensor,
    tangents: Tensor | None,
    adjoints: Tensor,
    adjoint_tangents: Tensor | None,
    first_level: int,
    rows: Rows,
    *,
    log: bool,
) -> None:
    """Adjoints of the levels below ``first_level``, down to the leaves, from those at it.

    Args: as for ``climb``.
    """
    trees = (values, tangents, adjoints, adjoint_tangents)
    _run(tree_down_kernel, trees, tree, range(first_level - 1, -1, -1), rows, log)
