# SPDX-License-Identifier: Apache-2.0
"""Every block-size rule: tiles of rows, and how a long row is shared out.

The rules depend on n, the number of rows and the dtype only, so a result does not depend on the
device. Sizes were chosen so that no variant spills on sm_80, sm_90 or sm_100 (docs/kernels.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .rows import cdiv, next_power_of_2

__all__ = [
    "Split",
    "Tile",
    "contour_tile",
    "fits_tile",
    "nodes_room",
    "split_row",
    "third_cumulant_block",
]


class Tile(NamedTuple):
    """A block [rows, items] of one program."""

    rows: int
    items: int
    num_warps: int


# Items of a row that one program keeps in registers: 8 or 2 a thread, at 16 warps.
_LONGEST = {torch.float32: 4096, torch.float64: 1024}
# Short rows share a program, up to so many items and so many rows.
_SMALL_TILE = 512
_MOST_ROWS = 32


def fits_tile(n: int, dtype: torch.dtype) -> bool:
    """Whether a row of n items is served by one program, from registers."""
    return n <= _LONGEST[dtype]


def contour_tile(n: int, dtype: torch.dtype) -> Tile:
    """The tile of the fused contour kernels."""
    items = max(next_power_of_2(n), 2)
    rows = min(max(1, _SMALL_TILE // items), _MOST_ROWS)
    # Where rows share a program, what belongs to a row takes registers too.
    if dtype == torch.float64:
        per_warp = 32
    else:
        per_warp = 128 if rows == 1 else 64
    return Tile(rows, items, min(max(rows * items // per_warp, 1), 16))


def nodes_room(dtype: torch.dtype) -> int:
    """A power of two with room for the nodes that may be kept: 11 or 22."""
    return 16 if dtype == torch.float32 else 32


class Split(NamedTuple):
    """A long row, shared out over programs that each go over their span block by block."""

    parts: int  # programs per row, a power of two
    span: int  # items of a program, a multiple of block
    block: int
    num_warps: int


# Programs of one launch: some for each multiprocessor of a large GPU.
_PROGRAMS = 2048
_MOST_PARTS = 512


def split_row(n: int, rows: int, dtype: torch.dtype) -> Split:
    """How the split contour kernels share out a row of n items."""
    block = 4096 if dtype == torch.float32 else 2048
    wanted = min(max(_PROGRAMS // max(rows, 1), 1), _MOST_PARTS, cdiv(n, block))
    parts = next_power_of_2(wanted)
    return Split(parts, cdiv(cdiv(n, parts), block) * block, block, 8)


def third_cumulant_block(n: int) -> int:
    """Items that the third cumulant's program takes at once."""
    return min(max(next_power_of_2(n), 32), 512)


class TreeShare(NamedTuple):
    """How the rows of a tree are shared out: several rows a program, or several programs a row."""

    group: int
    parts: int


# Terms that are summed at a time, and coefficients, one a thread, of one tile of the tree.
TREE_TILE = Tile(4, 512, 16)
# Programs that keep a large GPU busy.
_BUSY = 512
__all__ += ["TREE_TILE", "TreeShare", "tree_share"]


def tree_share(rows: int, coefficients: int) -> TreeShare:
    """Shares out ``rows`` trees whose levels have at most about ``coefficients`` numbers."""
    group = max(1, TREE_TILE.items // coefficients)
    if cdiv(rows, group) >= _BUSY or coefficients <= 4 * TREE_TILE.items:
        return TreeShare(group, 1)
    parts = min(cdiv(coefficients, TREE_TILE.items), cdiv(_BUSY, max(rows, 1)))
    return TreeShare(1, parts)


# Items that an elementwise kernel of the tree takes at once.
TREE_ITEMS = 512
__all__ += ["TREE_ITEMS", "join_tile", "leaves_tile", "tilt_tile"]


def _rows_tile(columns: int, elements: int, longest: int, num_warps: int) -> Tile:
    """A tile that goes over rows of ``columns`` numbers, block by block where they are longer."""
    items = min(max(next_power_of_2(columns), 2), longest)
    return Tile(max(1, elements // items), items, num_warps)


def tilt_tile(n: int, dtype: torch.dtype) -> Tile:
    """The tile that searches the tilts for trees."""
    if n > 128:
        return _rows_tile(n, 1, 1024, 8)
    return _rows_tile(n, 128, 128, 4) if dtype == torch.float32 else _rows_tile(n, 64, 64, 2)


def leaves_tile(n: int) -> Tile:
    """The tile that writes the leaves of trees."""
    return _rows_tile(n, 512, 1024, 8)


def join_tile(columns: int, dtype: torch.dtype) -> Tile:
    """The tile that joins the root's children, of ``columns`` coefficients each."""
    if dtype == torch.float32:
        return _rows_tile(columns, 512, 256, 4)
    return _rows_tile(columns, 128, 256, 4)


# Sampling. Short rows share a program until it has this many slots of the tree, two an item.
_TREE_SLOTS = 512
# Programs of one launch; with more draws than that, a program makes several of the same row.
_SAMPLING_PROGRAMS = 4096
__all__ += ["compact_tile", "halving_tile", "samples_each", "tree_sampling_tile"]


def tree_sampling_tile(n: int) -> Tile:
    """The tile of the sampler that goes by the tree."""
    items = max(next_power_of_2(n), 2)
    return Tile(max(1, _TREE_SLOTS // (2 * items)), items, 4)


def halving_tile(n: int, dtype: torch.dtype) -> Tile:
    """The block of one row that the sampler by halving goes over at a time.

    Small, since every level is half as long as the one before; one or two warps where rows are
    short. Long rows are few, so that a program has a multiprocessor to itself.
    """
    if n <= 2048:
        return Tile(1, 128, 1) if dtype == torch.float32 else Tile(1, 256, 2)
    if n <= 32768 or dtype == torch.float64:
        return Tile(1, 1024, 8)
    return Tile(1, 2048, 16)


def samples_each(num_samples: int, groups: int) -> int:
    """How many samples one program draws of each of its rows."""
    parts = max(1, min(num_samples, _SAMPLING_PROGRAMS // max(groups, 1)))
    return cdiv(num_samples, parts)


def compact_tile(n: int) -> Tile:
    """The tile of the kernel that turns k-hot bytes into indices."""
    items = min(max(next_power_of_2(n), 2), 1024)
    return Tile(max(1, 512 // items), items, 4)


# Short rows of method="linear" go through the tree in registers: the longest rows, as a power of
# two, where all rows count the same number of items and where each has its own. All loops are
# unrolled there, and rows that are longer spill.
_IN_REGISTERS = {
    # (dtype, with tangents): (the same count, a count for each row)
    (torch.float32, False): (64, 16),
    (torch.float32, True): (64, 16),
    (torch.float64, False): (32, 16),
    (torch.float64, True): (8, 8),
}
_MOST_IN_REGISTERS = 8
__all__ += ["linear_tile"]


def linear_tile(
    n: int, most: int, dtype: torch.dtype, *, same_count: bool, tangents: bool
) -> Tile | None:
    """The tile that goes through the tree in registers; None where a row is too long for that.

    Args:
        n: items.
        most: the largest degree of its polynomials.
        dtype: of the arithmetic.
        same_count: whether all rows count ``most`` items.
        tangents: whether each number has one.
    """
    items = max(next_power_of_2(n), 2)
    longest = _IN_REGISTERS[dtype, tangents][0 if same_count else 1]
    if items > longest or most > _MOST_IN_REGISTERS:
        return None
    if n % 4 != 0 and items > (32 if same_count else 4):
        return None  # no vector loads: a row is spread over threads, and its upper levels repeated
    if items > 16:
        # The last levels have few nodes, which all threads of a row hold: many rows, few threads.
        return Tile(1024 // items, items, 8)
    # A thread holds whole rows of up to four float32 items: one vector load, nothing exchanged.
    elements = 256 if dtype == torch.float64 else 512
    return Tile(elements // items, items, 4)


# Perturbed top-k: items of a row that one program keeps in registers, (dtype, two sides) -> items.
# A key is all that is kept of an item, and with two sides the sum of differences.
_LONGEST_SELECTION = {
    (torch.float32, False): 8192,
    (torch.float32, True): 4096,
    (torch.float64, False): 2048,
    (torch.float64, True): 2048,
}
_SELECTION_TILE = {torch.float32: 512, torch.float64: 256}
# Programs of one launch, and numbers of all passes that are kept at a time.
_MOST_SELECTION_PARTS = 512
_SELECTION_NUMBERS = 2**24
__all__ += ["noise_tile", "selection_tile", "selections_at_once", "split_selections"]


def noise_tile(n: int) -> Tile:
    """The tile of the kernel that only writes noise."""
    items = min(max(next_power_of_2(n), 4), 1024)
    return Tile(1024 // items, items, 4)


def selection_tile(n: int, dtype: torch.dtype, *, two_sides: bool = False) -> Tile | None:
    """The tile in whose rows the largest items are found; None where a row is too long for one.

    Short rows share a program; of a long one a thread has 8 items, or 4 of float64.
    """
    items = max(next_power_of_2(n), 4)
    if items > _LONGEST_SELECTION[dtype, two_sides]:
        return None
    rows = max(1, _SELECTION_TILE[dtype] // items)
    per_warp = _SELECTION_TILE[dtype] // (4 if rows > 1 else 2)
    return Tile(rows, items, min(max(rows * items // per_warp, 1), 16))


def split_selections(n: int, selections: int, dtype: torch.dtype) -> Split:
    """How so many selections of rows of n items are shared out."""
    block = 2048 if dtype == torch.float32 else 1024
    wanted = min(max(_PROGRAMS // max(selections, 1), 1), _MOST_SELECTION_PARTS, cdiv(n, block))
    span = cdiv(cdiv(n, wanted), block) * block
    return Split(cdiv(n, span), span, block, 8)


def selections_at_once(numbers: int) -> int:
    """How many selections are made at a time, of which each keeps so many numbers of its passes."""
    return max(1, _SELECTION_NUMBERS // numbers)
