"""Softmax, its logarithm and normaliser, the maps it is compared with, and its derivatives, for any array library."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softhead import _checks
from softhead.generic.namespace import Namespace, namespace
from softhead.generic.tiles import Tile, exponentiate, first_maximum

Axis = int | tuple[int, ...] | None


def softmax(x: Any, /, *, axis: Axis = -1, temperature: float = 1.0, where: Any = None, out: None = None) -> Any:
    """Return exp(x / T) over its sum along the axes."""
    return map_logits(Tile.probabilities, x, axis, temperature, where, out, outside=0.0)


def log_softmax(x: Any, /, *, axis: Axis = -1, temperature: float = 1.0, where: Any = None, out: None = None) -> Any:
    """Return the logarithm of the softmax."""
    return map_logits(Tile.log_probabilities, x, axis, temperature, where, out, outside=-math.inf)


def logsumexp(x: Any, /, *, axis: Axis = -1, keepdims: bool = False, where: Any = None) -> Any:
    """Return the logarithm of the sum of exponentials along the axes."""
    return reduce_logits(x, axis, keepdims, where)


@np.errstate(all="ignore")
def hardmax(x: Any, /, *, axis: Axis = -1) -> Any:
    """Return 1 at the first maximum along the axes and 0 elsewhere."""
    return _map_rows(_hardmax, x, axis)


@np.errstate(all="ignore")
def normalize(x: Any, /, *, norm: str, axis: Axis = -1) -> Any:
    """Return the vectors along the axes, scaled to a common size."""
    formula = _NORMALIZERS[_checks.one_of("norm", norm, _NORMALIZERS)]
    return _map_rows(formula, x, axis)


def softmax_jacobian(p: Any, /, *, axis: int = -1, temperature: float = 1.0) -> Any:
    """Return (diag(p) - p p^T) / T; the axis of the classes is replaced by two at the end."""
    ns = namespace(p)
    array = ns.real("p", p)
    axis = _checks.class_axis("p", array, axis)
    temperature = ns.temperature(temperature)
    rows = ns.widened(ns.xp.moveaxis(array, axis, -1))
    columns, transposed = ns.xp.expand_dims(rows, axis=-1), ns.xp.expand_dims(rows, axis=-2)
    index = ns.xp.arange(rows.shape[-1], device=ns.device)
    diagonal = ns.xp.expand_dims(index, axis=-1) == index
    jacobian = ns.xp.where(diagonal, columns * (1.0 - transposed), -columns * transposed)
    return ns.xp.astype(jacobian / temperature, array.dtype)


def softmax_vjp(p: Any, cotangent: Any, /, *, axis: Axis = -1, temperature: float = 1.0) -> Any:
    """Return p (c - sum of p c) / T, the product of softmax's Jacobian with a cotangent c."""
    return _product(_softmax_product, p, "cotangent", cotangent, axis, temperature)


def softmax_jvp(p: Any, tangent: Any, /, *, axis: Axis = -1, temperature: float = 1.0) -> Any:
    """Return the same product with a tangent: the Jacobian is symmetric."""
    return _product(_softmax_product, p, "tangent", tangent, axis, temperature)


def log_softmax_vjp(p: Any, cotangent: Any, /, *, axis: Axis = -1, temperature: float = 1.0) -> Any:
    """Return (c - p sum of c) / T for a cotangent c."""
    return _product(_log_softmax_product, p, "cotangent", cotangent, axis, temperature)


@np.errstate(all="ignore")
def map_logits(
    formula: Callable[[Any], Any],
    x: Any,
    axis: Axis,
    temperature: float,
    where: Any,
    out: None,
    outside: float,
    tiles: Callable[[Namespace, Any, float], Any] = exponentiate,
) -> Any:
    """Apply a formula that maps every tile to rows; entries outside the mask get a value of their own."""
    if out is not None:
        raise TypeError(f"out is a {type(out).__name__}; out= is offered for NumPy arrays only")
    ns = namespace(x)
    array = ns.real("x", x)
    axes = _checks.reduced_axes(axis, array.ndim)
    temperature = ns.temperature(temperature)
    mask = ns.mask(where, array.shape)
    rows = ns.to_rows(array if mask is None else ns.xp.where(mask, array, -math.inf), axes)
    result = ns.xp.astype(formula(tiles(ns, rows, temperature)), array.dtype)
    result = ns.from_rows(result, array.shape, axes)
    return result if mask is None else ns.xp.where(mask, result, outside)


