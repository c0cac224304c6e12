"""Rows of classes as whole vectors: the maximum, the exponential and the scaling of a row, for the compiled passes.

A compiler vectorises a loop over ten classes badly or not at all, so these are written in vectors. Rows are padded to a
multiple of `lanes` numbers; the padding holds -inf, which becomes 0. The exponential is that of `elementary` without
the terms that keep its rounding errors: within 2 units in the last place, for logits that are rounded products.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from softhead.kernels import elementary

# Where there is AVX-512: 32 registers of 64 bytes. Elsewhere there may be 16 of 32 bytes.
WIDE = bool(binding.get_host_cpu_features().get("avx512f", False))
_BYTES = 64 if WIDE else 32
# What lies further below the maximum is 0: times the weight of its row it is not subnormal, which would be slow.
_REACH_32, _REACH = 64.0, 600.0
_INDEX, _LANE = ir.IntType(64), ir.IntType(32)


def lanes(itemsize: int) -> int:
    """Return how many numbers make a vector; classes are padded to a multiple of it."""
    return _BYTES // itemsize


def vector(a: Any) -> Any:
    """Return `lanes` for the items of an array, as a constant of compiled code."""
    raise NotImplementedError


@overload(vector)
def _vector(a: Any) -> Any:
    count = lanes(a.dtype.bitwidth // 8)

    def constant(a: Any) -> Any:
        return count

    return constant


def number(k: int) -> Any:
    """Return an index constant."""
    return ir.Constant(_INDEX, k)


def splat(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of one number."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = ir.Constant(ir.VectorType(_LANE, kind.count), [0] * kind.count)
    return builder.shuffle_vector(builder.insert_element(nothing, value, ir.Constant(_LANE, 0)), nothing, first)


def call(builder: Any, name: str, result: Any, *args: Any, flags: tuple[str, ...] = ()) -> Any:
    """Call an intrinsic of LLVM."""
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args, fastmath=flags)


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once, of vectors."""
    bits = 32 if isinstance(a.type.element, ir.FloatType) else 64
    return call(builder, f"llvm.fma.v{a.type.count}f{bits}", a.type, a, b, c)


def position(context: Any, builder: Any, array: Any, value: Any, index: Any) -> Any:
    """Return the pointer to an item of a contiguous array, by its flat index."""
    return builder.gep(context.make_array(array)(context, builder, value).data, [index])


def vector_at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    """Return a pointer to a vector that starts at an item."""
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _kind(context: Any, dtype: Any, count: int) -> Any:
    return ir.VectorType(context.get_data_type(dtype), count)


def _over_row(builder: Any, base: Any, width: Any, kind: Any, carried: Any, body: Callable[..., Any]) -> Any:
    """Generate a loop over the vectors of a row, which carries a value from body(offset, pointer, vector, value)."""
    before, loop, after = builder.block, builder.append_basic_block("row"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    offset, value = builder.phi(_INDEX), builder.phi(carried.type)
    pointer = vector_at(builder, base, offset, kind)
    result = body(offset, pointer, builder.load(pointer, align=1), value)
    following = builder.add(offset, number(kind.count))
    for phi, start, end in ((offset, number(0), following), (value, carried, result)):
        phi.add_incoming(start, before)
        phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed("<", following, width), loop, after)
    builder.position_at_end(after)
    return result


def sum_of(builder: Any, doubles: Any) -> Any:
    """Return the sum of a vector of float64."""
    zero = ir.Constant(ir.DoubleType(), 0.0)
    name = f"llvm.vector.reduce.fadd.v{doubles.type.count}f64"
    return call(builder, name, ir.DoubleType(), zero, doubles, flags=("reassoc",))


