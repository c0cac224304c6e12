"""Kernels for rows too long for a tile: blocks are summarised, then the row is finished block by block.

Few rows are taken by a program for each block, in two launches; many by a program for each row, in `long_rows`, which
calls the same functions, so that a row has the same bits either way.
"""

import triton
import triton.language as tl

from softhead.kernels.triton.arithmetic import (
    exp,
    finite_low,
    log1p,
    lse,
    row_loss,
    scale_of,
    shifted,
    sum_of_rest,
    weighted_sum,
    wide,
)


@triton.jit
def block_of(x, block, n_columns, B: tl.constexpr, AGAIN: tl.constexpr = False):
    """Return the columns of a block of a row, which of them there are, and their values, that may be read AGAIN."""
    columns = tl.cast(block, tl.int64) * B + tl.arange(0, B)
    mask = columns < n_columns
    policy: tl.constexpr = "evict_last" if AGAIN else "evict_first"
    return columns, mask, tl.load(x + columns, mask=mask, other=-float("inf"), eviction_policy=policy).to(tl.float32)


@triton.jit
def summary(v, rate, rate_low, EXACT: tl.constexpr, TEMPERED: tl.constexpr):
    """Return a block's maximum and, in float64, the sum of its other exponentials: 0 if all are masked."""
    m = tl.max(v, axis=0)
    top = tl.where(m == -float("inf"), 0.0, m)  # so that these are 0
    high, low = shifted(v, top, rate, rate_low, EXACT, TEMPERED)
    e = exp(high, low, EXACT)
    rest = sum_of_rest(e[None, :], v[None, :], tl.full((1,), 1.0, tl.float32) * top, EXACT)
    return m, tl.sum(tl.where(m == -float("inf"), 0.0, rest), axis=0)


@triton.jit
def block_total(weight, v, columns, mask, WEIGHTED: tl.constexpr, B: tl.constexpr):
    """Return, in float64, the sum of a block's logits by the weights of their classes."""
    w = tl.full((B,), 1.0, tl.float32)
    if WEIGHTED:
        w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    return tl.sum(weighted_sum(v[None, :], w, mask[None, :]), axis=0)


@triton.jit
def joined(ms, rs, there, rate):
    """Return a row's maximum and the sum of its other exponentials, from those of its blocks in their order."""
    m = tl.max(ms, axis=0)
    top = (ms == m) & there
    factors = tl.where(ms == -float("inf"), 0.0, tl.exp((ms.to(tl.float64) - m.to(tl.float64)) * rate))
    factors = tl.where(tl.abs(m) == float("inf"), float("nan"), factors)
    rest = tl.sum(tl.where(top, rs, factors * (1.0 + rs)), axis=0) + (tl.sum(top.to(tl.int32), axis=0) - 1)
    return m, rest + tl.sum(rs - rs, axis=0)  # NaN of one block is that of the row


@triton.jit
def combined(maxima, rests, row, n_blocks, rate, NB: tl.constexpr):
    """Return what `joined` does of summaries in memory."""
    blocks = tl.arange(0, NB)
    there = blocks < n_blocks
    ms = tl.load(maxima + row * n_blocks + blocks, mask=there, other=-float("inf"))
    rs = tl.load(rests + row * n_blocks + blocks, mask=there, other=0.0)
    return joined(ms, rs, there, rate)


@triton.jit
def mapped(v, m, rest, rate, rate_low, LOG: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr):
    """Return the softmax of a block, or its logarithm."""
    high, low = shifted(v, m, rate, rate_low, EXACT, TEMPERED)
    inverse = 1.0 / (1.0 + rest)
    if LOG:
        return (high - log1p(rest, inverse).to(tl.float32)) + finite_low(high, low)
    return exp(high, low, EXACT) * inverse.to(tl.float32)


@triton.jit
def class_weight(weight, y, n_columns, WEIGHTED: tl.constexpr):
    """Return the weight of a row's class in float64, NaN where there is no such class."""
    possible = (y >= 0) & (y < n_columns)
    w_y = tl.full((), 1.0, tl.float64)
    if WEIGHTED:
        w_y = tl.load(weight + y, mask=possible, other=0.0).to(tl.float64)
    return tl.where(possible, w_y, float("nan"))


