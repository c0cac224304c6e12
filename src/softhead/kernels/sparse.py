"""Products of the rows of a sparse matrix with dense operands, in vectors: logits, and parts of a gradient.

A dense operand lies features x classes, classes padded to whole vectors, so that an entry of a row meets all classes
side by side. Up to 32 classes stay in registers while the entries of a row pass by; sums in memory, which is what a
plain loop compiles to, take four times as long.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from softhead.kernels.elementary import inlined, row_loop
from softhead.kernels.linear_pass import probabilities, residuals
from softhead.kernels.vectors import fma, number, position, splat, vector_at

_UNROLL = 4  # sums that proceed side by side: a fused multiply-add takes four cycles


def dense_operand(n_features: int, width: int, dtype: np.dtype) -> np.ndarray:
    """Return zeros of this shape, whose rows begin where cache lines do: elsewhere a sweep takes twice as long."""
    line = 64
    room = np.zeros(n_features * width * dtype.itemsize + line, np.uint8)
    start = -room.ctypes.data % line
    return room[start : start + n_features * width * dtype.itemsize].view(dtype).reshape(n_features, width)


class _Entries:
    """The entries of a sparse row and the vectors of the dense operand that they meet, as generated code."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, lanes: int) -> None:
        self.builder = builder
        kinds = signature.args
        self._dense, self._indices, self._values = (
            position(context, builder, kinds[k], args[k], number(0)) for k in (2, 3, 4)
        )
        self.start, self.stop, self._width, self._offset = args[5:]
        element = self._dense.type.pointee
        self.kind = ir.VectorType(element, lanes)
        own = position(context, builder, kinds[0], args[0], builder.add(args[1], self._offset))
        self.own = vector_at(builder, own, number(0), self.kind)

    def load(self, pointer: Any) -> Any:
        return self.builder.load(pointer, align=1)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, pointer, align=1)

    def meet(self, k: Any) -> tuple[Any, Any]:
        """Return the pointer to the vector that entry k meets, and the entry's value in every lane."""
        builder = self.builder
        column, value = (builder.load(builder.gep(array, [k])) for array in (self._indices, self._values))
        if column.type.width < 64:
            column = builder.zext(column, ir.IntType(64))
        if value.type != self.kind.element:
            value = builder.fpext(value, self.kind.element)
        offset = builder.add(builder.mul(column, self._width), self._offset)
        return vector_at(builder, self._dense, offset, self.kind), splat(builder, value, self.kind)


