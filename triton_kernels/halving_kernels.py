# SPDX-License-Identifier: Apache-2.0
"""Exact sampling of long rows by halving with rejection (csrc/cpu/simd/sample_halving.h).

The items at hand fall into two interleaved halves A and B. Independent draws of A with sum x are
accepted with probability P_B(j - x) / max P_B, which makes them draws of A given the total j. A is
kept, and B is next with what is left of j, until at most 64 items are left for the tree.

The items of a level lie in the row itself, at ``offset`` + ``step`` * position with step = 2^level:
nothing is copied, each pass reads its items again, from the cache, and makes their tails anew, and
the draws of A go straight to the output. Beside it there is a record of the first level for each
row, which all its samples share, and 16 bytes a draw for what is left to the tree.

What this costs: a sector of 32 bytes holds 8 / step items of a level, so that the first levels each
read all sectors of the row, and a draw moves four rows through the cache where packed halves would
move two. And one program makes a draw from first to last: a single long row is drawn by a single
multiprocessor, in a time that grows with n, and only many draws fill the device.
"""

import triton
import triton.language as tl

from .device_math import complex_product, is_negative, multiply_minus_1, sin_cos_pi
from .philox import (
    ACCEPTANCE,
    ITEM_DRAW,
    philox_tag,
    philox_uniform,
    philox_words,
    uniform_from_bits,
)
from .tilt import (
    INVALID,
    MAX_STEPS,
    ORDINARY,
    row_kind,
    tails_at,
    tilt_first_guess,
    tilt_is_good,
    tilt_step,
)
from .tree_sampling_kernels import (
    build_tree,
    certain_items,
    draw_from_tree,
    solve_small_rows,
    store_items,
)

__all__ = [
    "RECORD_WIDTH",
    "halving_finish_kernel",
    "halving_prepare_kernel",
    "halving_sample_kernel",
]

# What is kept of the first level of a row: ten numbers, and the products of B.
RECORD_WIDTH = 10 + 2 * 34

TREE_ITEMS: tl.constexpr = tl.constexpr(64)
# Close to the tilt at which sum q is the target, since draws are compared with q itself: backends
# agree only if they agree on q.
TOLERANCE: tl.constexpr = tl.constexpr(1e-3)
# A half takes more than its share of the variance only up to this factor, or it becomes B: this
# bounds the rejections where all uncertain items have positions of one parity.
VARIANCE_IMBALANCE: tl.constexpr = tl.constexpr(2.0)
MAX_REJECTIONS: tl.constexpr = tl.constexpr(65536)
# Nodes kept of the law of B, which is read as far out as the whole row varies: 34 at most.
MOST_NODES: tl.constexpr = tl.constexpr(34)
NODES: tl.constexpr = tl.constexpr(64)


@triton.jit
def pick(pair, index):
    """Element ``index`` of a block [2]."""
    return tl.sum(tl.where(tl.arange(0, 2) == index, pair, 0), axis=0)


@triton.jit
def load_pairs(items, step, first, m, H: tl.constexpr, DTYPE: tl.constexpr):
    """Logits [2, H] by parity from item ``first`` of each half on; -inf from m on."""
    position = 2 * (first + tl.arange(0, H))[None, :] + tl.arange(0, 2)[:, None]
    theta = tl.load(items + position * step, mask=position < m, other=float("-inf"))
    return theta.to(DTYPE)


@triton.jit
def load_half(items, step, parity, first, m, H: tl.constexpr, DTYPE: tl.constexpr):
    """(logits, offsets, inside) [H] of one half from its item ``first`` on; -inf from m on."""
    position = 2 * (first + tl.arange(0, H)) + parity
    offset = position * step
    theta = tl.load(items + offset, mask=position < m, other=float("-inf"))
    return theta.to(DTYPE), offset, position < m


@triton.jit
def tail_of(theta, s):
    """min(q, p) at the tilt s, and whether q > 1/2."""
    x = theta + s
    e = tl.exp(tl.where(x > 0, 0.0 - x, x))
    return e / (1.0 + e), x > 0


