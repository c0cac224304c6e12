"""Rows of any floating type as float64: widened when they are read, rounded once when they are written.

A loop takes rows as bytes, with a code for the format of the numbers: one compiled loop then serves the four formats in
any mix. float16 and bfloat16, which Numba does not know, are converted by integer operations that LLVM vectorises.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softhead.kernels.elementary import borrowing, larger

FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = range(4)
CODES = {"float16": FLOAT16, "bfloat16": BFLOAT16, "float32": FLOAT32, "float64": FLOAT64}

_MAGNITUDE, _SIGN = np.uint64(0x7FFF), np.uint64(0x8000)
_ABOVE, _NAN, _ONE = np.uint64(0x7FF << 52), np.uint64(1 << 51), np.uint64(1)
_15, _48, _63 = np.uint64(15), np.uint64(48), np.uint64(63)


@intrinsic
def _as_float(context: Any, bits: Any) -> Any:
    """Return the float64 of 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.uint64), generate


@intrinsic
def _as_bits(context: Any, value: Any) -> Any:
    """Return the 64 bits of a float64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.uint64(types.float64), generate


def _number(kind: Any) -> tuple[Any, Any]:
    """Return functions that read and write the k-th of the numbers of a type that an array of bytes holds."""

    def place(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.gep(builder.bitcast(data, context.get_value_type(kind).as_pointer()), [args[1]])

    @intrinsic
    def read(context: Any, source: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(place(context, builder, signature, args), align=kind.bitwidth // 8)

        return kind(source, types.intp), generate

    @intrinsic
    def write(context: Any, target: Any, k: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], place(context, builder, signature, args), align=kind.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(target, types.intp, kind), generate

    return read, write


_read_half, _write_half = _number(types.uint16)
_read_single, _write_single = _number(types.float32)
_read_double, _write_double = _number(types.float64)


@borrowing
def _layout(code: Any) -> Any:
    """Return how a half type lies in a float64.

    That is: the bits of the significand that it drops; by how much its exponent is smaller; its infinity; and its
    smallest normal and subnormal numbers.
    """
    if code == BFLOAT16:
        return np.uint64(45), np.uint64((1023 - 127) << 52), np.uint64(0x7F80), 2.0**-126, 2.0**-133
    return np.uint64(42), np.uint64((1023 - 15) << 52), np.uint64(0x7C00), 2.0**-14, 2.0**-24


@borrowing
def load(source: Any, start: Any, size: Any, code: Any, n: Any, rows: Any, maxima: Any) -> Any:
    """Widen rows of n numbers of an array of bytes, from row start on, and take their maxima: NaN if a number is."""
    if code == FLOAT64:
        for k in range(size):
            first, m = (start + k) * n, -np.inf
            for j in range(n):
                value = _read_double(source, first + j)
                rows[k, j] = value
                m = larger(m, value)
            maxima[k] = m
    elif code == FLOAT32:
        for k in range(size):
            first, m = (start + k) * n, -np.inf
            for j in range(n):
                value = np.float64(_read_single(source, first + j))
                rows[k, j] = value
                m = larger(m, value)
            maxima[k] = m
    else:
        _load_halves(source, start, size, code, n, rows, maxima)


@borrowing
def _load_halves(source: Any, start: Any, size: Any, code: Any, n: Any, rows: Any, maxima: Any) -> Any:
    """Do as `load` does for float16 or bfloat16: exponents are moved, a subnormal number is a multiple of the unit."""
    dropped, rebias, infinity, _, unit = _layout(code)
    normal = infinity & -infinity  # the lowest bit of the exponent
    for k in range(size):
        first, m = (start + k) * n, -np.inf
        for j in range(n):
            half = np.uint64(_read_half(source, first + j))
            magnitude = half & _MAGNITUDE
            small = np.float64(np.int32(magnitude)) * unit
            bits = (magnitude << dropped) + rebias
            bits = bits | _ABOVE if magnitude >= infinity else bits
            bits = _as_bits(small) if magnitude < normal else bits
            value = _as_float(bits | ((half & _SIGN) << _48))
            rows[k, j] = value
            m = larger(m, value)
        maxima[k] = m


@borrowing
def store(row: Any, target: Any, i: Any, code: Any, n: Any) -> Any:
    """Write n numbers of a row of float64 as row i of the bytes of an array, rounded once."""
    first = i * n
    if code == FLOAT64:
        for j in range(n):
            _write_double(target, first + j, row[j])
    elif code == FLOAT32:
        for j in range(n):
            _write_single(target, first + j, np.float32(row[j]))
    else:
        dropped, rebias, infinity, smallest, unit = _layout(code)
        rounder = unit * 2.0**52  # adding it rounds to a multiple of the unit
        base, nan = _as_bits(rounder), infinity | ((infinity & -infinity) >> _ONE)
        below = (_ONE << (dropped - _ONE)) - _ONE  # adding it to the bits rounds ties down
        for j in range(n):
            bits = _as_bits(row[j])
            size = bits & ~(_ONE << _63)
            value = _as_float(size)
            rounded = (size - rebias + below + ((size >> dropped) & _ONE)) >> dropped
            rounded = min(rounded, infinity)
            rounded = _as_bits(value + rounder) - base if value < smallest else rounded
            rounded = nan if size > _ABOVE else rounded
            _write_half(target, first + j, np.uint16(rounded | ((bits >> _63) << _15)))
