"""What the CUDA kernels compute with: the exponential, sums, a row's loss."""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2_HIGH = tl.constexpr(0.693145751953125)  # 15 bits: its products with k are exact
_LN2_LOW = tl.constexpr(1.4286068203094173e-06)
_ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2**23: what is added to it is rounded to a whole number
_TWO_TO_MINUS_64 = tl.constexpr(2.0**-64)
_REACH = tl.constexpr(104.0)  # exp(-104) is less than half of the smallest subnormal number
# exp(r) = 1 + r + r**2 (A0 + A1 r + ...) on abs(r) <= ln(2) / 2; the relative error of exp is 2**-28
_A0 = tl.constexpr(float.fromhex("0x1.fffffcp-2"))
_A1 = tl.constexpr(float.fromhex("0x1.555492p-3"))
_A2 = tl.constexpr(float.fromhex("0x1.5558f2p-5"))
_A3 = tl.constexpr(float.fromhex("0x1.123a2p-7"))
_A4 = tl.constexpr(float.fromhex("0x1.6a23dp-10"))


@triton.jit
def wide(high, low):
    """Return the sum of two numbers that a launch was given, in float64."""
    return tl.full((), 0.0, tl.float64) + high + low


@triton.jit
def shifted(v, m, rate, rate_low, EXACT: tl.constexpr, TEMPERED: tl.constexpr):
    """Return (v - m) * rate and, where EXACT, its rounding error: no number where the difference is infinite."""
    high = v - m
    low = tl.zeros_like(high)
    if EXACT:
        back = high - v
        low = (v - (high - back)) - (m + back)
    if TEMPERED:
        if EXACT:
            product = high * rate
            low = tl.fma(high, rate, -product) + tl.fma(high, rate_low, low * rate)
            high = product
        else:
            high = high * rate
    return high, low


@triton.jit
def exp(high, low, EXACT: tl.constexpr):
    """Return exp(high + low) for a difference that is not positive.

    Without EXACT the low part is not read, and the error is that of the unit for special functions, 2**-22.
    """
    if EXACT:
        # The sum's last bits are k = round(high / ln 2). Conversions would take five times as long as additions.
        t = tl.fma(high, _LOG2E, _ROUNDER)
        k = t - _ROUNDER
        r = tl.fma(k, -_LN2_LOW, tl.fma(k, -_LN2_HIGH, high)) + low
        s = tl.fma(tl.fma(tl.fma(tl.fma(_A4, r, _A3), r, _A2), r, _A1), r, _A0)
        e = 1.0 + tl.fma(r * r, s, r)
        # 2**k in two factors, of which the second may make the result subnormal.
        factor = ((t.to(tl.int32, bitcast=True) << 23) + (127 + 64 << 23)).to(tl.float32, bitcast=True)
        return tl.where(high < -_REACH, 0.0, e * factor * _TWO_TO_MINUS_64)  # a comparison: NaN stays
    return tl.exp2(high * _LOG2E)


@triton.jit
def finite_low(high, low):
    """Return the rounding error of a difference, 0 where that is infinite."""
    return tl.where(high > -3.0e38, low, 0.0)


@triton.jit
def scale_of(scale):
    """Return the number that gradients are multiplied by: 0 where no row counts, whose reciprocal is infinite."""
    by = tl.load(scale)
    return tl.where(by == float("inf"), 0.0, by)


@triton.jit
def log1p(x, inverse):
    """Return log(1 + x) for a float64 x >= 0, given 1 / (1 + x): what 1 + x rounds off is put back to first order."""
    u = 1.0 + x
    return tl.log(u) + tl.where(x < 4503599627370496.0, (x - (u - 1.0)) * inverse, 0.0)


@triton.jit
def sum_of_rest(e, v, m, EXACT: tl.constexpr):
    """Return, in float64, the sum of a tile's exponentials but for one maximum in each row; NaN where that is +inf."""
    top = v == m[:, None]
    others = tl.where(top, 0.0, e)
    rest = tl.sum(others.to(tl.float64) if EXACT else others, axis=1).to(tl.float64)
    more = tl.sum(top.to(tl.int32), axis=1) - 1
    return tl.where(m == float("inf"), float("nan"), rest + more)


@triton.jit
def lse(m, rest, rate, rate_low):
    """Return m * rate + log1p(rest) in float64; an infinite m is the result."""
    scaled = m.to(tl.float64) * wide(rate, rate_low)
    return tl.where(tl.abs(scaled) == float("inf"), scaled, scaled + log1p(rest, 1.0 / (1.0 + rest)))


@triton.jit
def row_loss(
    m, rest, x_y, w_y, total, mass, n_columns, smoothing, z_loss, rate, rate_low, scale,
    SMOOTH: tl.constexpr, PULL: tl.constexpr, EXACT: tl.constexpr, TEMPERED: tl.constexpr,
):  # fmt: skip
    """Return, in float64, a row's loss, the factor of exp(z - max z) in its gradient, and that of its class.

    `total` is sum_j w_j x_j and `mass` sum_j w_j, of which label smoothing takes the part smoothing / n_columns.
    """
    at_top = x_y == m
    high, low = shifted(x_y, m, rate, rate_low, EXACT, TEMPERED)
    e_y = exp(high, low, EXACT).to(tl.float64)
    exact_rate, m = wide(rate, rate_low), m.to(tl.float64)
    inverse = 1.0 / (1.0 + rest)
    log_rest = log1p(rest, inverse)
    fall = tl.where(at_top, 0.0, (m - x_y.to(tl.float64)) * exact_rate)
    not_y = tl.where(at_top, rest, 1.0 + rest - e_y) * inverse
    if SMOOTH:
        part = wide(smoothing, 0.0) / n_columns
        own = w_y * (1.0 - wide(smoothing, 0.0))
        all_weights = own + part * mass
        loss = own * (log_rest + fall) + part * (mass * log_rest + (mass * m - total) * exact_rate)
        added = part * (mass - w_y)
    else:
        all_weights = w_y
        loss = w_y * (log_rest + fall)
        added = tl.zeros_like(rest)
    if PULL:
        lse = tl.where(tl.abs(m) == float("inf"), m, m * exact_rate + log_rest)
        loss += wide(z_loss, 0.0) * lse * lse
        pull = 2.0 * wide(z_loss, 0.0) * lse
        all_weights += pull
        added += pull
    # a p_y - q_y as a (p_y - 1) + (a - q_y): the first keeps what 1 - p_y is where p_y rounds to 1
    by = exact_rate * scale
    return loss, all_weights * by * inverse, (added - all_weights * not_y) * by


@triton.jit
def class_weights(weight, y, columns, n_columns, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr):
    """Return the weights of the rows' classes and those of all columns, in float64 and float32."""
    w_y = tl.full(y.shape, 1.0, tl.float64)
    w = tl.full(columns.shape, 1.0, tl.float32)
    if WEIGHTED:
        w_y = tl.load(weight + y).to(tl.float64)
        if SMOOTH:
            w = tl.load(weight + columns, mask=columns < n_columns, other=0.0).to(tl.float32)
    return w_y, w


@triton.jit
def weighted_sum(v, w, mask):
    """Return sum_j w_j x_j of a tile's rows in float64, where a weight of zero takes no part."""
    terms = tl.where(mask & (w > 0.0)[None, :], w[None, :].to(tl.float64) * v.to(tl.float64), 0.0)
    return tl.sum(terms, axis=1)