@triton.jit
def summarize(items, step, m, H: tl.constexpr, DTYPE: tl.constexpr):
    """(live [2], forced [2], has NaN, smallest, largest, mean, variance) of a level's items.

    The first two by parity. Mean and variance are only a first guess for the tilt; they are taken
    about an item of the row, so that a common shift costs nothing.
    """
    infinity = float("inf")
    theta = load_pairs(items, step, 0, m, H, DTYPE)
    origin = tl.max(tl.max(tl.where(theta < infinity, theta, -infinity), axis=1), axis=0)
    origin = tl.where(origin > -infinity, origin, 0.0)
    live = tl.zeros([2, H], tl.int32)
    forced = tl.zeros([2, H], tl.int32)
    nan = tl.zeros([2, H], tl.int32)
    least = tl.full([2, H], infinity, DTYPE)
    most = tl.full([2, H], -infinity, DTYPE)
    total = tl.zeros([2, H], DTYPE)
    square = tl.zeros([2, H], DTYPE)
    first = 0
    while 2 * first < m:
        theta = load_pairs(items, step, first, m, H, DTYPE)
        finite = (theta > -infinity) & (theta < infinity)
        away = tl.where(finite, theta - origin, 0.0)
        live += finite.to(tl.int32)
        forced += (theta == infinity).to(tl.int32)
        nan += (theta != theta).to(tl.int32)
        least = tl.minimum(least, tl.where(finite, theta, infinity))
        most = tl.maximum(most, tl.where(finite, theta, -infinity))
        total += away
        square += away * away
        first += H
    live = tl.sum(live, axis=1)
    count = tl.maximum(tl.sum(live, axis=0), 1).to(DTYPE)
    shift = tl.sum(tl.sum(total, axis=1), axis=0) / count
    smallest = tl.min(tl.min(least, axis=1), axis=0)
    largest = tl.max(tl.max(most, axis=1), axis=0)
    # Overflowing sums must not spoil the guess, which the bracket then bounds.
    mean = origin + shift
    sound = (mean >= smallest) & (mean <= largest)
    mean = tl.where(sound, mean, 0.5 * smallest + 0.5 * largest)
    variance = tl.sum(tl.sum(square, axis=1), axis=0) / count - shift * shift
    variance = tl.where((variance >= 0) & (variance < 1e30), variance, 0.0)
    has_nan = tl.sum(tl.sum(nan, axis=1), axis=0) > 0
    return live, tl.sum(forced, axis=1), has_nan, smallest, largest, mean, variance


@triton.jit
def sum_level(items, step, m, s, H: tl.constexpr, DTYPE: tl.constexpr):
    """(excess, V, items with q > 1/2) at the tilt s, each [2] by parity; sum q = above + excess.

    Summed place by place, so that a block costs no reduction; the excess at last in float64.
    """
    excess = tl.zeros([2, H], DTYPE)
    variance = tl.zeros([2, H], DTYPE)
    above = tl.zeros([2, H], tl.int32)
    tilts = tl.zeros([2], DTYPE) + s
    first = 0
    while 2 * first < m:
        tails = tails_at(load_pairs(items, step, first, m, H, DTYPE), tilts)
        w = tl.abs(tails)
        excess += tails
        variance += w * (1.0 - w)
        above += is_negative(tails).to(tl.int32)
        first += H
    excess = tl.sum(excess.to(tl.float64), axis=1)
    return excess, tl.sum(variance, axis=1), tl.sum(above, axis=1)


@triton.jit
def law_of_half(items, step, parity, m, s, total, kept, H: tl.constexpr, DTYPE: tl.constexpr):
    """Products of the tail factors of one half at the nodes 1 .. ``kept``, [NODES] float64."""
    node = tl.arange(0, NODES)
    product_re = tl.full([NODES], 1.0, tl.float64)
    product_im = tl.zeros([NODES], tl.float64)
    first = 0
    while 2 * first + parity < m:
        theta, _, _ = load_half(items, step, parity, first, m, H, DTYPE)
        w, is_above = tail_of(theta, s)
        block_re = tl.zeros([NODES], tl.float64)
        block_im = tl.zeros([NODES], tl.float64)
        index = 0
        while index < kept:
            sine, cosine = sin_cos_pi(index + 1, total, DTYPE)
            factor_im = w * (2.0 * sine * cosine)
            re, im = tl.reduce(
                (w * (-2.0 * sine * sine), tl.where(is_above, 0.0 - factor_im, factor_im)),
                0,
                multiply_minus_1,
            )
            block_re = tl.where(node == index, re.to(tl.float64), block_re)
            block_im = tl.where(node == index, im.to(tl.float64), block_im)
            index += 1
        product_re, product_im = complex_product(product_re, product_im, 1.0 + block_re, block_im)
        first += H
    return product_re, product_im


