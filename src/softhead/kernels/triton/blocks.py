"""Kernels for rows too long for a tile: blocks are summarised, then the row is finished block by block."""

import triton
import triton.language as tl

from softhead.kernels.triton.arithmetic import (
    exp,
    finite_low,
    log1p,
    lse,
    row_loss,
    shifted,
    sum_of_rest,
    weighted_sum,
    wide,
)


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
        columns = block.to(tl.int64) * B + tl.arange(0, B)
        mask = columns < n_columns
        v = tl.load(x + row * x_stride + columns, mask=mask, other=-float("inf")).to(tl.float32)
        m = tl.max(v, axis=0)
        top = tl.where(m == -float("inf"), 0.0, m)  # exponentials of a block that is masked are 0
        high, low = shifted(v, top, rate, rate_low, EXACT, TEMPERED)
        e = exp(high, low, EXACT)
        rest = sum_of_rest(e[None, :], v[None, :], tl.full((1,), 1.0, tl.float32) * top, EXACT)
        place = row * tl.num_programs(1) + block
        tl.store(maxima + place, m)
        tl.store(rests + place + tl.arange(0, 1), tl.where(m == -float("inf"), tl.sum(e, axis=0).to(tl.float64), rest))
        if LOSS:
            if SMOOTH:
                w = tl.full((B,), 1.0, tl.float32)
                if WEIGHTED:
                    w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
                tl.store(totals + place + tl.arange(0, 1), weighted_sum(v[None, :], w, mask[None, :]))
            if (y >= 0) & (y < n_columns) & (y // B == block):
                tl.store(picked + row, tl.load(x + row * x_stride + y).to(tl.float32))


@triton.jit
def combined(maxima, rests, row, n_blocks, rate, NB: tl.constexpr):
    """Return a row's maximum and the sum of its other exponentials, from those of its blocks in their order."""
    blocks = tl.arange(0, NB)
    there = blocks < n_blocks
    ms = tl.load(maxima + row * n_blocks + blocks, mask=there, other=-float("inf"))
    rs = tl.load(rests + row * n_blocks + blocks, mask=there, other=0.0)
    m = tl.max(ms, axis=0)
    top = (ms == m) & there
    factors = tl.where(ms == -float("inf"), 0.0, tl.exp((ms.to(tl.float64) - m.to(tl.float64)) * rate))
    factors = tl.where(tl.abs(m) == float("inf"), float("nan"), factors)
    rest = tl.sum(tl.where(top, rs, factors * (1.0 + rs)), axis=0) + (tl.sum(top.to(tl.int32), axis=0) - 1)
    return m, rest + tl.sum(rs - rs, axis=0)  # NaN of one block is that of the row


@triton.jit
def map_blocks(
    x, out, maxima, rests, n_columns, x_stride, out_stride, rate, rate_low,
    LOG: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write the softmax of a block of a row, or its logarithm."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, rest = combined(maxima, rests, row, tl.num_programs(1), wide(rate, rate_low), NB)
    columns = block.to(tl.int64) * B + tl.arange(0, B)
    mask = columns < n_columns
    v = tl.load(x + row * x_stride + columns, mask=mask, other=-float("inf")).to(tl.float32)
    high, low = shifted(v, m, rate, rate_low, EXACT, TEMPERED)
    if LOG:
        result = (high - log1p(rest, 1.0 / (1.0 + rest)).to(tl.float32)) + finite_low(high, low)
    else:
        result = exp(high, low, EXACT) * (1.0 / (1.0 + rest)).to(tl.float32)
    tl.store(out + row * out_stride + columns, result.to(out.dtype.element_ty), mask=mask)


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
    columns = block.to(tl.int64) * B + tl.arange(0, B)
    mask = columns < n_columns
    place = gradient + row * gradient_stride + columns
    if y == ignored:
        if block == 0:
            tl.store(losses + row, tl.zeros((), losses.dtype.element_ty))
        if GRADIENT:
            tl.store(place, tl.zeros((B,), gradient.dtype.element_ty), mask=mask)
    else:
        m, rest = combined(maxima, rests, row, n_blocks, wide(rate, rate_low), NB)
        w_y = tl.full((), 1.0, tl.float64)
        w = tl.full((B,), 1.0, tl.float32)
        total = tl.full((), 0.0, tl.float64)
        possible = (y >= 0) & (y < n_columns)
        if WEIGHTED:
            w_y = tl.load(weight + y, mask=possible, other=0.0).to(tl.float64)
        w_y = tl.where(possible, w_y, float("nan"))
        if SMOOTH:
            blocks = tl.arange(0, NB)
            total = tl.sum(tl.load(totals + row * n_blocks + blocks, mask=blocks < n_blocks, other=0.0), axis=0)
            if WEIGHTED:
                w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
        loss, factor, own = row_loss(
            m, rest, tl.load(picked + row), w_y, total, tl.load(mass), n_columns, smoothing, z_loss, rate, rate_low,
            tl.load(scale), SMOOTH, PULL, EXACT, TEMPERED,
        )  # fmt: skip
        if block == 0:
            tl.store(losses + row, loss.to(losses.dtype.element_ty))
        if GRADIENT:
            v = tl.load(x + row * x_stride + columns, mask=mask, other=-float("inf")).to(tl.float32)
            high, low = shifted(v, m, rate, rate_low, EXACT, TEMPERED)
            result = exp(high, low, EXACT) * factor.to(tl.float32)
            if SMOOTH:
                result -= smoothing / n_columns * tl.load(scale).to(tl.float32) * rate * w
            result = tl.where(columns == y, own.to(tl.float32), result)
            tl.store(place, result.to(gradient.dtype.element_ty), mask=mask)
