"""Half types without options, by the loops for float32: rows are widened, mapped in place and rounded.

float32 holds 13 bits or more beyond those of a half type: its error of a few units is less than a hundredth of one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softhead.kernels.compiled import loops_for
from softhead.kernels.elementary import row_loop
from softhead.kernels.long_rows import LONG
from softhead.kernels.threads import over_rows

_PART = 2**15  # elements: what is widened stays in the second-level cache
_u32 = np.uint32
_MAGNITUDE, _SIGN, _ABOVE, _ONE = _u32(0x7FFF), _u32(0x8000), _u32(0x7F800000), _u32(1)
_15, _16, _31 = _u32(15), _u32(16), _u32(31)


@intrinsic
def _as_float(context: Any, bits: Any) -> Any:
    """Return the float32 of 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _as_bits(context: Any, value: Any) -> Any:
    """Return the 32 bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@row_loop
def _widen(halves: Any, dropped: Any, rebias: Any, unit: Any, infinity: Any, singles: Any) -> None:
    """Convert half numbers: exponents are moved, a subnormal number is a multiple of the unit."""
    normal = infinity & (~infinity + _ONE)  # the lowest bit of the exponent
    for j in range(len(halves)):
        half = _u32(halves[j])
        size = half & _MAGNITUDE
        small = np.float32(np.int32(size)) * unit
        bits = _u32((size << dropped) + rebias)
        bits = bits | _ABOVE if size >= infinity else bits
        bits = _as_bits(small) if size < normal else bits
        singles[j] = _as_float(bits | ((half & _SIGN) << _16))


@row_loop
def _narrow(singles: Any, dropped: Any, rebias: Any, rounder: Any, smallest: Any, infinity: Any, halves: Any) -> None:
    """Round to half numbers, ties to even: on the bits, and subnormal numbers by adding the rounder."""
    base, nan = _as_bits(rounder), infinity | ((infinity & (~infinity + _ONE)) >> _ONE)
    below = (_ONE << (dropped - _ONE)) - _ONE
    for j in range(len(halves)):
        bits = _as_bits(singles[j])
        size = bits & _u32(0x7FFFFFFF)
        value = _as_float(size)
        rounded = _u32(size - rebias + below + ((size >> dropped) & _ONE)) >> dropped
        rounded = min(rounded, infinity)
        rounded = _u32(_as_bits(value + rounder) - base) if value < smallest else rounded
        rounded = nan if size > _ABOVE else rounded
        halves[j] = np.uint16(rounded | ((bits >> _31) << _15))


# float16, and bfloat16, whose subnormal numbers are those of float32, but for their last bits: dropped bits, difference
# of the exponents, unit, rounder and smallest number below which it is used, infinity.
_FLOAT16 = _u32(13), _u32((127 - 15) << 23), np.float32(2.0**-24), np.float32(0.5), np.float32(2.0**-14), _u32(0x7C00)
_BFLOAT16 = _u32(16), _u32(0), np.float32(2.0**-133), np.float32(0.5), np.float32(0.0), _u32(0x7F80)


def takes(x: np.ndarray, out: np.ndarray) -> bool:
    """Return whether both arrays are of one half type, and the rows of a length for which there are loops."""
    return x.dtype.itemsize == 2 and out.dtype == x.dtype and x.shape[1] <= LONG


def softmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write the softmax of every row of x."""
    loop = loops_for(x).softmax
    _run(x, lambda rows, wide: loop(wide, wide), out)


def log_softmax(x: np.ndarray, out: np.ndarray) -> None:
    """Write the logarithm of the softmax of every row of x."""
    loop = loops_for(x).log_softmax
    _run(x, lambda rows, wide: loop(wide, wide), out)


def _run(x: np.ndarray, loop: Callable[[slice, np.ndarray], None], out: np.ndarray) -> None:
    """Call a loop with slices of the rows and these in float32, which it overwrites with what is written into out."""
    dropped, rebias, unit, rounder, smallest, infinity = _FLOAT16 if x.dtype.name == "float16" else _BFLOAT16

    def run(rows: slice) -> None:
        size = max(1, _PART // x.shape[1])
        for start in range(rows.start, rows.stop, size):
            part = slice(start, min(start + size, rows.stop))
            halves = np.array(x[part], copy=None, order="C").view(np.uint16)
            wide = np.empty(halves.shape, np.float32)
            _widen(halves.reshape(-1), dropped, rebias, unit, infinity, wide.reshape(-1))
            loop(part, wide)
            result = np.empty(halves.shape, np.uint16)
            _narrow(wide.reshape(-1), dropped, rebias, rounder, smallest, infinity, result.reshape(-1))
            out[part] = result.view(x.dtype)

    over_rows(run, x)