@triton.jit
def gradient_of(
    v, columns, mask, y, m, factor, own, weight, taken, rate, rate_low,
    WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Return the gradient of a block."""
    high, low = shifted(v, m, rate, rate_low, EXACT, TEMPERED)
    result = exp(high, low, EXACT) * factor.to(tl.float32)
    if SMOOTH:
        w = tl.full((B,), 1.0, tl.float32)
        if WEIGHTED:
            w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
        result -= taken * w
    return tl.where(columns == y, own.to(tl.float32), result)


@triton.jit
def summarise_blocks(
    x, labels, weight, maxima, rests, totals, picked,
    n_columns, x_stride, ignored, rate, rate_low,
    LOSS: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    """Write a block's maximum, the sum of its other exponentials, and the logit of its row's class if it is here."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    counts = True
    if LOSS:
        y = tl.load(labels + row).to(tl.int64)
        counts = y != ignored
    if counts:
        columns, mask, v = block_of(x + row * x_stride, block, n_columns, B, True)
        m, rest = summary(v, rate, rate_low, EXACT, TEMPERED)
        place = row * tl.num_programs(1) + block
        tl.store(maxima + place, m)
        tl.store(rests + place, rest)
        if LOSS:
            if SMOOTH:
                tl.store(totals + place, block_total(weight, v, columns, mask, WEIGHTED, B))
            if (y >= 0) & (y < n_columns) & (y // B == block):
                tl.store(picked + row, tl.load(x + row * x_stride + y).to(tl.float32))


@triton.jit
def map_blocks(
    x, out, maxima, rests, n_columns, x_stride, out_stride, rate, rate_low,
    LOG: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write the softmax of a block of a row, or its logarithm."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, rest = combined(maxima, rests, row, tl.num_programs(1), wide(rate, rate_low), NB)
    columns, mask, v = block_of(x + row * x_stride, block, n_columns, B)
    result = mapped(v, m, rest, rate, rate_low, LOG, EXACT, TEMPERED)
    tl.store(
        out + row * out_stride + columns, result.to(out.dtype.element_ty), mask=mask, eviction_policy="evict_first"
    )


@triton.jit
def normalise_blocks(out, maxima, rests, n_blocks, rate, rate_low, NB: tl.constexpr):
    """Write the log-sum-exp of a row of blocks."""
    row = tl.program_id(0).to(tl.int64)
    m, rest = combined(maxima, rests, row, n_blocks, wide(rate, rate_low), NB)
    tl.store(out + row, lse(m, rest, rate, rate_low).to(out.dtype.element_ty))


@triton.jit
def cross_entropy_blocks(
    x, labels, weight, mass, scale, losses, gradient,
    maxima, rests, totals, picked,
    n_columns, x_stride, gradient_stride, ignored,
    smoothing, z_loss, rate, rate_low,
    GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, PULL: tl.constexpr, EXACT: tl.constexpr,
    TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write a row's loss, in its first block, and the gradient of a block."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n_blocks = tl.num_programs(1)
    y = tl.load(labels + row).to(tl.int64)
    if y == ignored:
        if block == 0:
            tl.store(losses + row, tl.zeros((), losses.dtype.element_ty))
        if GRADIENT:
            columns = block.to(tl.int64) * B + tl.arange(0, B)
            zeros = tl.zeros((B,), gradient.dtype.element_ty)
            tl.store(gradient + row * gradient_stride + columns, zeros, mask=columns < n_columns)
    else:
        m, rest = combined(maxima, rests, row, n_blocks, wide(rate, rate_low), NB)
        total = tl.full((), 0.0, tl.float64)
        if SMOOTH:
            blocks = tl.arange(0, NB)
            total = tl.sum(tl.load(totals + row * n_blocks + blocks, mask=blocks < n_blocks, other=0.0), axis=0)
        by = scale_of(scale)
        loss, factor, own = row_loss(
            m, rest, tl.load(picked + row), class_weight(weight, y, n_columns, WEIGHTED), total, tl.load(mass),
            n_columns, smoothing, z_loss, rate, rate_low, by, SMOOTH, PULL, EXACT, TEMPERED,
        )  # fmt: skip
        if block == 0:
            tl.store(losses + row, loss.to(losses.dtype.element_ty))
        if GRADIENT:
            columns, mask, v = block_of(x + row * x_stride, block, n_columns, B)
            result = gradient_of(
                v, columns, mask, y, m, factor, own, weight, smoothing / n_columns * by.to(tl.float32) * rate, rate,
                rate_low, WEIGHTED, SMOOTH, EXACT, TEMPERED, B,
            )  # fmt: skip
            place = gradient + row * gradient_stride + columns
            tl.store(place, result.to(gradient.dtype.element_ty), mask=mask, eviction_policy="evict_first")
