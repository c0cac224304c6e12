"""The exponential of the compiled row loops: the same few operations for float32 and float64, made to be vectorised.

A loop exponentiates differences d + d_low that are never positive, where d_low is the rounding error of d, and works
with 2**lift times the result: the lift keeps all that matters among the normal numbers. With d = k ln 2 + r,

    exp(d + d_low) = 2**k exp(r + d_low).

The reduction is Cody and Waite's ("Software manual for the elementary functions", 1980, chapter 6) with fused
multiply-adds: d - k * LN2_HIGH is exact, so that little more than the last sum rounds. The polynomials are minimax on
abs(r) <= ln(2) / 2 for the relative error of exp: 2**-28 in float32 and 2**-56 in float64.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

_f32 = np.float32


def _single(digits: str) -> np.float32:
    """Return a float32 from its hexadecimal digits: a constant of another type would widen the arithmetic."""
    return _f32(float.fromhex(digits))


# Adding it rounds to an integer k, and leaves k, the lift and the bias of the exponent in the last bits: moved to the
# exponent's place they are 2**(lift + k), or zero where that would not be a normal number.
_ROUNDER_32, _ROUNDER = _f32(1.5 * 2.0**23 + 127.0 + 60.0), 1.5 * 2.0**52 + 1023.0 + 512.0
_UNLIFTED = 1.5 * 2.0**52 + 1023.0
_LOG2E_32, _LOG2E = _single("0x1.715476p+0"), float.fromhex("0x1.71547652b82fep+0")
_LN2_HIGH_32, _LN2_HIGH = _single("0x1.62e43p-1"), float.fromhex("0x1.62e42fefa39efp-1")
_LN2_LOW_32, _LN2_LOW = _single("-0x1.05c61p-29"), float.fromhex("0x1.abc9e3b39803fp-56")
# A logit that lies this far below the maximum has k = -187 or k = -1535: its exponential is exactly zero.
_REACH_32, _REACH = _f32(129.75), 1064.25

# ln 2 with 20 zeros at its end, so that products with small integers are exact, and the rest.
_LN2_SHORT, _LN2_REST = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")

# (log((1 + s) / (1 - s)) / s - 2) / s**2 = C0 + C1 s**2 + ...
_C0, _C1 = float.fromhex("0x1.5555555555558p-1"), float.fromhex("0x1.9999999995273p-2")
_C2, _C3 = float.fromhex("0x1.2492492dfd86cp-2"), float.fromhex("0x1.c71c62d5e53e0p-3")
_C4, _C5 = float.fromhex("0x1.7462b91b8df65p-3"), float.fromhex("0x1.39fdcceb4bb45p-3")
_C6 = float.fromhex("0x1.2b5f68a50d903p-3")

# (exp(r) - 1 - r) / r**2 = A0 + A1 r + ...
_A0, _A1, _A2 = _single("0x1.fffffcp-2"), _single("0x1.555492p-3"), _single("0x1.5558f2p-5")
_A3, _A4 = _single("0x1.123a2p-7"), _single("0x1.6a23dp-10")
_B0, _B1 = float.fromhex("0x1.000000000000ap-1"), float.fromhex("0x1.55555555554f9p-3")
_B2, _B3 = float.fromhex("0x1.555555555083ep-5"), float.fromhex("0x1.1111111127d10p-7")
_B4, _B5 = float.fromhex("0x1.6c16c18438b2ap-10"), float.fromhex("0x1.a01a012a0e882p-13")
_B6, _B7 = float.fromhex("0x1.a01999e25ce43p-16"), float.fromhex("0x1.71df25b4a6a5cp-19")
_B8, _B9 = float.fromhex("0x1.28ad9b8b7c16bp-22"), float.fromhex("0x1.ad7f3c411bf5bp-26")


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return a(a, a, a), generate


@intrinsic
def larger(context: Any, a: Any, b: Any) -> Any:
    """Return the larger number, NaN if either is: unlike a comparison it reduces a loop lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        function = builder.module.declare_intrinsic("llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args, fastmath=("nsz",))

    return a(a, a), generate


@intrinsic
def add(context: Any, a: Any, b: Any) -> Any:
    """Return a + b, where a loop may add in lanes. This one addition alone: others must round where they stand."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args, flags=("reassoc",))

    return a(a, a), generate


@intrinsic
def copy(context: Any, to: Any, to_start: Any, source: Any, start: Any, n: Any) -> Any:
    """Copy n elements between C-contiguous arrays of one dtype that do not overlap, from flat positions on."""
    size = to.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def pointer(k: int) -> Any:
            data = context.make_array(signature.args[k])(context, builder, args[k]).data
            return builder.gep(data, [args[k + 1]])

        cgutils.raw_memcpy(builder, pointer(0), pointer(2), args[4], size)
        return context.get_dummy_value()

    return types.void(to, types.intp, source, types.intp, types.intp), generate


def _fetch(to_write: bool) -> Callable[..., None]:
    """Return a function that asks for the cache line of an array's element, to be read or written soon."""

    @intrinsic
    def fetch(context: Any, array: Any, position: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            place = builder.bitcast(builder.gep(data, [args[1]]), cgutils.voidptr_t)
            integer = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [place.type, integer, integer, integer])
            prefetch = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
            builder.call(prefetch, [place, integer(int(to_write)), integer(3), integer(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return fetch


fetch_to_read, fetch_to_write = _fetch(False), _fetch(True)


@intrinsic
def _power(context: Any, rounded: Any) -> Any:
    """Return 2**(lift + k) for k + the rounder."""
    width, digits = (32, 23) if rounded == types.float32 else (64, 52)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(width)
        power = builder.shl(builder.bitcast(args[0], integer), ir.Constant(integer, digits))
        return builder.bitcast(power, args[0].type)

    return rounded(rounded), generate


@intrinsic
def _exponent(context: Any, value: Any) -> Any:
    """Return the integer k for which value / 2**k lies between the roots of 1/2 and 2, for positive float64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        bits = builder.sub(builder.bitcast(args[0], integer), ir.Constant(integer, 0x3FE6A09E667F3BCD))
        return builder.sitofp(builder.ashr(bits, ir.Constant(integer, 52)), args[0].type)

    return value(value), generate


def exp_parts(d: Any, d_low: Any) -> Any:
    """Return the parts of 2**lift exp(d + d_low) = scale + scale * s, within 0.7 u: a power of 2, and s near 0."""
    raise NotImplementedError


@overload(exp_parts)
def _exp_parts(d: Any, d_low: Any) -> Any:
    if d == types.float32:

        def single(d: Any, d_low: Any) -> Any:
            rounded = fma(d, _LOG2E_32, _ROUNDER_32)
            k = rounded - _ROUNDER_32
            r = fma(-k, _LN2_HIGH_32, d)
            r_low = fma(-k, _LN2_LOW_32, d_low)
            near = r + r_low
            square = near * near
            q = fma(fma(_A4, square, fma(_A3, near, _A2)), square, fma(_A1, near, _A0))
            return _power(rounded), r + fma(square, q, r_low)

        return single

    def double(d: Any, d_low: Any) -> Any:
        rounded = fma(d, _LOG2E, _ROUNDER)
        k = rounded - _ROUNDER
        r = fma(-k, _LN2_HIGH, d)
        r_low = fma(-k, _LN2_LOW, d_low)
        near = r + r_low
        square = near * near
        fourth = square * square
        q = fma(fma(_B9, near, _B8), fourth, fma(fma(_B7, near, _B6), square, fma(_B5, near, _B4)))
        q = fma(q, fourth, fma(fma(_B3, near, _B2), square, fma(_B1, near, _B0)))
        return _power(rounded), r + fma(square, q, r_low)

    return double


def reach(m: Any) -> Any:
    """Return how far below the row maximum m a logit has an exponential that counts, a multiple of 1/4."""
    raise NotImplementedError


@overload(reach)
def _reach(m: Any) -> Any:
    far = _REACH_32 if m == types.float32 else _REACH

    def constant(m: Any) -> Any:
        return far

    return constant


def unit(m: Any) -> Any:
    """Return 2**lift, which is `exp` of nothing."""
    raise NotImplementedError


@overload(unit)
def _unit(m: Any) -> Any:
    lifted = _f32(2.0**60) if m == types.float32 else 2.0**512

    def constant(m: Any) -> Any:
        return lifted

    return constant


inlined = njit(error_model="numpy", forceinline=True)
# The same for what neither makes an array nor returns one or a view. It does not count references to those it is given,
# which takes 5 ns each time and kept two rows from overlapping: rows of 100 classes took 61 ns, and 49 without.
borrowing = njit(error_model="numpy", forceinline=True, _nrt=False)


def row_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that releases the GIL on its first call, and keep the result on disk where a place is writable."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # there is none
        return njit(nogil=True, error_model="numpy")(function)


@inlined
def exp(d: Any, d_low: Any) -> Any:
    """Return 2**lift exp(d + d_low), within 1.4 u, and what its rounding took: together within 0.7 u."""
    scale, s = exp_parts(d, d_low)
    value = fma(scale, s, scale)
    return value, fma(scale, s, scale - value)


@inlined
def exp_difference(x: Any, m: Any) -> Any:
    """Return `exp` of x - m, at most 0, with the rounding error of the difference."""
    d = x - m
    minus_m = d - x
    return exp(d, (x - (d - minus_m)) - (m + minus_m))


@inlined
def log1p(z: Any) -> Any:
    """Return log(1 + z) for 0 <= z < 2**50 in float64, within 1.5 units in the last place; NaN stays NaN."""
    s = 1.0 + z
    s_low = z - (s - 1.0) if z < 1.0 else 1.0 - (s - z)
    k = _exponent(s)
    f = z if k == 0.0 else s * _power(_UNLIFTED - k) - 1.0
    correction = 0.0 if k == 0.0 else s_low / s
    return _log(k, f, correction)


@inlined
def log(x: Any) -> Any:
    """Return log(x) for positive and finite x in float64, within 1.5 units in the last place."""
    tiny, huge = x < 2.0**-900, x > 2.0**900
    s = x * 2.0**200 if tiny else x
    s = x * 2.0**-200 if huge else s
    k = _exponent(s)
    f = s * _power(_UNLIFTED - k) - 1.0
    k = k - 200.0 if tiny else k
    k = k + 200.0 if huge else k
    return _log(k, f, 0.0)


@inlined
def _log(k: Any, f: Any, correction: Any) -> Any:
    """Return k log(2) + log(1 + f) + correction, for 1 + f between the roots of 1/2 and 2."""
    q = f / (2.0 + f)
    w = q * q
    tail = w * fma(fma(fma(fma(fma(fma(_C6, w, _C5), w, _C4), w, _C3), w, _C2), w, _C1), w, _C0)
    half_square = 0.5 * f * f
    small = q * (half_square + tail) + (k * _LN2_REST + correction)
    return k * _LN2_SHORT - ((half_square - small) - f)


@inlined
def add_pair(hi: Any, lo: Any, more: Any, more_low: Any) -> Any:
    """Return the sum of two pairs, of which the second may be the larger."""
    total = hi + more
    part = total - hi
    return total, lo + (((hi - (total - part)) + (more - part)) + more_low)


@inlined
def divide(numerator: Any, hi: Any, lo: Any, kind: Any) -> Any:
    """Return numerator / (hi + lo) as a pair of the given type."""
    quotient = numerator / hi
    remainder = (fma(-quotient, hi, numerator) - quotient * lo) / hi
    high = kind(quotient)
    return high, kind((quotient - high) + remainder)