@np.errstate(all="ignore")
def reduce_logits(
    x: Any, axis: Axis, keepdims: bool, where: Any, tiles: Callable[[Namespace, Any, float], Any] = exponentiate
) -> Any:
    """Return the log-sum-exp of tiles; entries outside the mask do not count."""
    ns = namespace(x)
    array = ns.real("x", x)
    axes = _checks.reduced_axes(axis, array.ndim)
    mask = ns.mask(where, array.shape)
    rows = ns.to_rows(array if mask is None else ns.xp.where(mask, array, -math.inf), axes)
    if rows.shape[1] == 0:  # the sum of nothing is that of exp(-inf)
        rows = ns.xp.full((rows.shape[0], 1), -math.inf, dtype=array.dtype, device=ns.device)
    largest = ns.widened(ns.xp.max(rows, axis=-1, keepdims=True))
    lse = ns.xp.where(ns.xp.isinf(largest), largest, tiles(ns, rows, 1.0).log_sum_exp())
    shape = tuple(1 if i in axes else size for i, size in enumerate(array.shape) if keepdims or i not in axes)
    return ns.xp.reshape(ns.xp.astype(lse, array.dtype), shape)


def _map_rows(formula: Callable[[Namespace, Any], Any], x: Any, axis: Axis) -> Any:
    """Apply a formula that maps every row, in the wide dtype, to a row."""
    ns = namespace(x)
    array = ns.real("x", x)
    axes = _checks.reduced_axes(axis, array.ndim)
    if 0 in array.shape:
        return ns.xp.zeros_like(array)
    result = formula(ns, ns.widened(ns.to_rows(array, axes)))
    return ns.from_rows(ns.xp.astype(result, array.dtype), array.shape, axes)


def _hardmax(ns: Namespace, rows: Any) -> Any:
    """Return 1 at the first maximum and 0 elsewhere; a row that holds NaN is NaN."""
    is_nan = ns.xp.any(ns.xp.isnan(rows), axis=-1, keepdims=True)
    return ns.xp.where(is_nan, ns.xp.nan, ns.widened(first_maximum(ns, rows)))


def _l1(ns: Namespace, rows: Any) -> Any:
    """Return rows over the sum of their absolute values."""
    rows = _scaled(ns, rows)
    return rows / _divisor(ns, ns.xp.sum(ns.xp.abs(rows), axis=-1, keepdims=True))


def _l2(ns: Namespace, rows: Any) -> Any:
    """Return rows over the root of their sum of squares."""
    rows = _scaled(ns, rows)
    return rows / ns.xp.sqrt(_divisor(ns, ns.xp.sum(rows * rows, axis=-1, keepdims=True)))


def _max(ns: Namespace, rows: Any) -> Any:
    """Return rows over their largest absolute value."""
    rows = _scaled(ns, rows)
    return rows / _divisor(ns, _largest(ns, rows))


def _zscore(ns: Namespace, rows: Any) -> Any:
    """Return the deviations of rows from their mean over their root mean square."""
    rows = ns.xp.where(_largest(ns, rows) > 1.0, 0.5 * rows, rows)  # lest a difference overflow
    # Before anything is rounded: what is nearly constant keeps its digits, and a constant row is exactly zero.
    rows = _scaled(ns, rows - rows[:, :1])
    rows = rows - ns.xp.mean(rows, axis=-1, keepdims=True)
    return rows / ns.xp.sqrt(_divisor(ns, ns.xp.mean(rows * rows, axis=-1, keepdims=True)))


def _scaled(ns: Namespace, rows: Any) -> Any:
    """Return rows, where finite, over their largest absolute value: no sum or square overflows or underflows."""
    largest = _largest(ns, rows)
    return rows / _divisor(ns, ns.xp.where(ns.xp.isfinite(largest), largest, 1.0))


def _largest(ns: Namespace, rows: Any) -> Any:
    """Return the largest absolute value of every row."""
    return ns.xp.max(ns.xp.abs(rows), axis=-1, keepdims=True)


def _divisor(ns: Namespace, size: Any) -> Any:
    """Return a size to divide by: vectors of size zero stay zero, and so do their derivatives."""
    return ns.xp.where(size == 0.0, 1.0, size)


_NORMALIZERS = {"l1": _l1, "l2": _l2, "max": _max, "zscore": _zscore}


@np.errstate(all="ignore")
def _product(
    formula: Callable[[Namespace, Any, Any], Any], p: Any, name: str, vectors: Any, axis: Axis, temperature: float
) -> Any:
    """Apply a formula that maps every row of probabilities and every vector, in the wide dtype, to a vector."""
    ns = namespace(p)
    array = ns.real("p", p)
    axes = _checks.reduced_axes(axis, array.ndim)
    factors = ns.same_shape(name, vectors, "p", array.shape)
    temperature = ns.temperature(temperature)
    dtype = ns.xp.result_type(array, factors)
    product = formula(ns, ns.widened(ns.to_rows(array, axes)), ns.widened(ns.to_rows(factors, axes)))
    return ns.from_rows(ns.xp.astype(product / temperature, dtype), array.shape, axes)


def _softmax_product(ns: Namespace, p: Any, vectors: Any) -> Any:
    """Return p (v - sum of p v)."""
    return p * (vectors - ns.xp.sum(p * vectors, axis=-1, keepdims=True))


def _log_softmax_product(ns: Namespace, p: Any, vectors: Any) -> Any:
    """Return v - p sum of v."""
    return vectors - p * ns.xp.sum(vectors, axis=-1, keepdims=True)
