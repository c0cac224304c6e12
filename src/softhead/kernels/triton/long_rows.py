"""Kernels for many long rows, a program for each: it reads a row twice, the second time from its end.

What was read last is read first again, so that a good part of it is still in the second-level cache. One launch takes
all rows, where two launches for every 16 MB of them would wait for the host: a launch takes it longer than the GPU
needs for as much.
"""

import triton
import triton.language as tl

from softhead.kernels.triton.arithmetic import exp, lse, row_loss, scale_of, shifted, wide
from softhead.kernels.triton.blocks import block_of, block_total, class_weight, gradient_of, joined, mapped, summary


@triton.jit
def summaries(x, n_columns, n_blocks, rate, rate_low, EXACT: tl.constexpr, TEMPERED: tl.constexpr, B, NB):
    """Return a row's maximum and the sum of its other exponentials."""
    blocks = tl.arange(0, NB)
    ms, rs = tl.full((NB,), -float("inf"), tl.float32), tl.zeros((NB,), tl.float64)
    for block in range(n_blocks):
        _, _, v = block_of(x, block, n_columns, B, True)
        m, rest = summary(v, rate, rate_low, EXACT, TEMPERED)
        ms, rs = tl.where(blocks == block, m, ms), tl.where(blocks == block, rest, rs)
    return joined(ms, rs, blocks < n_blocks, wide(rate, rate_low))


