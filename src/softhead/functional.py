"""Softmax, its logarithm and its normaliser, and the maps that it is compared with."""

import math
from collections.abc import Callable
from typing import TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks
from softhead._dispatch import for_any_array
from softhead.kernels import compiled
from softhead.kernels import rows as kernels
from softhead.kernels.threads import over_rows

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)  # of arrays in native byte order there is one each

Axis = int | tuple[int, ...] | None

_NORMALIZERS = {
    "l1": kernels.normalize_l1,
    "l2": kernels.normalize_l2,
    "max": kernels.normalize_max,
    "zscore": kernels.normalize_zscore,
}


@for_any_array()
def softmax(
    x: ArrayLike,
    /,
    *,
    axis: Axis = -1,
    temperature: float = 1.0,
    where: ArrayLike | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""Map logits to probabilities that sum to 1 along the axis.

    .. math:: p_i = \frac{e^{x_i / T}}{\sum_j e^{x_j / T}}

    Adding a constant to all logits changes nothing; a temperature above 1 flattens the distribution, one below 1
    sharpens it.

    Parameters
    ----------
    x : array_like of shape (...)
        Logits: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.
    temperature : float, default 1.0
        T, a finite number above 0.
    where : array_like of bool, broadcast to the shape of `x`, optional
        Entries that take part. The others are not read and get probability 0, also where nothing takes part.
    out : ndarray of the shape and dtype of the result, optional
        Where to write the result; may be `x` itself.

    Returns
    -------
    ndarray of the shape of `x`
        Probabilities, of the dtype of `x` in native byte order: within 2 units in the last place in float32 and
        float64 and 1 in the half types. A row that holds NaN or +inf, or nothing but -inf, is NaN.

    Raises
    ------
    TypeError
        If a dtype is none of the above, or `where` is not boolean.
    ValueError
        If the temperature is not a finite number above 0, or `where` or `out` does not fit.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    References
    ----------
    J. S. Bridle, "Probabilistic interpretation of feedforward classification network outputs, with relationships to
    statistical pattern recognition", Neurocomputing, 1990. On accuracy: P. Blanchard, D. J. Higham and N. J. Higham,
    "Accurately computing the log-sum-exp and softmax functions", IMA Journal of Numerical Analysis 41, 2021.

    Examples
    --------
    >>> import softhead
    >>> softhead.softmax([1, 2, 3]).round(2)
    array([0.09, 0.24, 0.67])
    >>> softhead.softmax([1, 2, 8]).round(3)
    array([0.001, 0.002, 0.997])
    >>> softhead.softmax([1, 2, 8], temperature=100.0).round(2)
    array([0.32, 0.33, 0.35])
    """
    if _is_plain(x, axis) and where is None and out is None and type(temperature) is float and temperature == 1.0:
        return _map_plainly(compiled.softmax, x)
    return _map_rows(kernels.softmax, x, axis, temperature, where, out, outside=0.0)


@for_any_array()
def log_softmax(
    x: ArrayLike,
    /,
    *,
    axis: Axis = -1,
    temperature: float = 1.0,
    where: ArrayLike | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""Map logits to logarithms of probabilities.

    .. math:: \log p_i = \frac{x_i}{T} - \log \sum_j e^{x_j / T}

    Unlike the logarithm of `softmax` it is finite wherever the result can be: probabilities too small for the
    dtype, or rounded to 1, keep an accurate logarithm.

    Parameters
    ----------
    x : array_like of shape (...)
        Logits: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.
    temperature : float, default 1.0
        T, a finite number above 0.
    where : array_like of bool, broadcast to the shape of `x`, optional
        Entries that take part. The others are not read and get -inf, the logarithm of probability 0.
    out : ndarray of the shape and dtype of the result, optional
        Where to write the result; may be `x` itself.

    Returns
    -------
    ndarray of the shape of `x`
        Logarithms of probabilities, of the dtype of `x` in native byte order: within 4 units in the last place in
        float32, 8 in float64 and 1 in the half types. A row that holds NaN or +inf, or nothing but -inf, is NaN.

    Raises
    ------
    TypeError
        If a dtype is none of the above, or `where` is not boolean.
    ValueError
        If the temperature is not a finite number above 0, or `where` or `out` does not fit.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA
    Journal of Numerical Analysis 41, 2021.

    Examples
    --------
    >>> import softhead
    >>> softhead.log_softmax([0.0, 1000.0])
    array([-1000.,     0.])
    >>> softhead.log_softmax([0.0, 40.0])
    array([-4.00000000e+01, -4.24835426e-18])
    """
    if _is_plain(x, axis) and where is None and out is None and type(temperature) is float and temperature == 1.0:
        return _map_plainly(compiled.log_softmax, x)
    return _map_rows(kernels.log_softmax, x, axis, temperature, where, out, outside=-np.inf)


@for_any_array()
def logsumexp(
    x: ArrayLike, /, *, axis: Axis = -1, keepdims: bool = False, where: ArrayLike | None = None
) -> np.ndarray:
    r"""Return the logarithm of the sum of exponentials along the axis, a soft maximum.

    .. math:: \operatorname{lse}(x) = \log \sum_j e^{x_j}

    Parameters
    ----------
    x : array_like of shape (...)
        Logits: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    axis : int, tuple of int or None, default -1
        The axis or axes to sum over; None for all.
    keepdims : bool, default False
        Whether the axes summed over stay, with length 1.
    where : array_like of bool, broadcast to the shape of `x`, optional
        Entries that take part; the others are not read.

    Returns
    -------
    ndarray of the shape of `x` without the axes summed over
        Of the dtype of `x` in native byte order. With m the largest logit and u the unit roundoff, the error is at
        most 4 u (abs(m) + lse - m) in float32 and 8 u of the same in float64. The sum of nothing is -inf.

    Raises
    ------
    TypeError
        If a dtype is none of the above, or `where` is not boolean.
    ValueError
        If `where` does not fit.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA
    Journal of Numerical Analysis 41, 2021, equation (1.1).

    Examples
    --------
    >>> import softhead
    >>> softhead.logsumexp([1000.0, 1000.0]).round(4)
    np.float64(1000.6931)
    """
    if _is_plain(x, axis) and where is None and not keepdims:
        lse = np.empty((*x.shape[:-1], 1), x.dtype)
        compiled.logsumexp(x.reshape(-1, x.shape[-1]), lse.reshape(-1, 1))
        return lse[..., 0][()]
    array = _checks.real_array("x", x)
    axes = _checks.reduced_axes(axis, array.ndim)
    mask = _checks.mask(where, array.shape)
    rows = as_rows(array, axes)
    if mask is not None:
        rows = _masked(rows, as_rows(mask, axes))
    result = np.full((len(rows), 1), -np.inf, array.dtype)
    kernels.logsumexp(rows, result)
    return result.reshape(reduced_shape(array.shape, axes, keepdims))[()]


@for_any_array()
def hardmax(x: ArrayLike, /, *, axis: Axis = -1) -> np.ndarray:
    r"""Map logits to 1 at the first maximum along the axis and 0 elsewhere.

    The limit of `softmax` as the temperature goes to 0, where no two logits tie. Only the entry chosen matters, so its
    gradient is 0 almost everywhere: for learning see `gumbel_softmax` and `arsm_gradient`.

    Parameters
    ----------
    x : array_like of shape (...)
        Logits: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.

    Returns
    -------
    ndarray of the shape of `x`
        Of the dtype of `x` in native byte order. A row that holds NaN is NaN.

    Raises
    ------
    TypeError
        If the dtype is none of the above.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    References
    ----------
    ONNX operator schemas, Hardmax, version 13.

    Examples
    --------
    >>> import softhead
    >>> softhead.hardmax([1.0, 3.0, 3.0])
    array([0., 1., 0.])
    """
    return _map_plain(kernels.hardmax, x, axis)


@for_any_array()
def normalize(x: ArrayLike, /, *, norm: str, axis: Axis = -1) -> np.ndarray:
    r"""Scale vectors along the axis to a common size, without an exponential.

    ========  =========================================================================
    `norm`    result
    ========  =========================================================================
    "l1"      x / sum(abs(x))
    "l2"      x / sqrt(sum(x^2))
    "max"     x / max(abs(x)): unlike x / max(x), it keeps sign and order
    "zscore"  (x - mean(x)) / std(x), with the population's standard deviation (ddof 0)
    ========  =========================================================================

    These scale data; none of them makes probabilities of logits or replaces the shift that keeps `softmax` from
    overflowing.

    Parameters
    ----------
    x : array_like of shape (...)
        Integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    norm : {"l1", "l2", "max", "zscore"}
        Which size is common to the results.
    axis : int, tuple of int or None, default -1
        The axis or axes of the vectors; None for all.

    Returns
    -------
    ndarray of the shape of `x`
        Of the dtype of `x` in native byte order. Vectors of zeros stay zero, and constant ones become zero with
        "zscore"; no intermediate overflows or underflows.

    Raises
    ------
    TypeError
        If the dtype is none of the above.
    ValueError
        If `norm` is none of the four.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    References
    ----------
    G. H. Golub and C. F. Van Loan, "Matrix Computations", 4th edition, 2013, section 2.2.

    Examples
    --------
    >>> import softhead
    >>> softhead.normalize([3.0, -4.0], norm="l2")
    array([ 0.6, -0.8])
    >>> softhead.normalize([-1.0, -2.0], norm="max")
    array([-0.5, -1. ])
    """
    return _map_plain(_NORMALIZERS[_checks.one_of("norm", norm, _NORMALIZERS)], x, axis)


def as_rows(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the array as (rows, entries along axes): a view where the strides allow it, otherwise a copy."""
    moved = _axes_last(array, axes)
    split = array.ndim - len(axes)
    return moved.reshape(math.prod(moved.shape[:split]), math.prod(moved.shape[split:]))


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool = False) -> tuple[int, ...]:
    """Return the shape without the axes, or with length 1 along them."""
    return tuple(1 if i in axes else size for i, size in enumerate(shape) if keepdims or i not in axes)


def write_back(rows: np.ndarray, array: np.ndarray, axes: tuple[int, ...]) -> None:
    """Write rows into the array that they were taken from by `as_rows`, where they are a copy of it."""
    if not np.may_share_memory(rows, array):
        moved = _axes_last(array, axes)
        moved[...] = rows.reshape(moved.shape)


def _axes_last(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return a view with the given axes moved to the end."""
    return np.moveaxis(array, axes, range(array.ndim - len(axes), array.ndim))


def _map_rows(
    kernel: Callable[[np.ndarray, float, np.ndarray], None],
    x: ArrayLike,
    axis: Axis,
    temperature: float,
    where: ArrayLike | None,
    out: np.ndarray | None,
    outside: float,
) -> np.ndarray:
    """Apply a kernel that maps every row to a row; entries outside the mask get a value of their own."""
    array = _checks.real_array("x", x)
    axes = _checks.reduced_axes(axis, array.ndim)
    temperature = _checks.positive("temperature", temperature)
    mask = _checks.mask(where, array.shape)
    result = _checks.output(out, array)
    if mask is None and np.may_share_memory(array, result) and not _same_memory(array, result):
        array = array.copy()
    rows = as_rows(result, axes)
    if out is None and not rows.flags.c_contiguous:
        _touch(result)
    if mask is None:
        kernel(as_rows(array, axes), temperature, rows)
    else:
        masks = as_rows(mask, axes)
        kernel(_masked(as_rows(array, axes), masks), temperature, rows)
        over_rows(lambda part: np.copyto(rows[part], outside, where=~masks[part], casting="unsafe"), rows)
    write_back(rows, result, axes)
    return result[()] if out is None else result


def _masked(rows: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return a copy of rows with -inf where the mask is False, made in parts, between which Ctrl-C is seen."""
    result = np.empty(rows.shape, rows.dtype)

    def fill(part: slice) -> None:
        result[part] = np.where(masks[part], rows[part], rows.dtype.type(-np.inf))

    over_rows(fill, rows)
    return result


def _touch(result: np.ndarray) -> None:
    """Have the system provide the memory of a new array in parts: one column, which Ctrl-C waits for, takes all."""
    entries = result.reshape(-1, 1)
    page = 4096 // result.itemsize

    def touch(part: slice) -> None:
        entries[part][::page] = 0

    over_rows(touch, entries)


def _is_plain(x: object, axis: object) -> TypeGuard[np.ndarray]:
    """Return whether nothing needs to be checked or converted: the common case, for which that would take longest."""
    return (
        type(x) is np.ndarray
        and type(axis) is int
        and axis == -1
        and (x.dtype is _FLOAT64 or x.dtype is _FLOAT32)
        and x.size > 0
        and x.ndim > 0
        and x.flags.c_contiguous
    )


def _map_plainly(kernel: Callable[[np.ndarray, np.ndarray], None], x: np.ndarray) -> np.ndarray:
    """Apply a kernel that maps every row to a row."""
    result = np.empty(x.shape, x.dtype)
    if x.ndim == 2:
        kernel(x, result)
    else:
        n_classes = x.shape[-1]
        kernel(x.reshape(-1, n_classes), result.reshape(-1, n_classes))
    return result


def _map_plain(kernel: Callable[[np.ndarray, np.ndarray], None], x: ArrayLike, axis: Axis) -> np.ndarray:
    """Apply a kernel that maps every row to a row and has no options."""
    array = _checks.real_array("x", x)
    axes = _checks.reduced_axes(axis, array.ndim)
    result = np.empty(array.shape, array.dtype)
    rows = as_rows(result, axes)
    kernel(as_rows(array, axes), rows)
    write_back(rows, result, axes)
    return result[()]


def _same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays of one shape and dtype lie in memory exactly alike."""
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides
