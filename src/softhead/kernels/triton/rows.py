"""Kernels for a tile of whole rows, each entry read once."""

import triton
import triton.language as tl

from softhead.kernels.triton.arithmetic import (
    class_weights,
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
def tile(x, n_rows, n_columns, stride, read, R: tl.constexpr, B: tl.constexpr):
    """Return rows, columns, the mask of a program's tile, and its values where `read` is true."""
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    columns = tl.arange(0, B)
    mask = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    v = tl.load(x + rows[:, None] * stride + columns[None, :], mask=mask & read[:, None], other=-float("inf"))
    return rows, columns, mask, v.to(tl.float32)


@triton.jit
def label(labels, rows, n_rows, n_columns, ignored):
    """Return the classes of rows, 0 for any other number, which rows count, and which of these have a class."""
    y = tl.load(labels + rows, mask=rows < n_rows, other=0).to(tl.int64)
    counts = (rows < n_rows) & (y != ignored)
    possible = (y >= 0) & (y < n_columns)
    return tl.where(possible, y, 0), counts, possible


@triton.jit
def map_rows(
    x, out, n_rows, n_columns, x_stride, out_stride, rate, rate_low,
    LOG: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write the softmax of a tile of rows, or its logarithm."""
    read = tl.full((R,), 1, tl.int1)
    rows, columns, mask, v = tile(x, n_rows, n_columns, x_stride, read, R, B)
    m = tl.max(v, axis=1)
    high, low = shifted(v, m[:, None], rate, rate_low, EXACT, TEMPERED)
    e = exp(high, low, EXACT)
    if LOG:
        rest = sum_of_rest(e, v, m, EXACT)
        result = (high - log1p(rest, 1.0 / (1.0 + rest)).to(tl.float32)[:, None]) + finite_low(high, low)
    else:
        total = tl.sum(e.to(tl.float64) if EXACT else e, axis=1).to(tl.float64)
        result = e * (1.0 / total).to(tl.float32)[:, None]
    tl.store(out + rows[:, None] * out_stride + columns[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def normalise_rows(
    x, out, n_rows, n_columns, x_stride, rate, rate_low,
    EXACT: tl.constexpr, TEMPERED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write the log-sum-exp of a tile of rows."""
    read = tl.full((R,), 1, tl.int1)
    rows, _, _, v = tile(x, n_rows, n_columns, x_stride, read, R, B)
    m = tl.max(v, axis=1)
    high, low = shifted(v, m[:, None], rate, rate_low, EXACT, TEMPERED)
    rest = sum_of_rest(exp(high, low, EXACT), v, m, EXACT)
    tl.store(out + rows, lse(m, rest, rate, rate_low).to(out.dtype.element_ty), mask=rows < n_rows)


@triton.jit
def cross_entropy_rows(
    x, labels, weight, mass, scale, losses, gradient,
    n_rows, n_columns, x_stride, gradient_stride, ignored,
    smoothing, z_loss, rate, rate_low,
    GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, PULL: tl.constexpr, EXACT: tl.constexpr,
    TEMPERED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write the losses of a tile of rows and, if wanted, their gradients."""
    own_rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    y, counts, possible = label(labels, own_rows, n_rows, n_columns, ignored)
    rows, columns, mask, v = tile(x, n_rows, n_columns, x_stride, counts, R, B)
    x_y = tl.load(x + rows * x_stride + y, mask=counts, other=0.0).to(tl.float32)
    if GRADIENT:
        tl.debug_barrier()  # the gradient may be written over what is read here
    m = tl.where(counts, tl.max(v, axis=1), 0.0)  # exponentials of rows that are not read are 0
    high, low = shifted(v, m[:, None], rate, rate_low, EXACT, TEMPERED)
    e = exp(high, low, EXACT)
    rest = tl.where(counts, sum_of_rest(e, v, m, EXACT), 0.0)
    w_y, w = class_weights(weight, y, columns, n_columns, WEIGHTED, SMOOTH)
    w_y = tl.where(counts, tl.where(possible, w_y, float("nan")), 0.0)
    total = tl.zeros((R,), tl.float64)
    if SMOOTH:
        total = weighted_sum(v, w, mask)
    by = scale_of(scale)
    loss, factor, own = row_loss(
        m, rest, x_y, w_y, total, tl.load(mass), n_columns, smoothing, z_loss, rate, rate_low, by,
        SMOOTH, PULL, EXACT, TEMPERED,
    )  # fmt: skip
    tl.store(losses + rows, tl.where(counts, loss, 0.0).to(losses.dtype.element_ty), mask=rows < n_rows)
    if GRADIENT:
        result = e * factor.to(tl.float32)[:, None]
        if SMOOTH:
            taken = smoothing / n_columns * by.to(tl.float32) * rate
            result = tl.where(counts[:, None], result - taken * w[None, :], 0.0)
        own = tl.where(counts, own, 0.0).to(tl.float32)
        result = tl.where(columns[None, :] == y[:, None], own[:, None], result)
        place = gradient + rows[:, None] * gradient_stride + columns[None, :]
        tl.store(place, result.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def vjp_rows(
    p, cotangent, out, n_rows, n_columns, p_stride, cotangent_stride,
    out_stride, rate, rate_low, EXACT: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write p * (c - sum p c) * rate for a tile of rows."""
    read = tl.full((R,), 1, tl.int1)
    rows, columns, mask, q = tile(p, n_rows, n_columns, p_stride, read, R, B)
    _, _, _, c = tile(cotangent, n_rows, n_columns, cotangent_stride, read, R, B)
    q, c = tl.where(mask, q, 0.0), tl.where(mask, c, 0.0)
    if EXACT:
        mean = tl.sum(q.to(tl.float64) * c.to(tl.float64), axis=1)
        difference = (c.to(tl.float64) - mean[:, None]) * wide(rate, rate_low)
        result = q * difference.to(tl.float32)
    else:
        result = q * (c - tl.sum(q * c, axis=1)[:, None]) * rate
    tl.store(out + rows[:, None] * out_stride + columns[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def log_vjp_rows(
    x, cotangent, out, n_rows, n_columns, x_stride, cotangent_stride, out_stride, rate, rate_low,
    EXACT: tl.constexpr, TEMPERED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write (c - p sum c) * rate for a tile of rows whose softmax is p."""
    read = tl.full((R,), 1, tl.int1)
    rows, columns, mask, v = tile(x, n_rows, n_columns, x_stride, read, R, B)
    _, _, _, c = tile(cotangent, n_rows, n_columns, cotangent_stride, read, R, B)
    c = tl.where(mask, c, 0.0)
    high, low = shifted(v, tl.max(v, axis=1)[:, None], rate, rate_low, EXACT, TEMPERED)
    e = exp(high, low, EXACT)
    if EXACT:
        factor = tl.sum(c.to(tl.float64), axis=1) / tl.sum(e.to(tl.float64), axis=1)
    else:
        factor = tl.sum(c, axis=1) / tl.sum(e, axis=1)
    result = (c - e * factor.to(tl.float32)[:, None]) * rate
    tl.store(out + rows[:, None] * out_stride + columns[None, :], result.to(out.dtype.element_ty), mask=mask)
