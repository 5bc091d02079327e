# SPDX-License-Identifier: Apache-2.0
"""A balanced tree over the items of a row: products of polynomials upwards, derivatives downwards.

Node h of level l holds the law of the number of counted items among items h 2^l to (h + 1) 2^l - 1,
cut off at degree ``most``: min(2^l, most) + 1 coefficients. A level has cdiv(n, 2^l) nodes; the
last may lack a sibling, whose place the constant 1 takes. A row's levels follow each other in
memory, leaves first: a "tree" is an array [rows, size] of them.

One pair of kernels serves four algebras: probabilities or their logarithms (LOG), and each with a
tangent (where the pointers of tangents are given). Adjoints are linear in all of them.

A program has the rows of its group to itself and climbs or descends several levels, with a barrier
after each; or ``parts`` programs share one row, and each launch does a single level.
"""

import triton
import triton.language as tl

__all__ = ["level_start", "log_sum_step", "tree_down_kernel", "tree_up_kernel"]


@triton.jit
def level_start(level, n, most):
    """(offset in the row's tree, number of nodes, coefficients of a node) of a level."""
    offset = tl.cast(0, tl.int64)
    nodes = tl.cast(n, tl.int32)
    width = tl.cast(1, tl.int32)
    climbed = 0
    while climbed < level:
        offset += tl.cast(nodes, tl.int64) * (tl.minimum(width, most) + 1)
        nodes = (nodes + 1) // 2
        width = width * 2
        climbed += 1
    return offset, nodes, tl.minimum(width, most) + 1


@triton.jit
def log_sum_step(largest, terms, AXIS: tl.constexpr):
    """A block of terms joins a running sum of exponentials.

    Returns (the new largest term, the factor for what has been summed so far, the terms'
    exponentials relative to the new largest term). A largest term of -inf stands for an empty sum.
    """
    grown = tl.maximum(largest, tl.max(terms, axis=AXIS))
    shift = tl.where(grown == float("-inf"), 0.0, grown)
    return grown, tl.exp(largest - shift), tl.exp(terms - tl.expand_dims(shift, AXIS))