@triton.jit
def probability(count, law, DTYPE: tl.constexpr):
    """P(sum of B = count) by the contour; 0 where B cannot have that many."""
    product_re, product_im, above, total, kept, live, forced = law
    node = tl.arange(0, NODES)
    turns = (above - count) % total
    turns = tl.where(turns < 0, turns + total, turns)
    turns = turns * (node + 1) % total  # a multiple of t_1, exact in integers
    beyond = 2 * turns > total
    sine, cosine = sin_cos_pi(2 * tl.where(beyond, total - turns, turns), total, DTYPE)
    sine = tl.where(beyond, 0.0 - sine, sine)
    term = product_re.to(DTYPE) * cosine - product_im.to(DTYPE) * sine
    sum_re = 1.0 + 2.0 * tl.sum(tl.where(node < kept, term, 0.0), axis=0)
    possible = (count >= forced) & (count <= forced + live) & (sum_re > 0)
    return tl.where(possible, sum_re / total.to(DTYPE), 0.0)


@triton.jit
def prepare(items, step, m, k, H: tl.constexpr, DTYPE: tl.constexpr):
    """One level: its kind, its tilt for the target k, its halves, and the law of the sum of B.

    Returns (kind, target, s, parity of A, law of B, its largest probability). A law is (products,
    real and imaginary, items with q > 1/2, M, nodes kept, live items, forced items).
    """
    SLOPE: tl.constexpr = 6.0 if DTYPE == tl.float32 else 8.0
    OFFSET: tl.constexpr = 4.0 if DTYPE == tl.float32 else 9.0
    EXPONENT: tl.constexpr = 18.0 if DTYPE == tl.float32 else 37.0
    live, forced, has_nan, smallest, largest, mean, spread = summarize(items, step, m, H, DTYPE)
    live_all = tl.sum(live, axis=0)
    forced_all = tl.sum(forced, axis=0)
    kind, chosen = row_kind(live_all, forced_all, has_nan, k)
    ordinary = kind == ORDINARY
    m = tl.where(ordinary, m, 0)  # nothing more to do for the others
    live_all = tl.where(ordinary, live_all, 2)
    chosen = tl.where(ordinary, chosen, 1)
    target = forced_all + chosen

    # Newton's method as in csrc/cpu/simd/contour_solve.h, with one more step after the tolerance is
    # met, which squares what is left of the error, unless that is within the square already.
    value, lower, upper, logit = tilt_first_guess(live_all, chosen, smallest, largest, mean, spread)
    s = tl.where(ordinary, value, 0.0)
    excess, variance, above = sum_level(items, step, m, s, H, DTYPE)
    searching = ordinary
    polishing = ordinary & (m < 0)
    count = 1
    while searching:
        missing = tl.sum(excess, axis=0) + (tl.sum(above, axis=0) - target).to(tl.float64)
        missing = missing.to(DTYPE)
        both = tl.sum(variance, axis=0)
        good = tilt_is_good(missing, both, TOLERANCE)
        polished = tilt_is_good(missing, both, TOLERANCE * TOLERANCE)
        done = good & (polishing | polished)
        polishing = polishing | good
        following, lower, upper = tilt_step(s, lower, upper, missing, both, chosen, live_all, logit)
        searching = (done == 0) & (following != s) & (count < MAX_STEPS)
        if searching:
            s = following
            excess, variance, above = sum_level(items, step, m, s, H, DTYPE)
        count += 1

    parity = (pick(variance, 0) > VARIANCE_IMBALANCE * pick(variance, 1)).to(tl.int32)
    other = 1 - parity
    live_b = pick(live, other)
    forced_b = pick(forced, other)
    above_b = pick(above, other)
    variance_b = pick(variance, other)
    # Where A leads, B is asked for counts as far out as the whole row varies: an alias of its own
    # peak must not be nearer than that.
    wanted = tl.ceil(SLOPE * tl.sqrt(tl.sum(variance, axis=0)) + OFFSET).to(tl.int32) | 1
    total = tl.where(ordinary, tl.minimum(wanted, (live_b + 1) | 1), 1)
    number = tl.arange(0, NODES) + 1
    sine, _ = sin_cos_pi(tl.minimum(number, total - 1), total, DTYPE)
    inside = (2 * number < total) & (number <= MOST_NODES)
    inside = inside & (2.0 * variance_b * sine * sine <= EXPONENT)
    kept = tl.sum(inside.to(tl.int32), axis=0)
    product_re, product_im = law_of_half(items, step, other, m, s, total, kept, H, DTYPE)

    law = (product_re, product_im, above_b, total, kept, live_b, forced_b)

    # The mode is one of the four integers around the mean.
    candidate = above_b + tl.floor(pick(excess, other)).to(tl.int32) - 1
    last = tl.where(ordinary, candidate + 3, candidate - 1)
    peak = tl.full([], 0.0, DTYPE)
    while candidate <= last:
        peak = tl.maximum(peak, probability(candidate, law, DTYPE))
        candidate += 1
    return kind, target, s, parity, law, peak