@intrinsic
def maximum(context: Any, z: Any, at: Any, width: Any) -> Any:
    """Return the largest number of a row, from a flat index on; where it holds NaN, any number."""
    bits, count = z.dtype.bitwidth, lanes(z.dtype.bitwidth // 8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = _kind(context, z.dtype, count)
        base = position(context, builder, z, args[0], args[1])

        def larger(offset: Any, pointer: Any, values: Any, most: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", values, most), values, most)

        most = _over_row(builder, base, args[2], kind, ir.Constant(kind, [float("-inf")] * count), larger)
        return call(builder, f"llvm.vector.reduce.fmax.v{count}f{bits}", kind.element, most)

    return z.dtype(z, types.intp, types.intp), generate


@intrinsic
def exponentiate(context: Any, z: Any, at: Any, width: Any, m: Any) -> Any:
    """Overwrite a row by exp(z - m), for m at least its maximum, and return the sum in float64; NaN stays NaN."""
    bits, count = z.dtype.bitwidth, lanes(z.dtype.bitwidth // 8)
    single = bits == 32
    names = ("ROUNDER", "LOG2E", "LN2_HIGH", "LN2_LOW")
    rounder, log2e, high, low = (float(getattr(elementary, f"_{name}_32" if single else f"_{name}")) for name in names)
    series = [float(getattr(elementary, f"_A{i}" if single else f"_B{i}")) for i in range(5 if single else 10)]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = _kind(context, z.dtype, count)
        integers, doubles = ir.VectorType(ir.IntType(bits), count), ir.VectorType(ir.DoubleType(), count)

        def constant(value: float) -> Any:
            return ir.Constant(kind, [value] * count)

        def integer(value: int) -> Any:
            return ir.Constant(integers, [value] * count)

        origin = splat(builder, args[3], kind)
        base = position(context, builder, z, args[0], args[1])

        def exponential(offset: Any, pointer: Any, values: Any, total: Any) -> Any:
            d = builder.fsub(values, origin)
            rounded = fma(builder, d, constant(log2e), constant(rounder))
            k = builder.fsub(rounded, constant(rounder))
            r = fma(builder, k, constant(-low), fma(builder, k, constant(-high), d))
            q = constant(series[-1])
            for coefficient in (*reversed(series[:-1]), 1.0, 1.0):
                q = fma(builder, q, r, constant(coefficient))
            digits, bias = (23, 127) if single else (52, 1023)
            power = builder.sub(builder.bitcast(rounded, integers), builder.bitcast(constant(rounder), integers))
            power = builder.shl(builder.add(power, integer(bias)), integer(digits))
            e = builder.fmul(q, builder.bitcast(power, kind))
            far = builder.fcmp_ordered("<", d, constant(-_REACH_32 if single else -_REACH))
            e = builder.select(far, constant(0.0), e)
            builder.store(e, pointer, align=1)
            return builder.fadd(total, builder.fpext(e, doubles) if single else e)

        total = _over_row(builder, base, args[2], kind, ir.Constant(doubles, [0.0] * count), exponential)
        return sum_of(builder, total)

    return types.float64(z, types.intp, types.intp, z.dtype), generate


@intrinsic
def scale(context: Any, z: Any, at: Any, width: Any, factor: Any, sums: Any) -> Any:
    """Multiply a row by a number, add the result to `sums`, which is float64, and return the sum of its squares."""
    count = lanes(z.dtype.bitwidth // 8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = _kind(context, z.dtype, count)
        doubles = ir.VectorType(ir.DoubleType(), count)
        factors = splat(builder, args[3], kind)
        base = position(context, builder, z, args[0], args[1])
        totals = position(context, builder, sums, args[4], number(0))

        def multiply(offset: Any, pointer: Any, values: Any, squares: Any) -> Any:
            values = builder.fmul(values, factors)
            builder.store(values, pointer, align=1)
            place = vector_at(builder, totals, offset, doubles)
            more = builder.fpext(values, doubles) if kind.element != doubles.element else values
            builder.store(builder.fadd(builder.load(place, align=1), more), place, align=1)
            return fma(builder, more, more, squares)

        squares = _over_row(builder, base, args[2], kind, ir.Constant(doubles, [0.0] * count), multiply)
        return sum_of(builder, squares)

    return types.float64(z, types.intp, types.intp, z.dtype, sums), generate