def _product(lanes: int, body: Any) -> Any:
    """Make an intrinsic of a sparse row, numbers of its own from a flat index on, and columns of a dense operand."""

    @intrinsic
    def product(
        context: Any,
        own: Any,
        at: Any,
        dense: Any,
        indices: Any,
        values: Any,
        start: Any,
        stop: Any,
        width: Any,
        offset: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            body(builder, _Entries(context, builder, signature, args, lanes))
            return context.get_dummy_value()

        flat = types.intp
        return types.void(own, flat, dense, indices, values, flat, flat, flat, flat), generate

    return product


def _gather(builder: Any, row: _Entries) -> None:
    """Generate own += sum_k values[k] * dense[indices[k]]."""
    totals = [cgutils.alloca_once(builder, row.kind) for _ in range(_UNROLL)]
    builder.store(row.load(row.own), totals[0])
    for total in totals[1:]:
        builder.store(ir.Constant(row.kind, None), total)

    def step(k: Any, total: Any) -> None:
        where, value = row.meet(k)
        builder.store(fma(builder, value, row.load(where), builder.load(total)), total)

    rounds = builder.sdiv(builder.sub(row.stop, row.start), number(_UNROLL))
    with cgutils.for_range(builder, rounds) as loop:
        first = builder.add(row.start, builder.mul(loop.index, number(_UNROLL)))
        for k, total in enumerate(totals):
            step(builder.add(first, number(k)), total)
    done = builder.add(row.start, builder.mul(rounds, number(_UNROLL)))
    with cgutils.for_range(builder, builder.sub(row.stop, done)) as loop:
        step(builder.add(done, loop.index), totals[0])
    a, b, c, d = (builder.load(total) for total in totals)
    row.store(builder.fadd(builder.fadd(a, b), builder.fadd(c, d)), row.own)


def _spread(builder: Any, row: _Entries) -> None:
    """Generate dense[indices[k]] += values[k] * own for every k."""
    own = row.load(row.own)
    with cgutils.for_range(builder, builder.sub(row.stop, row.start)) as loop:
        where, value = row.meet(builder.add(row.start, loop.index))
        row.store(fma(builder, value, own, row.load(where)), where)


_gather_32, _gather_16, _gather_8, _gather_4 = (_product(lanes, _gather) for lanes in (32, 16, 8, 4))
_spread_32, _spread_16, _spread_8, _spread_4 = (_product(lanes, _spread) for lanes in (32, 16, 8, 4))


@inlined
def gather(own: Any, at: Any, dense: Any, indices: Any, values: Any, start: Any, stop: Any, c: Any, end: Any) -> Any:
    """Add to own, from a flat index on, the entries from start to stop times columns c to end of `dense`."""
    width = dense.shape[1]
    while c + 32 <= end:
        _gather_32(own, at, dense, indices, values, start, stop, width, c)
        c += 32
    if c + 16 <= end:
        _gather_16(own, at, dense, indices, values, start, stop, width, c)
        c += 16
    if c + 8 <= end:
        _gather_8(own, at, dense, indices, values, start, stop, width, c)
        c += 8
    if c < end:
        _gather_4(own, at, dense, indices, values, start, stop, width, c)


@inlined
def spread(own: Any, at: Any, dense: Any, indices: Any, values: Any, start: Any, stop: Any, c: Any, end: Any) -> Any:
    """Add to columns c to end of `dense` the entries from start to stop times own, from a flat index on."""
    width = dense.shape[1]
    while c + 32 <= end:
        _spread_32(own, at, dense, indices, values, start, stop, width, c)
        c += 32
    if c + 16 <= end:
        _spread_16(own, at, dense, indices, values, start, stop, width, c)
        c += 16
    if c + 8 <= end:
        _spread_8(own, at, dense, indices, values, start, stop, width, c)
        c += 8
    if c < end:
        _spread_4(own, at, dense, indices, values, start, stop, width, c)


@inlined
def _logits(indptr: Any, indices: Any, values: Any, first: Any, weights: Any, intercepts: Any, z: Any) -> Any:
    """Write the logits of as many rows as z has."""
    width = z.shape[1]
    for i in range(len(z)):
        for c in range(width):
            z[i, c] = intercepts[c]
        gather(z, i * width, weights, indices, values, indptr[first + i], indptr[first + i + 1], 0, width)


@row_loop
def loss_rows(
    indptr: Any,
    indices: Any,
    values: Any,
    first: Any,
    weights: Any,
    intercepts: Any,
    targets: Any,
    shares: Any,
    z: Any,
    sums: Any,
) -> Any:
    """Write the weighted residuals of the rows from `first` on into z, add them to `sums`; return the sum of losses.

    `weights` (features, width) are zero beyond the classes and `intercepts` -inf; losses are weighted by `shares`.
    """
    _logits(indptr, indices, values, first, weights, intercepts, z)
    n = len(z)
    return residuals(z, 0, n, targets[first:], shares[first:], np.empty((3, n)), sums, np.empty(n))


@row_loop
def root_probability_rows(
    indptr: Any,
    indices: Any,
    values: Any,
    first: Any,
    weights: Any,
    intercepts: Any,
    shares: Any,
    z: Any,
    sums: Any,
    second: Any,
) -> Any:
    """Write sqrt(share) p of the rows from `first` on into z, add share * p to `sums`, and z^T z to `second`.

    `second` may have no rows, where many classes make that a product for BLAS.
    """
    _logits(indptr, indices, values, first, weights, intercepts, z)
    nothing = np.zeros(z.shape[1])
    for i in range(len(z)):
        root = math.sqrt(shares[first + i])
        probabilities(z, i, root, nothing)
        for c in range(z.shape[1]):
            sums[c] += root * np.float64(z[i, c])
        for c in range(len(second)):
            factor = np.float64(z[i, c])
            for d in range(z.shape[1]):
                second[c, d] += factor * np.float64(z[i, d])


@row_loop
def spread_rows(indptr: Any, indices: Any, values: Any, first: Any, z: Any, total: Any, c: Any, end: Any) -> Any:
    """Add X^T z to columns c to end of `total` (features, width), z belonging to the rows from `first` on."""
    for i in range(len(z)):
        at = i * z.shape[1]
        spread(z, at, total, indices, values, indptr[first + i], indptr[first + i + 1], c, end)
