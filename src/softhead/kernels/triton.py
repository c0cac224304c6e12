"""The row functions for CUDA tensors, in Triton: each entry is read once and written once.

A program holds a tile of whole rows in registers. Rows of more than 64 KB are cut into blocks: one launch writes the
maximum and the sum of each block, the next combines them in their order and reads the entries again, from the
second-level cache where a group of rows fits in it. Nothing is added by atomic operations: a row's result depends on
the row alone.

float32 is exponentiated with the rounding error of the shift kept and summed in float64; half types are computed in
float32 and rounded once. What belongs to a row (its normaliser, its loss, the gradient of its class) is float64. The
equations are those of `kernels/loops.py`; `rest` is again the sum of all exponentials but the maximum's.
"""

from typing import Any

import torch
import triton
import triton.language as tl

_LARGEST_TILE = 65_536  # bytes of a row held at once: 16 float32 or 32 half values for each of 1024 threads
_SMALLEST_TILE = 4_096  # short rows share a program
_BLOCK = 8_192  # of a longer row
_GROUP_BYTES = 2**24  # of long rows between the two launches, a third of an H200's second-level cache

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2_HIGH = tl.constexpr(0.693145751953125)  # 15 bits: its products with k are exact
_LN2_LOW = tl.constexpr(1.4286068203094173e-06)
_REACH = tl.constexpr(104.0)  # exp(-104) is less than half of the smallest subnormal number
# exp(r) = 1 + r + r**2 (A0 + A1 r + ...) on abs(r) <= ln(2) / 2; the relative error of exp is 2**-28
_A0 = tl.constexpr(float.fromhex("0x1.fffffcp-2"))
_A1 = tl.constexpr(float.fromhex("0x1.555492p-3"))
_A2 = tl.constexpr(float.fromhex("0x1.5558f2p-5"))
_A3 = tl.constexpr(float.fromhex("0x1.123a2p-7"))
_A4 = tl.constexpr(float.fromhex("0x1.6a23dp-10"))


@triton.jit
def _wide(high, low):
    """Return the sum of two numbers that a launch was given, in float64."""
    return tl.full((), 0.0, tl.float64) + high + low


@triton.jit
def _power_of_two(k):
    """Return 2**k as float32, for whole k from -126 to 127."""
    return ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _shifted(v, m, rate, rate_low, EXACT: tl.constexpr, TEMPERED: tl.constexpr):
    """Return (v - m) * rate and, where EXACT, the rounding error of that."""
    high = v - m
    low = tl.zeros_like(high)
    if EXACT:
        back = high - v
        low = (v - (high - back)) - (m + back)
        low = tl.where(high > -3.0e38, low, 0.0)  # an infinite difference has none
    if TEMPERED:
        if EXACT:
            product = high * rate
            error = tl.fma(high, rate, -product) + tl.fma(high, rate_low, low * rate)
            low = tl.where(product > -3.0e38, error, 0.0)
            high = product
        else:
            high = high * rate
    return high, low


@triton.jit
def _exp(high, low, EXACT: tl.constexpr):
    """Return exp(high + low) for a difference that is not positive."""
    if EXACT:
        d = tl.where(high < -_REACH, -_REACH, high)  # a comparison: NaN stays
        k = tl.floor(tl.fma(d, _LOG2E, 0.5))
        r = tl.fma(k, -_LN2_LOW, tl.fma(k, -_LN2_HIGH, d)) + tl.where(high < -_REACH, 0.0, low)
        s = tl.fma(tl.fma(tl.fma(tl.fma(_A4, r, _A3), r, _A2), r, _A1), r, _A0)
        e = 1.0 + tl.fma(r * r, s, r)
        # In two factors, the second of which may make the result subnormal.
        first = tl.floor(k * 0.5)
        return tl.where(high < -_REACH, 0.0, e * _power_of_two(first) * _power_of_two(k - first))
    return tl.exp2(high * _LOG2E)


