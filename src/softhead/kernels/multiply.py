"""A matrix product for the compiled passes over rows: small blocks of the result held in registers, in vectors.

A pass needs two products of one tile of rows x (n, d) while it is in cache: the logits x W and the gradient x^T R. Both
are sums over k of a column of x, taken as it lies in memory, times a row of classes, `lanes` of them a vector. A block
of 8 x 3 vectors of the result stays in registers for the whole sum; each step loads 3 vectors and 8 numbers for 24
multiply-adds.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softhead.kernels.elementary import inlined
from softhead.kernels.vectors import WIDE, fma, lanes, number, position, splat, vector, vector_at

STEP = 8  # rows of a result block: with 3 vectors each, 24 of the 32 registers of AVX-512; elsewhere 1 vector each


def _block(vectors: int) -> Any:
    """Return the intrinsic that adds a block of STEP x `vectors` vectors of a product to a result."""

    @intrinsic
    def add_block(
        context: Any, a: Any, at: Any, row: Any, step: Any, n: Any, b: Any, column: Any, width: Any, out: Any, to: Any
    ) -> Any:
        given, narrow, wide = (array.dtype.bitwidth for array in (a, b, out))
        count = lanes(narrow // 8)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, result = (ir.VectorType(context.get_data_type(array.dtype), count) for array in (b, out))
            source, factor, target = (
                position(context, builder, signature.args[k], args[k], args[k + 1]) for k in (0, 5, 8)
            )
            # What follows `a` and its position is by name: a closure over args would hide which is which.
            row, step, n, width = args[2], args[3], args[4], args[7]
            offsets = [builder.mul(row, number(i)) for i in range(STEP)]
            columns = [number(v * count) for v in range(vectors)]
            before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("after")
            builder.branch(loop)

            builder.position_at_end(loop)
            k, x, w = builder.phi(n.type), builder.phi(source.type), builder.phi(factor.type)
            sums = [[builder.phi(kind) for _ in columns] for _ in offsets]
            values = [builder.load(vector_at(builder, w, column, kind), align=1) for column in columns]
            added = []
            for offset, row_sums in zip(offsets, sums, strict=True):
                item = builder.load(builder.gep(x, [offset]))
                if given != narrow:
                    item = (builder.fpext if given < narrow else builder.fptrunc)(item, kind.element)
                item = splat(builder, item, kind)
                added.append([fma(builder, item, value, total) for value, total in zip(values, row_sums, strict=True)])
            following = builder.add(k, number(1))
            carried = [(k, number(0), following)]
            carried += [(x, source, builder.gep(x, [step])), (w, factor, builder.gep(w, [width]))]
            zero = ir.Constant(kind, [0.0] * count)
            for row_sums, row_added in zip(sums, added, strict=True):
                carried += [(total, zero, more) for total, more in zip(row_sums, row_added, strict=True)]
            for phi, start, end in carried:
                phi.add_incoming(start, before)
                phi.add_incoming(end, loop)
            builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

            builder.position_at_end(after)
            for i, row_added in enumerate(added):
                for column, more in zip(columns, row_added, strict=True):
                    offset = builder.add(builder.mul(width, number(i)), column)
                    place = vector_at(builder, target, offset, result)
                    more = more if wide == narrow else builder.fpext(more, result)
                    builder.store(builder.fadd(builder.load(place, align=1), more), place, align=1)
            return context.get_dummy_value()

        return types.void(a, *[types.intp] * 4, b, *[types.intp] * 2, out, types.intp), generate

    return add_block


_one, _two, _three = _block(1), _block(2), _block(3)


@inlined
def add_product(a: Any, at: Any, row: Any, step: Any, n: Any, b: Any, out: Any, m: Any) -> Any:
    """Add to out[i, :], for i < m, the sum over k < n of a[at + row i + step k] b[k, :], by flat positions in a.

    n is positive, and m is rounded up to a multiple of STEP: a must hold what that reads, and out be that long. b
    and out are contiguous and equally wide, a multiple of `lanes`. a may be of another type than b, and out of a wider
    one; then each call rounds its sums to the type of b.
    """
    width, count = b.shape[1], vector(b)
    c = 0
    while c < width:
        left = (width - c) // count
        if WIDE and left >= 3:
            for i in range(0, m, STEP):
                _three(a, at + i * row, row, step, n, b, c, width, out, i * width + c)
            c += 3 * count
        elif WIDE and left == 2:
            for i in range(0, m, STEP):
                _two(a, at + i * row, row, step, n, b, c, width, out, i * width + c)
            c += 2 * count
        else:
            for i in range(0, m, STEP):
                _one(a, at + i * row, row, step, n, b, c, width, out, i * width + c)
            c += count


@inlined
def add_square(a: Any, step: Any, n: Any, b: Any, out: Any, m: Any) -> Any:
    """Add as `add_product` does with at = 0 and row = 1, but at least what lies on and above the diagonal."""
    width, count = b.shape[1], vector(b)
    most = 3 * count if WIDE else count
    for c in range(0, width, most):
        for i in range(0, min(m, c + most), STEP):
            if c + most <= width and WIDE:
                _three(a, i, 1, step, n, b, c, width, out, i * width + c)
            else:
                for column in range(c, min(c + most, width), count):
                    _one(a, i, 1, step, n, b, column, width, out, i * width + column)