@triton.jit(
    do_not_specialize=["n", "most", "size", "rows", "group", "parts", "first_level", "last_level"]
)
def tree_up_kernel(
    values,
    tangents,
    n,
    most,
    size,
    rows,
    group,
    parts,
    first_level,
    last_level,
    LOG: tl.constexpr,
    A: tl.constexpr,
    J: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Levels first_level (at least 1) to last_level from the ones below them.

    A tile is J coefficients, of any nodes and rows of the group; A terms of each are summed at a
    time.
    """
    ZERO: tl.constexpr = float("-inf") if LOG else 0.0
    ONE: tl.constexpr = 0.0 if LOG else 1.0
    unit = tl.program_id(0) // parts
    part = tl.program_id(0) - unit * parts
    first_row = tl.cast(unit, tl.int64) * group
    members = tl.minimum(tl.cast(rows - first_row, tl.int32), group)
    level = tl.cast(first_level, tl.int32)
    below_offset, below_nodes, below_stride = level_start(level - 1, n, most)
    while level <= last_level:
        offset, nodes, stride = level_start(level, n, most)
        # Offsets inside a level fit 32 bits; those of rows and levels may not.
        below = first_row * size + below_offset
        here = first_row * size + offset
        per_row = nodes * stride
        start = part * J
        while start < members * per_row:
            index = start + tl.arange(0, J)
            inside = index < members * per_row
            member = index // per_row
            node = (index - member * per_row) // stride
            j = index - member * per_row - node * stride
            left = member * size + 2 * node * below_stride
            alone = 2 * node + 1 >= below_nodes
            # Terms a = begin .. end - 1 of some coefficient of the tile.
            end = tl.minimum(tl.max(tl.where(inside, j, 0), axis=0) + 1, below_stride)
            begin = tl.min(tl.where(inside, j, stride), axis=0) - (below_stride - 1)
            begin = tl.maximum(begin, 0)
            largest = tl.full([J], float("-inf"), DTYPE)
            total = tl.full([J], 0.0, DTYPE)
            slope = tl.full([J], 0.0, DTYPE)
            while begin < end:
                a = begin + tl.arange(0, A)[:, None]
                b = j[None, :] - a
                there = inside[None, :] & (a < below_stride) & (b >= 0) & (b < below_stride)
                paired = there & (alone[None, :] == 0)
                at_left = left[None, :] + a
                at_right = left[None, :] + below_stride + b
                of_left = tl.load(values + below + at_left, mask=there, other=ZERO)
                of_right = tl.load(values + below + at_right, mask=paired, other=ZERO)
                of_right = tl.where(alone[None, :] & (b == 0), ONE, of_right)
                if LOG:
                    largest, rescale, terms = log_sum_step(largest, of_left + of_right, 0)
                    total = total * rescale + tl.sum(terms, axis=0)
                else:
                    terms = of_left * of_right
                    total += tl.sum(terms, axis=0)
                if tangents is not None:
                    d_left = tl.load(tangents + below + at_left, mask=there, other=0.0)
                    d_right = tl.load(tangents + below + at_right, mask=paired, other=0.0)
                    if LOG:
                        slope = slope * rescale + tl.sum(terms * (d_left + d_right), axis=0)
                    else:
                        slope += tl.sum(of_left * d_right + d_left * of_right, axis=0)
                begin += A
            to = member * size + node * stride + j
            if LOG:
                empty = total == 0.0  # not where it is NaN
                total = tl.where(empty, 1.0, total)
                tl.store(values + here + to, tl.log(total) + largest, mask=inside)
                if tangents is not None:
                    slope = tl.where(empty, 0.0, slope / total)
            else:
                tl.store(values + here + to, total, mask=inside)
            if tangents is not None:
                tl.store(tangents + here + to, slope, mask=inside)
            start += parts * J
        tl.debug_barrier()
        below_offset = offset
        below_nodes = nodes
        below_stride = stride
        level += 1


@triton.jit(
    do_not_specialize=["n", "most", "size", "rows", "group", "parts", "first_level", "last_level"]
)
def tree_down_kernel(
    values,
    tangents,
    adjoints,
    adjoint_tangents,
    n,
    most,
    size,
    rows,
    group,
    parts,
    first_level,
    last_level,
    LOG: tl.constexpr,
    A: tl.constexpr,
    J: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Adjoints of levels first_level (the higher one) down to last_level from the ones above them.

    The adjoint of a node's a-th coefficient is the sum over b of the parent's adjoint at a + b
    times the sibling's b-th coefficient. In the log algebra that product is the posterior
    probability of the split, exp(child + sibling - parent): never above 1.
    """
    unit = tl.program_id(0) // parts
    part = tl.program_id(0) - unit * parts
    first_row = tl.cast(unit, tl.int64) * group
    members = tl.minimum(tl.cast(rows - first_row, tl.int32), group)
    level = tl.cast(first_level, tl.int32)
    while level >= last_level:
        offset, nodes, stride = level_start(level, n, most)
        above_offset, _, above_stride = level_start(level + 1, n, most)
        here = first_row * size + offset
        over = first_row * size + above_offset
        per_row = nodes * stride
        start = part * J
        while start < members * per_row:
            index = start + tl.arange(0, J)
            inside = index < members * per_row
            member = index // per_row
            node = (index - member * per_row) // stride
            a = index - member * per_row - node * stride
            itself = member * size + node * stride + a
            sibling = member * size + (node ^ 1) * stride
            alone = (node ^ 1) >= nodes
            above = member * size + (node // 2) * above_stride + a
            if LOG:
                value = tl.load(values + here + itself, mask=inside, other=float("-inf"))
                if tangents is not None:
                    d_value = tl.load(tangents + here + itself, mask=inside, other=0.0)
            end = above_stride - tl.min(tl.where(inside, a, above_stride), axis=0)
            end = tl.minimum(end, stride)
            total = tl.full([J], 0.0, DTYPE)
            slope = tl.full([J], 0.0, DTYPE)
            begin = tl.cast(0, tl.int32)
            while begin < end:
                b = begin + tl.arange(0, A)[:, None]
                there = inside[None, :] & (b < stride) & (a[None, :] + b < above_stride)
                there = there & ((alone[None, :] == 0) | (b == 0))
                paired = there & (alone[None, :] == 0)
                at_above = above[None, :] + b
                at_sibling = sibling[None, :] + b
                adjoint = tl.load(adjoints + over + at_above, mask=there, other=0.0)
                if LOG:
                    product = tl.load(values + over + at_above, mask=there, other=float("-inf"))
                    other = tl.load(values + here + at_sibling, mask=paired, other=0.0)
                    possible = product != float("-inf")
                    exponent = value[None, :] + other - tl.where(possible, product, 0.0)
                    weight = tl.exp(tl.where(possible, exponent, float("-inf")))
                else:
                    other = tl.load(values + here + at_sibling, mask=paired, other=1.0)
                    weight = tl.where(there, other, 0.0)
                terms = adjoint * weight
                total += tl.sum(terms, axis=0)
                if tangents is not None:
                    d_adjoint = tl.load(adjoint_tangents + over + at_above, mask=there, other=0.0)
                    d_other = tl.load(tangents + here + at_sibling, mask=paired, other=0.0)
                    if LOG:
                        d_product = tl.load(tangents + over + at_above, mask=there, other=0.0)
                        change = terms * (d_value[None, :] + d_other - d_product)
                    else:
                        change = adjoint * d_other
                    slope += tl.sum(change + d_adjoint * weight, axis=0)
                begin += A
            tl.store(adjoints + here + itself, total, mask=inside)
            if tangents is not None:
                tl.store(adjoint_tangents + here + itself, slope, mask=inside)
            start += parts * J
        tl.debug_barrier()
        level -= 1
