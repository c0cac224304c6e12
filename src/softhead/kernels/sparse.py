"""Products of sparse rows with dense matrices, compiled: a row's logits, and its part of a gradient.

The dense operand lies features x classes, so that an entry of a row meets all classes side by side. Classes are padded
to whole vectors (`padded`), and a tile of them is held in registers while the entries of a row pass by; with arrays as
accumulators instead, which is what a plain loop compiles to, the same products take four times as long.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from softhead.kernels.elementary import row_loop

LANES = 8  # numbers in the narrowest vector; rows of dense operands are whole multiples of it
_UNROLL = 4  # sums that proceed side by side: a fused multiply-add takes four cycles
_WORD = ir.IntType(64)


def padded(n_classes: int) -> int:
    """Return the number of columns that an operand for n_classes needs."""
    return -(-n_classes // LANES) * LANES


def _constant(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _data(context: Any, builder: Any, signature: Any, args: Any, position: int) -> Any:
    """Return the pointer to the first element of an array argument."""
    return context.make_array(signature.args[position])(context, builder, args[position]).data


class _Entries:
    """The entries of one sparse row and the vectors of the dense operand that they meet, in LLVM's terms."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, lanes: int) -> None:
        self.builder = builder
        self.vectors, self.dense, self.indices, self.values = (
            _data(context, builder, signature, args, k) for k in (0, 2, 3, 4)
        )
        self.position, self.start, self.stop, self.width, self.offset = (args[k] for k in (1, 5, 6, 7, 8))
        element = self.vectors.type.pointee
        self.size = 4 if element == ir.FloatType() else 8
        self.element, self.kind = element, ir.VectorType(element, lanes)

    def vector(self, base: Any, index: Any) -> Any:
        """Return the pointer to the vector that begins at an element."""
        return self.builder.bitcast(self.builder.gep(base, [index]), self.kind.as_pointer())

    def load(self, pointer: Any) -> Any:
        return self.builder.load(pointer, align=self.size)

    def meet(self, k: Any) -> tuple[Any, Any]:
        """Return the pointer to the dense vector that entry k meets, and the entry's value in every lane."""
        builder = self.builder
        column, value = builder.load(builder.gep(self.indices, [k])), builder.load(builder.gep(self.values, [k]))
        if column.type.width < _WORD.width:
            column = builder.zext(column, _WORD)
        if value.type != self.element:
            value = builder.fpext(value, self.element)
        where = self.vector(self.dense, builder.add(builder.mul(column, self.width), self.offset))
        first = ir.Constant(ir.IntType(32), 0)
        nothing = ir.Constant(self.kind, ir.Undefined)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.kind.count), None)
        return where, builder.shuffle_vector(builder.insert_element(nothing, value, first), nothing, lanes)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.fadd(self.builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _signature(sums: Any, dense: Any, indices: Any, values: Any) -> Any:
    word = types.uint64
    return types.void(sums, word, dense, indices, values, word, word, word, word)


def _gather(lanes: int) -> Any:
    """Make the intrinsic that adds a row times a dense operand to `lanes` sums."""

    @intrinsic
    def gather(
        typing: Any,
        sums: Any,
        position: Any,
        dense: Any,
        indices: Any,
        values: Any,
        start: Any,
        stop: Any,
        width: Any,
        offset: Any,
    ) -> Any:
        """sums.flat[position:][:lanes] += sum over entries k of values[k] * dense[indices[k], offset:][:lanes]."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row = _Entries(context, builder, signature, args, lanes)
            totals = [cgutils.alloca_once(builder, row.kind) for _ in range(_UNROLL)]
            target = row.vector(row.vectors, row.position)
            builder.store(row.load(target), totals[0])
            for total in totals[1:]:
                builder.store(ir.Constant(row.kind, None), total)

            def step(k: Any, total: Any) -> None:
                where, value = row.meet(k)
                builder.store(row.fused(value, row.load(where), builder.load(total)), total)

            rounds = builder.udiv(builder.sub(row.stop, row.start), _constant(_UNROLL))
            with cgutils.for_range(builder, rounds) as loop:
                k = builder.add(row.start, builder.mul(loop.index, _constant(_UNROLL)))
                for number, total in enumerate(totals):
                    step(builder.add(k, _constant(number)), total)
            done = builder.add(row.start, builder.mul(rounds, _constant(_UNROLL)))
            with cgutils.for_range(builder, builder.sub(row.stop, done)) as loop:
                step(builder.add(done, loop.index), totals[0])
            first, second, third, fourth = (builder.load(total) for total in totals)
            sum_ = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
            builder.store(sum_, target, align=row.size)
            return context.get_dummy_value()

        return _signature(sums, dense, indices, values), generate

    return gather


def _spread(lanes: int) -> Any:
    """Make the intrinsic that adds the products of a row's entries and `lanes` numbers to a dense operand."""

    @intrinsic
    def spread(
        typing: Any,
        factors: Any,
        position: Any,
        dense: Any,
        indices: Any,
        values: Any,
        start: Any,
        stop: Any,
        width: Any,
        offset: Any,
    ) -> Any:
        """dense[indices[k], offset:][:lanes] += values[k] * factors.flat[position:][:lanes] for every entry k."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row = _Entries(context, builder, signature, args, lanes)
            factor = row.load(row.vector(row.vectors, row.position))
            with cgutils.for_range(builder, builder.sub(row.stop, row.start)) as loop:
                where, value = row.meet(builder.add(row.start, loop.index))
                builder.store(row.fused(value, factor, row.load(where)), where, align=row.size)
            return context.get_dummy_value()

        return _signature(factors, dense, indices, values), generate

    return spread


gather_8, gather_16, gather_32 = _gather(8), _gather(16), _gather(32)
spread_8, spread_16, spread_32 = _spread(8), _spread(16), _spread(32)