@triton.jit
def map_long_rows(
    x, out, n_columns, n_blocks, x_stride, out_stride, rate, rate_low,
    LOG: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write the softmax of a row, or its logarithm."""
    row = tl.program_id(0).to(tl.int64)
    m, rest = summaries(x + row * x_stride, n_columns, n_blocks, rate, rate_low, EXACT, TEMPERED, B, NB)
    for i in range(n_blocks):
        columns, mask, v = block_of(x + row * x_stride, n_blocks - 1 - i, n_columns, B)
        result = mapped(v, m, rest, rate, rate_low, LOG, EXACT, TEMPERED)
        tl.store(
            out + row * out_stride + columns, result.to(out.dtype.element_ty), mask=mask, eviction_policy="evict_first"
        )


@triton.jit
def normalise_long_rows(
    x, out, n_columns, n_blocks, x_stride, rate, rate_low,
    EXACT: tl.constexpr, TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write the log-sum-exp of a row."""
    row = tl.program_id(0).to(tl.int64)
    m, rest = summaries(x + row * x_stride, n_columns, n_blocks, rate, rate_low, EXACT, TEMPERED, B, NB)
    tl.store(out + row, lse(m, rest, rate, rate_low).to(out.dtype.element_ty))


@triton.jit
def cross_entropy_long_rows(
    x, labels, weight, mass, scale, losses, gradient,
    n_columns, n_blocks, x_stride, gradient_stride, ignored,
    smoothing, z_loss, rate, rate_low,
    GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, PULL: tl.constexpr, EXACT: tl.constexpr,
    TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write a row's loss and, if wanted, its gradient."""
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(labels + row).to(tl.int64)
    if y == ignored:
        tl.store(losses + row, tl.zeros((), losses.dtype.element_ty))
        if GRADIENT:
            for block in range(n_blocks):
                columns = tl.cast(block, tl.int64) * B + tl.arange(0, B)
                zeros = tl.zeros((B,), gradient.dtype.element_ty)
                tl.store(gradient + row * gradient_stride + columns, zeros, mask=columns < n_columns)
    else:
        possible = (y >= 0) & (y < n_columns)
        x_y = tl.load(x + row * x_stride + y, mask=possible, other=0.0).to(tl.float32)
        m, rest = summaries(x + row * x_stride, n_columns, n_blocks, rate, rate_low, EXACT, TEMPERED, B, NB)
        total = tl.full((), 0.0, tl.float64)
        if SMOOTH:
            blocks = tl.arange(0, NB)
            totals = tl.zeros((NB,), tl.float64)
            for block in range(n_blocks):
                columns, mask, v = block_of(x + row * x_stride, block, n_columns, B, True)
                totals = tl.where(blocks == block, block_total(weight, v, columns, mask, WEIGHTED, B), totals)
            total = tl.sum(totals, axis=0)
        by = scale_of(scale)
        loss, factor, own = row_loss(
            m, rest, x_y, class_weight(weight, y, n_columns, WEIGHTED), total, tl.load(mass), n_columns, smoothing,
            z_loss, rate, rate_low, by, SMOOTH, PULL, EXACT, TEMPERED,
        )  # fmt: skip
        tl.store(losses + row, loss.to(losses.dtype.element_ty))
        if GRADIENT:
            tl.debug_barrier()  # the gradient may be written over the logit of the class
            taken = smoothing / n_columns * by.to(tl.float32) * rate
            for i in range(n_blocks):
                columns, mask, v = block_of(x + row * x_stride, n_blocks - 1 - i, n_columns, B)
                result = gradient_of(
                    v, columns, mask, y, m, factor, own, weight, taken, rate, rate_low,
                    WEIGHTED, SMOOTH, EXACT, TEMPERED, B,
                )  # fmt: skip
                place = gradient + row * gradient_stride + columns
                tl.store(place, result.to(gradient.dtype.element_ty), mask=mask, eviction_policy="evict_first")


@triton.jit
def vjp_long_rows(
    p, cotangent, out, n_columns, n_blocks, p_stride, cotangent_stride, out_stride, rate, rate_low,
    EXACT: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write p * (c - sum p c) * rate for a row."""
    row = tl.program_id(0).to(tl.int64)
    blocks = tl.arange(0, NB)
    means = tl.zeros((NB,), tl.float64)
    for block in range(n_blocks):
        _, mask, q = block_of(p + row * p_stride, block, n_columns, B, True)
        _, _, c = block_of(cotangent + row * cotangent_stride, block, n_columns, B, True)
        q, c = tl.where(mask, q, 0.0), tl.where(mask, c, 0.0)
        terms = q.to(tl.float64) * c.to(tl.float64) if EXACT else q * c
        means = tl.where(blocks == block, tl.sum(terms, axis=0).to(tl.float64), means)
    mean = tl.sum(means, axis=0)
    for i in range(n_blocks):
        columns, mask, q = block_of(p + row * p_stride, n_blocks - 1 - i, n_columns, B)
        _, _, c = block_of(cotangent + row * cotangent_stride, n_blocks - 1 - i, n_columns, B)
        if EXACT:
            result = q * ((c.to(tl.float64) - mean) * wide(rate, rate_low)).to(tl.float32)
        else:
            result = q * (c - mean.to(tl.float32)) * rate
        tl.store(
            out + row * out_stride + columns, result.to(out.dtype.element_ty), mask=mask, eviction_policy="evict_first"
        )


@triton.jit
def log_vjp_long_rows(
    x, cotangent, out, n_columns, n_blocks, x_stride, cotangent_stride, out_stride, rate, rate_low,
    EXACT: tl.constexpr, TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    """Write (c - p sum c) * rate for a row whose softmax is p."""
    row = tl.program_id(0).to(tl.int64)
    m, rest = summaries(x + row * x_stride, n_columns, n_blocks, rate, rate_low, EXACT, TEMPERED, B, NB)
    blocks = tl.arange(0, NB)
    sums = tl.zeros((NB,), tl.float64)
    for block in range(n_blocks):
        _, mask, c = block_of(cotangent + row * cotangent_stride, block, n_columns, B, True)
        c = tl.where(mask, c, 0.0)
        sums = tl.where(blocks == block, tl.sum(c.to(tl.float64) if EXACT else c, axis=0).to(tl.float64), sums)
    factor = (tl.sum(sums, axis=0) / (1.0 + rest)).to(tl.float32)
    for i in range(n_blocks):
        columns, mask, v = block_of(x + row * x_stride, n_blocks - 1 - i, n_columns, B)
        _, _, c = block_of(cotangent + row * cotangent_stride, n_blocks - 1 - i, n_columns, B)
        high, low = shifted(v, m, rate, rate_low, EXACT, TEMPERED)
        result = (c - exp(high, low, EXACT) * factor) * rate
        tl.store(out + row * out_stride + columns, result.to(out.dtype.element_ty), mask=mask)
