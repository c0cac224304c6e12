"""Derivatives of softmax and its logarithm, from the probabilities that they returned."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks
from softhead._dispatch import for_any_array
from softhead.functional import Axis, as_rows, write_back
from softhead.kernels import rows as kernels


@for_any_array()
def softmax_jacobian(p: ArrayLike, /, *, axis: int = -1, temperature: float = 1.0) -> np.ndarray:
    r"""Return the Jacobian matrices of softmax at its results.

    .. math:: \frac{\partial p_i}{\partial x_j} = \frac{p_i (\delta_{ij} - p_j)}{T},

    that is (diag(p) - p p^T) / T: symmetric, and its rows sum to 0. For products with vectors `softmax_vjp` and
    `softmax_jvp` need C numbers where this needs C^2.

    Parameters
    ----------
    p : array_like of shape (..., C, ...)
        Probabilities, as `softmax` returned them.
    axis : int, default -1
        The axis of the classes.
    temperature : float, default 1.0
        T, with which they were computed.

    Returns
    -------
    ndarray of shape (..., C, C)
        Of the dtype of `p`; the axis of the classes is replaced by two at the end.

    Raises
    ------
    TypeError
        If `p` is not of integers, booleans, float16, bfloat16, float32 or float64.
    ValueError
        If the temperature is not a finite number above 0, or `p` is a single number.
    numpy.exceptions.AxisError
        If `p` has no such axis.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.106).

    Examples
    --------
    >>> import softhead
    >>> softhead.softmax_jacobian([0.5, 0.25, 0.25])
    array([[ 0.25  , -0.125 , -0.125 ],
           [-0.125 ,  0.1875, -0.0625],
           [-0.125 , -0.0625,  0.1875]])
    """
    array = _checks.real_array("p", p)
    axis = _checks.class_axis("p", array, axis)
    temperature = _checks.positive("temperature", temperature)
    rows = as_rows(array, (axis,))
    jacobians = np.empty((*rows.shape, rows.shape[1]), array.dtype)
    kernels.softmax_jacobian(rows, temperature, jacobians)
    kept = array.shape[:axis] + array.shape[axis + 1 :]
    return jacobians.reshape(*kept, *jacobians.shape[1:])


@for_any_array()
def softmax_vjp(p: ArrayLike, cotangent: ArrayLike, /, *, axis: Axis = -1, temperature: float = 1.0) -> np.ndarray:
    r"""Pull a cotangent back through softmax: its product with the Jacobian, never forming it.

    .. math:: \bar x_j = \frac{p_j}{T} \Bigl(\bar p_j - \sum_i p_i \bar p_i\Bigr)

    Where p is tiny, so is the derivative. For the cotangent -q / p of the cross-entropy with targets q it is
    p sum(q) - q.

    Parameters
    ----------
    p : array_like of shape (...)
        Probabilities, as `softmax` returned them.
    cotangent : array_like of the shape of `p`
        The derivative of a scalar with respect to the probabilities.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.
    temperature : float, default 1.0
        T, with which the probabilities were computed.

    Returns
    -------
    ndarray of the shape of `p`
        The derivative of that scalar with respect to the logits, of the dtype to which NumPy promotes both arrays.

    Raises
    ------
    TypeError
        If a dtype is not integer, boolean, float16, bfloat16, float32 or float64.
    ValueError
        If the shapes differ, or the temperature is not a finite number above 0.
    numpy.exceptions.AxisError
        If `p` has no such axis.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.106).

    Examples
    --------
    >>> import softhead
    >>> softhead.softmax_vjp([0.5, 0.25, 0.25], [0.0, 0.0, 1.0])
    array([-0.125 , -0.0625,  0.1875])
    """
    return _product(kernels.softmax_product, p, "cotangent", cotangent, axis, temperature)


@for_any_array()
def softmax_jvp(p: ArrayLike, tangent: ArrayLike, /, *, axis: Axis = -1, temperature: float = 1.0) -> np.ndarray:
    r"""Push a tangent forward through softmax: the Jacobian's product with it, never forming it.

    .. math:: \dot p_i = \frac{p_i}{T} \Bigl(\dot x_i - \sum_j p_j \dot x_j\Bigr)

    The Jacobian is symmetric, so the formula is that of `softmax_vjp`.

    Parameters
    ----------
    p : array_like of shape (...)
        Probabilities, as `softmax` returned them.
    tangent : array_like of the shape of `p`
        The direction in which the logits move.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.
    temperature : float, default 1.0
        T, with which the probabilities were computed.

    Returns
    -------
    ndarray of the shape of `p`
        How the probabilities move, of the dtype to which NumPy promotes both arrays; sums to 0.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax_vjp` raises them.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.106).

    Examples
    --------
    >>> import softhead
    >>> softhead.softmax_jvp([0.5, 0.25, 0.25], [1.0, 0.0, 0.0])
    array([ 0.25 , -0.125, -0.125])
    """
    return _product(kernels.softmax_product, p, "tangent", tangent, axis, temperature)


@for_any_array()
def log_softmax_vjp(p: ArrayLike, cotangent: ArrayLike, /, *, axis: Axis = -1, temperature: float = 1.0) -> np.ndarray:
    r"""Pull a cotangent back through log-softmax.

    .. math:: \bar x_j = \frac{1}{T} \Bigl(\bar \ell_j - p_j \sum_i \bar \ell_i\Bigr)

    With :math:`\bar \ell` = -q it is the gradient of the cross-entropy, p sum(q) - q.

    Parameters
    ----------
    p : array_like of shape (...)
        Probabilities: the exponential of what `log_softmax` returned.
    cotangent : array_like of the shape of `p`
        The derivative of a scalar with respect to the log-probabilities.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.
    temperature : float, default 1.0
        T, with which the log-probabilities were computed.

    Returns
    -------
    ndarray of the shape of `p`
        The derivative of that scalar with respect to the logits, of the dtype to which NumPy promotes both arrays.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax_vjp` raises them.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.109).

    Examples
    --------
    >>> import softhead
    >>> softhead.log_softmax_vjp([0.5, 0.25, 0.25], [0.0, 0.0, -1.0])
    array([ 0.5 ,  0.25, -0.75])
    """
    return _product(kernels.log_softmax_vjp, p, "cotangent", cotangent, axis, temperature)


def _product(
    kernel: Callable[[np.ndarray, np.ndarray, float, np.ndarray], None],
    p: ArrayLike,
    name: str,
    vectors: ArrayLike,
    axis: Axis,
    temperature: float,
) -> np.ndarray:
    """Apply a kernel that maps every row of probabilities and every vector to a vector."""
    array = _checks.real_array("p", p)
    axes = _checks.reduced_axes(axis, array.ndim)
    factors = _checks.same_shape(name, vectors, "p", array.shape)
    temperature = _checks.positive("temperature", temperature)
    result = np.empty(array.shape, np.result_type(array.dtype, factors.dtype))
    rows = as_rows(result, axes)
    kernel(as_rows(array, axes), as_rows(factors, axes), temperature, rows)
    write_back(rows, result, axes)
    return result[()]