@triton.jit
def draw_half(
    items, to, step, parity, m, s, seed, stream, tag, H: tl.constexpr, DTYPE: tl.constexpr
):
    """Independent draws of the items of A, stored as they are made; returns their sum.

    Bernoulli(q): v < q where q <= 1/2, otherwise not (v < p), since the fine end of v is at 0.
    """
    total = 0
    first = 0
    while 2 * first + parity < m:
        words = tl.reshape(philox_words(seed, stream, tag, first, H), [H])
        theta, offset, inside = load_half(items, step, parity, first, m, H, DTYPE)
        w, is_above = tail_of(theta, s)
        taken = ((uniform_from_bits(words, DTYPE) < w) != is_above).to(tl.int32)
        total += tl.sum(taken, axis=0)
        store_items(to + offset, taken, taken < 0, inside)
        first += H
    return total


@triton.jit
def fill(items, to, step, m, kind, H: tl.constexpr, DTYPE: tl.constexpr):
    """The one possible subset of a level's items; for an invalid row its mark, everywhere."""
    first = 0
    while first < m:
        position = first + tl.arange(0, H)
        offset = position * step
        theta = tl.load(items + offset, mask=position < m, other=float("-inf")).to(DTYPE)
        taken = certain_items(theta, kind)
        store_items(to + offset, taken, (taken < 0) | (kind == INVALID), position < m)
        first += H


@triton.jit(do_not_specialize=["k", "n"])
def halving_prepare_kernel(
    logits, row_k, records, k, n, H: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr
):
    """The first level of each row, the same for all its samples, into records [rows, WIDTH]."""
    row = tl.program_id(0).to(tl.int64)
    if row_k is None:
        wanted = row * 0 + k
    else:
        wanted = tl.load(row_k + row)
    kind, target, s, parity, law, peak = prepare(logits + row * n, 1, n, wanted, H, DTYPE)
    product_re, product_im, above, total, kept, live, forced = law
    record = records + row * WIDTH
    tl.store(record, kind.to(tl.float64))
    tl.store(record + 1, target.to(tl.float64))
    tl.store(record + 2, s.to(tl.float64))
    tl.store(record + 3, parity.to(tl.float64))
    tl.store(record + 4, peak.to(tl.float64))
    tl.store(record + 5, above.to(tl.float64))
    tl.store(record + 6, total.to(tl.float64))
    tl.store(record + 7, kept.to(tl.float64))
    tl.store(record + 8, live.to(tl.float64))
    tl.store(record + 9, forced.to(tl.float64))
    node = tl.arange(0, NODES)
    tl.store(record + 10 + node, product_re, mask=node < MOST_NODES)
    tl.store(record + 10 + MOST_NODES + node, product_im, mask=node < MOST_NODES)


@triton.jit
def load_record(record, DTYPE: tl.constexpr):
    """What halving_prepare_kernel stored, as `prepare` returns it."""
    node = tl.arange(0, NODES)
    inside = node < MOST_NODES
    law = (
        tl.load(record + 10 + node, mask=inside, other=1.0),
        tl.load(record + 10 + MOST_NODES + node, mask=inside, other=0.0),
        tl.load(record + 5).to(tl.int32),
        tl.load(record + 6).to(tl.int32),
        tl.load(record + 7).to(tl.int32),
        tl.load(record + 8).to(tl.int32),
        tl.load(record + 9).to(tl.int32),
    )
    kind = tl.load(record).to(tl.int32)
    target = tl.load(record + 1).to(tl.int32)
    s = tl.load(record + 2).to(DTYPE)
    return kind, target, s, tl.load(record + 3).to(tl.int32), law, tl.load(record + 4).to(DTYPE)