@triton.jit
def _log1p(x):
    """Return log(1 + x) for a float64 x >= 0: what 1 + x rounds off is put back to the first order."""
    u = 1.0 + x
    return tl.log(u) + tl.where(x < 4503599627370496.0, (x - (u - 1.0)) / u, 0.0)


@triton.jit
def _sum_of_rest(e, v, m, mask, EXACT: tl.constexpr):
    """Return, in float64, the sum of a tile's exponentials but for one maximum in each row; NaN where that is +inf."""
    top = (v == m[:, None]) & mask
    others = tl.where(top, 0.0, e)
    rest = tl.sum(others.to(tl.float64) if EXACT else others, axis=1).to(tl.float64)
    more = tl.sum(top.to(tl.int32), axis=1) - 1
    return tl.where(m == float("inf"), float("nan"), rest + more)


@triton.jit
def _tile(x, n_rows, n_columns, stride, read, R: tl.constexpr, B: tl.constexpr):
    """Return rows, columns, the mask of a program's tile, and its values where `read` is true."""
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    columns = tl.arange(0, B)
    mask = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    v = tl.load(x + rows[:, None] * stride + columns[None, :], mask=mask & read[:, None], other=-float("inf"))
    return rows, columns, mask, v.to(tl.float32)


@triton.jit
def _map_rows(
    x, out, n_rows, n_columns, x_stride, out_stride, rate, rate_low,
    LOG: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    read = tl.full((R,), 1, tl.int1)
    rows, columns, mask, v = _tile(x, n_rows, n_columns, x_stride, read, R, B)
    m = tl.max(v, axis=1)
    high, low = _shifted(v, m[:, None], rate, rate_low, EXACT, TEMPERED)
    e = _exp(high, low, EXACT)
    rest = _sum_of_rest(e, v, m, mask, EXACT)
    if LOG:
        result = (high - _log1p(rest).to(tl.float32)[:, None]) + low
    else:
        result = e * (1.0 / (1.0 + rest)).to(tl.float32)[:, None]
    tl.store(out + rows[:, None] * out_stride + columns[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _normalise_rows(
    x, out, n_rows, n_columns, x_stride, rate, rate_low,
    EXACT: tl.constexpr, TEMPERED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    read = tl.full((R,), 1, tl.int1)
    rows, _, mask, v = _tile(x, n_rows, n_columns, x_stride, read, R, B)
    m = tl.max(v, axis=1)
    high, low = _shifted(v, m[:, None], rate, rate_low, EXACT, TEMPERED)
    rest = _sum_of_rest(_exp(high, low, EXACT), v, m, mask, EXACT)
    tl.store(out + rows, _lse(m, rest, rate, rate_low).to(out.dtype.element_ty), mask=rows < n_rows)


@triton.jit
def _lse(m, rest, rate, rate_low):
    """Return m * rate + log1p(rest) in float64; an infinite m is the result."""
    scaled = m.to(tl.float64) * _wide(rate, rate_low)
    return tl.where(tl.abs(scaled) == float("inf"), scaled, scaled + _log1p(rest))


@triton.jit
def _row_loss(
    m, rest, x_y, w_y, total, mass, n_columns, smoothing, z_loss,
    rate, scale,
):  # fmt: skip
    """Return, in float64, a row's loss, the factor of exp(z - max z) in its gradient, and that of its class.

    `total` is sum_j w_j x_j and `mass` sum_j w_j, of which label smoothing takes the part smoothing / n_columns.
    """
    m, x_y = m.to(tl.float64), x_y.to(tl.float64)
    at_top = x_y == m
    log_rest = _log1p(rest)
    lse = tl.where(tl.abs(m) == float("inf"), m, m * rate + log_rest)
    part = smoothing / n_columns
    own = w_y * (1.0 - smoothing)
    loss = own * (log_rest + tl.where(at_top, 0.0, (m - x_y) * rate))
    loss += tl.where(part > 0.0, part * (mass * log_rest + (mass * m - total) * rate), 0.0)
    loss += tl.where(z_loss > 0.0, z_loss * lse * lse, 0.0)
    all_weights = own + part * mass
    pull = tl.where(z_loss > 0.0, 2.0 * z_loss * lse, 0.0)
    not_y = tl.where(at_top, rest, 1.0 + rest - tl.exp(tl.minimum((x_y - m) * rate, 0.0)))
    # a p_y - q_y as a (p_y - 1) + (a - q_y): the first keeps what 1 - p_y is where p_y rounds to 1
    own_gradient = (part * (mass - w_y) + pull) - (all_weights + pull) * (not_y / (1.0 + rest))
    return loss, (all_weights + pull) * rate * scale / (1.0 + rest), own_gradient * rate * scale


@triton.jit
def _label(labels, rows, n_rows, ignored):
    """Return the classes of rows, and which rows count; a class that does not count is 0."""
    y = tl.load(labels + rows, mask=rows < n_rows, other=0).to(tl.int64)
    counts = (rows < n_rows) & (y != ignored)
    return tl.where(counts, y, 0), counts


@triton.jit
def _class_weights(weight, y, columns, n_columns, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr):
    """Return the weights of the rows' classes and those of all columns, in float64 and float32."""
    w_y = tl.full(y.shape, 1.0, tl.float64)
    w = tl.full(columns.shape, 1.0, tl.float32)
    if WEIGHTED:
        w_y = tl.load(weight + y).to(tl.float64)
        if SMOOTH:
            w = tl.load(weight + columns, mask=columns < n_columns, other=0.0).to(tl.float32)
    return w_y, w


@triton.jit
def _weighted_sum(v, w, mask):
    """Return sum_j w_j x_j of a tile's rows in float64, where a weight of zero takes no part."""
    terms = tl.where(mask & (w > 0.0)[None, :], w[None, :].to(tl.float64) * v.to(tl.float64), 0.0)
    return tl.sum(terms, axis=1)


@triton.jit
def _cross_entropy_rows(
    x, labels, weight, mass, scale, losses, gradient,
    n_rows, n_columns, x_stride, gradient_stride, ignored,
    smoothing, z_loss, rate, rate_low,
    GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr,
    R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    own_rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    y, counts = _label(labels, own_rows, n_rows, ignored)
    rows, columns, mask, v = _tile(x, n_rows, n_columns, x_stride, counts, R, B)
    v = tl.where(counts[:, None], v, 0.0)  # of a row that is not read
    v = tl.where(mask, v, -float("inf"))
    m = tl.max(v, axis=1)
    high, low = _shifted(v, m[:, None], rate, rate_low, EXACT, TEMPERED)
    e = _exp(high, low, EXACT)
    rest = _sum_of_rest(e, v, m, mask, EXACT)
    is_y = columns[None, :] == y[:, None]
    x_y = tl.sum(tl.where(is_y, v, 0.0), axis=1)
    w_y, w = _class_weights(weight, y, columns, n_columns, WEIGHTED, SMOOTH)
    total = tl.zeros((R,), tl.float64)
    if SMOOTH:
        total = _weighted_sum(v, w, mask)
    exact_rate = _wide(rate, rate_low)
    loss, factor, own = _row_loss(
        m, rest, x_y, w_y, total, tl.load(mass), n_columns, _wide(smoothing, 0.0), _wide(z_loss, 0.0),
        exact_rate, tl.load(scale),
    )  # fmt: skip
    tl.store(losses + rows, tl.where(counts, loss, 0.0).to(losses.dtype.element_ty), mask=rows < n_rows)
    if GRADIENT:
        result = e * factor.to(tl.float32)[:, None]
        if SMOOTH:
            taken = smoothing / n_columns * tl.load(scale).to(tl.float32) * rate
            result -= taken * w[None, :]
        result = tl.where(is_y, own.to(tl.float32)[:, None], result)
        result = tl.where(counts[:, None], result, 0.0)
        place = gradient + rows[:, None] * gradient_stride + columns[None, :]
        tl.store(place, result.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def _vjp_rows(
    p, cotangent, out, n_rows, n_columns, p_stride, cotangent_stride,
    out_stride, rate, rate_low, EXACT: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    read = tl.full((R,), 1, tl.int1)
    rows, columns, mask, q = _tile(p, n_rows, n_columns, p_stride, read, R, B)
    _, _, _, c = _tile(cotangent, n_rows, n_columns, cotangent_stride, read, R, B)
    q, c = tl.where(mask, q, 0.0), tl.where(mask, c, 0.0)
    if EXACT:
        mean = tl.sum(q.to(tl.float64) * c.to(tl.float64), axis=1)
        difference = (c.to(tl.float64) - mean[:, None]) * _wide(rate, rate_low)
        result = q * difference.to(tl.float32)
    else:
        result = q * (c - tl.sum(q * c, axis=1)[:, None]) * rate
    tl.store(out + rows[:, None] * out_stride + columns[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _summarise_blocks(
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
        high, low = _shifted(v, m, rate, rate_low, EXACT, TEMPERED)
        e = tl.where(v == -float("inf"), 0.0, _exp(high, low, EXACT))  # a block may hold nothing else
        rest = _sum_of_rest(e[None, :], v[None, :], tl.full((1,), 1.0, tl.float32) * m, mask[None, :], EXACT)
        place = row * tl.num_programs(1) + block
        tl.store(maxima + place, m)
        tl.store(rests + place + tl.arange(0, 1), tl.where(m == -float("inf"), 0.0 * rest, rest))
        if LOSS:
            if SMOOTH:
                w = tl.full((B,), 1.0, tl.float32)
                if WEIGHTED:
                    w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
                tl.store(totals + place + tl.arange(0, 1), _weighted_sum(v[None, :], w, mask[None, :]))
            if y // B == block:
                tl.store(picked + row, tl.load(x + row * x_stride + y).to(tl.float32))


@triton.jit
def _combined(maxima, rests, row, n_blocks, rate, NB: tl.constexpr):
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
def _map_blocks(
    x, out, maxima, rests, n_columns, x_stride, out_stride, rate, rate_low,
    LOG: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr, B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, rest = _combined(maxima, rests, row, tl.num_programs(1), _wide(rate, rate_low), NB)
    columns = block.to(tl.int64) * B + tl.arange(0, B)
    mask = columns < n_columns
    v = tl.load(x + row * x_stride + columns, mask=mask, other=-float("inf")).to(tl.float32)
    high, low = _shifted(v, m, rate, rate_low, EXACT, TEMPERED)
    if LOG:
        result = (high - _log1p(rest).to(tl.float32)) + low
    else:
        result = _exp(high, low, EXACT) * (1.0 / (1.0 + rest)).to(tl.float32)
    tl.store(out + row * out_stride + columns, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _normalise_blocks(out, maxima, rests, n_blocks, rate, rate_low, NB: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    m, rest = _combined(maxima, rests, row, n_blocks, _wide(rate, rate_low), NB)
    tl.store(out + row, _lse(m, rest, rate, rate_low).to(out.dtype.element_ty))


@triton.jit
def _cross_entropy_blocks(
    x, labels, weight, mass, scale, losses, gradient,
    maxima, rests, totals, picked,
    n_columns, x_stride, gradient_stride, ignored,
    smoothing, z_loss, rate, rate_low,
    GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr,
    B: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
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
        exact_rate = _wide(rate, rate_low)
        m, rest = _combined(maxima, rests, row, n_blocks, exact_rate, NB)
        w_y = tl.full((), 1.0, tl.float64)
        w = tl.full((B,), 1.0, tl.float32)
        total = tl.full((), 0.0, tl.float64)
        if WEIGHTED:
            w_y = tl.load(weight + y).to(tl.float64)
        if SMOOTH:
            blocks = tl.arange(0, NB)
            total = tl.sum(tl.load(totals + row * n_blocks + blocks, mask=blocks < n_blocks, other=0.0), axis=0)
            if WEIGHTED:
                w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
        loss, factor, own = _row_loss(
            m, rest, tl.load(picked + row), w_y, total, tl.load(mass), n_columns, _wide(smoothing, 0.0),
            _wide(z_loss, 0.0), exact_rate, tl.load(scale),
        )  # fmt: skip
        if block == 0:
            tl.store(losses + row, loss.to(losses.dtype.element_ty))
        if GRADIENT:
            v = tl.load(x + row * x_stride + columns, mask=mask, other=-float("inf")).to(tl.float32)
            high, low = _shifted(v, m, rate, rate_low, EXACT, TEMPERED)
            result = _exp(high, low, EXACT) * factor.to(tl.float32)
            if SMOOTH:
                result -= smoothing / n_columns * tl.load(scale).to(tl.float32) * rate * w
            result = tl.where(columns == y, own.to(tl.float32), result)
            tl.store(place, result.to(gradient.dtype.element_ty), mask=mask)


def _tile_of(n_columns: int) -> dict[str, int]:
    """Return the rows and columns of a program's tile, and its warps."""
    columns = triton.next_power_of_2(n_columns)
    rows = max(1, min(256, _SMALLEST_TILE // columns))
    return {"R": rows, "B": columns, "num_warps": min(32, max(4, rows * columns // 512))}


def _rates(temperature: float) -> tuple[float, float]:
    """Return 1 / temperature as the sum of two float32 numbers."""
    rate = 1.0 / temperature
    high = float(torch.tensor(rate, dtype=torch.float32))
    return high, rate - high


class _Blocks:
    """How rows too long for one tile are cut, and what is known of the blocks of a group of rows."""

    def __init__(self, x: torch.Tensor) -> None:
        n_rows, n_columns = x.shape
        self.n_blocks = triton.cdiv(n_columns, _BLOCK)
        self.rows = max(1, min(n_rows, _GROUP_BYTES // (n_columns * x.element_size())))
        self.shape = {"B": _BLOCK, "NB": triton.next_power_of_2(self.n_blocks), "num_warps": 8}
        size = (self.rows, self.n_blocks)
        self.maxima = torch.empty(size, dtype=torch.float32, device=x.device)
        self.rests, self.totals = torch.empty((2, *size), dtype=torch.float64, device=x.device)
        self.picked = torch.empty(self.rows, dtype=torch.float32, device=x.device)

    def groups(self, n_rows: int) -> list[slice]:
        """Return the groups of rows that are summarised and finished one after the other."""
        return [slice(start, min(start + self.rows, n_rows)) for start in range(0, n_rows, self.rows)]

    def summarise(self, x: torch.Tensor, rates: tuple[float, float], flags: dict[str, bool], **loss: Any) -> None:
        """Write the summaries of a group's blocks."""
        labels, weight, ignored = loss.get("labels", x), loss.get("weight", x), loss.get("ignored", 0)
        smooth = {"WEIGHTED": loss.get("weighted", False), "SMOOTH": loss.get("smooth", False), "LOSS": bool(loss)}
        _summarise_blocks[(len(x), self.n_blocks)](
            x, labels, weight, self.maxima, self.rests, self.totals, self.picked, x.shape[1], x.stride(0), ignored,
            *rates, **flags, **smooth, B=_BLOCK, num_warps=8,
        )  # fmt: skip


def _flags(x: torch.Tensor, temperature: float) -> dict[str, bool]:
    return {"EXACT": x.dtype == torch.float32, "TEMPERED": temperature != 1.0}


def softmax(x: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0, log: bool = False) -> None:
    """Write the softmax of rows, or its logarithm; `x` and `out` (n_rows, n_columns) with columns side by side."""
    n_rows, n_columns = x.shape
    rates, flags = _rates(temperature), _flags(x, temperature)
    if n_columns * x.element_size() <= _LARGEST_TILE:
        tile = _tile_of(n_columns)
        _map_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, out, n_rows, n_columns, x.stride(0), out.stride(0), *rates, LOG=log, **flags, **tile
        )
        return
    blocks = _Blocks(x)
    for group in blocks.groups(n_rows):
        blocks.summarise(x[group], rates, flags)
        _map_blocks[(len(x[group]), blocks.n_blocks)](
            x[group], out[group], blocks.maxima, blocks.rests, n_columns, x.stride(0), out.stride(0), *rates,
            LOG=log, **flags, **blocks.shape,
        )  # fmt: skip


def logsumexp(x: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0) -> None:
    """Write the log-sum-exp of rows of `x` / temperature; `out` (n_rows,) contiguous."""
    n_rows, n_columns = x.shape
    rates, flags = _rates(temperature), _flags(x, temperature)
    if n_columns * x.element_size() <= _LARGEST_TILE:
        tile = _tile_of(n_columns)
        _normalise_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, out, n_rows, n_columns, x.stride(0), *rates, **flags, **tile
        )
        return
    blocks = _Blocks(x)
    for group in blocks.groups(n_rows):
        blocks.summarise(x[group], rates, flags)
        _normalise_blocks[(len(x[group]),)](
            out[group], blocks.maxima, blocks.rests, blocks.n_blocks, *rates, NB=blocks.shape["NB"]
        )


def cross_entropy(
    x: torch.Tensor,
    labels: torch.Tensor,
    losses: torch.Tensor,
    gradient: torch.Tensor | None,
    *,
    scale: torch.Tensor,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
) -> None:
    """Write the loss of every row and, times `scale`, its gradient.

    `x` and `gradient` (n_rows, n_columns), which may be the same tensor; `labels` (n_rows,), checked; `losses`
    (n_rows,); `weight` (n_columns,); `scale` one float64 on the device, so that a mean needs no copy to the host.
    """
    n_rows, n_columns = x.shape
    rates, flags = _rates(temperature), _flags(x, temperature)
    flags |= {"GRADIENT": gradient is not None, "WEIGHTED": weight is not None, "SMOOTH": label_smoothing > 0.0}
    if weight is None:
        mass = torch.full((), float(n_columns), dtype=torch.float64, device=x.device)
    else:
        mass = weight.sum(dtype=torch.float64)
    weights = x if weight is None else weight
    into = x if gradient is None else gradient
    options = (float(label_smoothing), float(z_loss), *rates)
    if n_columns * x.element_size() <= _LARGEST_TILE:
        tile = _tile_of(n_columns)
        _cross_entropy_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, labels, weights, mass, scale, losses, into, n_rows, n_columns, x.stride(0), into.stride(0), ignore_index,
            *options, **flags, **tile,
        )  # fmt: skip
        return
    blocks = _Blocks(x)
    of_blocks = {name: flags[name] for name in ("EXACT", "TEMPERED")}
    for group in blocks.groups(n_rows):
        blocks.summarise(
            x[group], rates, of_blocks, labels=labels[group], weight=weights, ignored=ignore_index,
            weighted=flags["WEIGHTED"], smooth=flags["SMOOTH"],
        )  # fmt: skip
        _cross_entropy_blocks[(len(x[group]), blocks.n_blocks)](
            x[group], labels[group], weights, mass, scale, losses[group], into[group], blocks.maxima, blocks.rests,
            blocks.totals, blocks.picked, n_columns, x.stride(0), into.stride(0), ignore_index, *options,
            **flags, **blocks.shape,
        )  # fmt: skip


def softmax_vjp(p: torch.Tensor, cotangent: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0) -> None:
    """Write p * (c - sum p c) / temperature for rows of up to 64 KB."""
    n_rows, n_columns = p.shape
    tile = _tile_of(n_columns)
    _vjp_rows[(triton.cdiv(n_rows, tile["R"]),)](
        p, cotangent, out, n_rows, n_columns, p.stride(0), cotangent.stride(0), out.stride(0), *_rates(temperature),
        EXACT=p.dtype == torch.float32, **tile,
    )  # fmt: skip