@triton.jit(do_not_specialize=["n", "count"])
def halving_sample_kernel(
    logits,
    records,
    rests,
    seed,
    out,
    n,
    count,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """One sample of a row a program, k-hot, into out [samples, count, n], n > 64, until at most
    TREE_ITEMS items are left: (offset, how many, how many to take, level) in rests [samples, count,
    4], with 0 items where nothing is left to decide.
    """
    stream = tl.program_id(0).to(tl.int64)  # sample * count + row
    row = stream % count
    from_row = logits + row * n
    to_row = out + stream * n
    key = tl.load(seed)
    streams = tl.zeros([1], tl.int64) + stream
    tags = tl.zeros([1], tl.int32)
    offset = n * 0
    step = offset + 1
    m = n
    rest = n
    level = 0
    kind, target, s, parity, law, peak = load_record(records + row * WIDTH, DTYPE)
    while (kind == ORDINARY) & (m > TREE_ITEMS):
        rest = n * 0 - 1
        rejection = 0
        while (rest < 0) & (rejection < MAX_REJECTIONS):
            tag = philox_tag(ITEM_DRAW, level, rejection)
            drawn = draw_half(
                from_row + offset,
                to_row + offset,
                step,
                parity,
                m,
                s,
                key,
                streams,
                tags + tag,
                H,
                DTYPE,
            )
            chance = probability(target - drawn, law, DTYPE)
            tag = philox_tag(ACCEPTANCE, level, rejection)
            accepted = philox_uniform(key, stream, tag, DTYPE) * peak < chance
            rest = tl.where(accepted, target - drawn, -1)
            rejection += 1
        if rest < 0:
            kind = kind * 0 + INVALID
            offset = n * 0
            step = offset + 1
            m = n
        else:
            offset += (1 - parity) * step
            step = step * 2
            m = (m + parity) // 2
            level += 1
        more = (kind == ORDINARY) & (m > TREE_ITEMS)
        following, target, s, parity, law, peak = prepare(
            from_row + offset, step, tl.where(more, m, 0), rest.to(tl.int64), H, DTYPE
        )
        kind = tl.where(more, following, kind)
    if kind != ORDINARY:
        tl.debug_barrier()  # an invalid row's marks come after what was drawn of it
        fill(from_row + offset, to_row + offset, step, m, kind, H, DTYPE)
        m = 0
    at = rests + stream * 4
    tl.store(at, offset)
    tl.store(at + 1, m)
    tl.store(at + 2, rest)
    tl.store(at + 3, level)


@triton.jit(do_not_specialize=["n", "count", "streams"])
def halving_finish_kernel(
    logits, rests, seed, out, n, count, streams, R: tl.constexpr, DTYPE: tl.constexpr
):
    """The last items of R draws a program, by the tree: what halving_sample_kernel left of them."""
    LEVELS: tl.constexpr = 6
    stream = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    inside = stream < streams
    at = rests + stream * 4
    offset = tl.load(at, mask=inside, other=0)[:, None]
    m = tl.load(at + 1, mask=inside, other=0)
    target = tl.load(at + 2, mask=inside, other=0)
    level = tl.load(at + 3, mask=inside, other=0)
    step = (1 << level)[:, None]
    from_row = logits + ((stream % count) * n)[:, None]
    position = tl.arange(0, 1 << LEVELS)[None, :]
    mask = position < m[:, None]
    at = offset + position * step
    theta = tl.load(from_row + at, mask=mask, other=float("-inf")).to(DTYPE)
    kind, target, s = solve_small_rows(theta, target)
    certain = certain_items(theta, kind[:, None])

    slot = tl.arange(0, 2 << LEVELS)[None, :] // 2
    repeated = tl.load(
        from_row + offset + slot * step, mask=slot < m[:, None], other=float("-inf")
    ).to(DTYPE)
    levels = build_tree(tails_at(repeated, s), tl.max(target, axis=0), LEVELS)
    empty = (2 * m <= 1 << LEVELS).to(tl.int32)
    drawn = draw_from_tree(levels, target, tl.load(seed), stream, level, empty, LEVELS, DTYPE)
    taken = tl.where((kind == ORDINARY)[:, None], drawn, certain)
    store_items(out + (stream * n)[:, None] + at, taken, taken < 0, mask)
