"""Cross-entropy of a linear map, block by block: the logits of all rows never exist at once."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks
from softhead._checks import LossOptions
from softhead._dispatch import for_any_array, refuse_others
from softhead.kernels import primitives
from softhead.losses import (
    loss_denominator,
    reduce_losses,
    row_hessian_products,
    row_losses,
    row_losses_and_gradients,
)

_BLOCK_BYTES = 2**26  # of logits: a quarter of it takes 1.08 times as long for 32,000 classes
_PRODUCT_BYTES = 2**23
_PRODUCT_WORK = 2**32  # multiplications in one product, about 0.05 s: in between, Ctrl-C is noticed
_MIN_ROWS, _MAX_ROWS = 16, 4096


class LinearGradients(NamedTuple):
    """One array for each argument of a linear map: a gradient, or a direction for `linear_cross_entropy_hvp`.

    Attributes
    ----------
    x : ndarray of the shape of `x`; None in a direction that holds it constant
    linear_weight : ndarray of shape (C, n_features); None in a direction that holds it constant
    linear_bias : ndarray of shape (C,); None where there is no bias, or in a direction that holds it constant

    Examples
    --------
    >>> import softhead
    >>> _, grad = softhead.linear_cross_entropy_value_and_grad([[1.0]], [[0.0], [0.0]], [1])
    >>> grad.linear_weight
    array([[ 0.5],
           [-0.5]])
    """

    x: np.ndarray | None
    linear_weight: np.ndarray | None
    linear_bias: np.ndarray | None


class _Linear(NamedTuple):
    """The checked arguments of a linear class loss."""

    x: np.ndarray  # rows, in the dtype given
    weight: np.ndarray  # in the dtype of the products
    bias: np.ndarray | None  # likewise
    targets: np.ndarray  # as rows
    options: LossOptions
    l2: float
    leading: tuple[int, ...]  # the shape of x without the features
    gradient_dtypes: tuple[np.dtype, np.dtype, np.dtype]  # of x, weight, bias
    dtype: np.dtype  # of the value


@np.errstate(all="ignore")
@for_any_array()
def linear_cross_entropy(
    x: ArrayLike,
    linear_weight: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    l2: float = 0.0,
    reduction: str = "mean",
) -> np.ndarray:
    r"""Return the cross-entropy of a linear map, without ever holding the logits of all rows.

    With logits z = W x + b for every row and :math:`\ell` its loss as in `cross_entropy`,

    .. math:: L = \operatorname{reduce}_i \, \ell(W x_i + b, y_i) + \frac{\lambda}{2} \lVert W \rVert^2.

    Parameters
    ----------
    x : array_like of shape (..., n_features)
        The rows: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    linear_weight : array_like of shape (C, n_features)
        W, one row a class.
    targets : array_like
        Integer classes in [0, C), of shape (...); or probabilities of shape (..., C).
    linear_bias : array_like of shape (C,), optional
        b, no bias by default.
    weight, ignore_index, label_smoothing, temperature, z_loss
        As in `cross_entropy`.
    l2 : float, default 0.0
        :math:`\lambda`, not negative. The penalty is added once, and leaves the bias alone.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `cross_entropy`; "none" goes with ``l2=0`` only.

    Returns
    -------
    ndarray
        A scalar, or with "none" the losses of shape (...); of the dtype to which NumPy promotes `x`, `linear_weight`
        and `linear_bias`. The half types are multiplied in float32.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy` raises them; ValueError also where `l2` is negative, or not 0 with "none".

    See Also
    --------
    linear_cross_entropy_value_and_grad : The value and its gradients in one pass.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3.4.

    Examples
    --------
    >>> import numpy as np, softhead
    >>> x, linear_weight = np.ones((4, 3)), np.zeros((10, 3))
    >>> softhead.linear_cross_entropy(x, linear_weight, [0, 3, 5, 9]).round(4)  # log 10: nothing learnt yet
    np.float64(2.3026)
    """
    options = (weight, ignore_index, label_smoothing, temperature, z_loss, l2, reduction)
    problem = _check(x, linear_weight, targets, linear_bias, *options)
    losses = np.zeros(len(problem.x))
    for block, _, logits in _blocks(problem):
        losses[block] = row_losses(logits, problem.targets[block], problem.options)
    return _value(losses, loss_denominator(problem.targets, problem.options), problem)


@np.errstate(all="ignore")
@for_any_array(lambda answer: (answer[0], LinearGradients(*answer[1])))
def linear_cross_entropy_value_and_grad(
    x: ArrayLike,
    linear_weight: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    l2: float = 0.0,
    reduction: str = "mean",
) -> tuple[np.ndarray, LinearGradients]:
    r"""Return the cross-entropy of a linear map and its gradients, without ever holding the logits of all rows.

    With R the gradient of the reduced losses with respect to the logits, one row a row of x,

    .. math:: \frac{\partial L}{\partial x} = R W, \quad
        \frac{\partial L}{\partial W} = R^T x + \lambda W, \quad
        \frac{\partial L}{\partial b} = R^T 1.

    A block of logits is turned into its part of R in place, so that memory beyond the inputs and the gradients is one
    block, about 16 MB.

    Parameters
    ----------
    x, linear_weight, targets, linear_bias, weight, ignore_index, label_smoothing, temperature, z_loss, l2, reduction
        As in `linear_cross_entropy`. With "none" the values are the losses of the rows, and the gradients are those
        of their sum.

    Returns
    -------
    value : ndarray
        As `linear_cross_entropy` returns it.
    grad : LinearGradients
        The gradients with respect to `x`, `linear_weight` and `linear_bias` (None without one), each of its shape and
        dtype; float64 where that was integer.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `linear_cross_entropy` raises them.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.109).

    Examples
    --------
    >>> import numpy as np, softhead
    >>> x = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> value, grad = softhead.linear_cross_entropy_value_and_grad(x, np.zeros((2, 2)), [0, 1])
    >>> value.round(4)
    np.float64(0.6931)
    >>> grad.linear_weight
    array([[-0.25,  0.5 ],
           [ 0.25, -0.5 ]])
    """
    options = (weight, ignore_index, label_smoothing, temperature, z_loss, l2, reduction)
    problem = _check(x, linear_weight, targets, linear_bias, *options)
    losses = np.zeros(len(problem.x))
    x_dtype, weight_dtype, bias_dtype = problem.gradient_dtypes
    x_gradient = np.empty(problem.x.shape, x_dtype)
    weight_gradient = np.zeros(problem.weight.shape, problem.weight.dtype)
    bias_gradient = np.zeros(len(problem.weight))
    denominator = loss_denominator(problem.targets, problem.options)
    for block, x_block, logits in _blocks(problem):
        losses[block] = row_losses_and_gradients(
            logits, problem.targets[block], problem.options, denominator, out=logits
        )
        residuals = logits  # the kernel has turned the one into the other
        if x_gradient.dtype == residuals.dtype:
            _product(residuals, problem.weight, x_gradient[block])
        else:
            x_gradient[block] = _product(residuals, problem.weight)
        _add_product(weight_gradient, residuals, x_block)
        if problem.bias is not None:
            bias_gradient += residuals.sum(axis=0, dtype=np.float64)
    if problem.l2:
        weight_gradient += problem.weight.dtype.type(problem.l2) * problem.weight
    gradients = LinearGradients(
        x=x_gradient.reshape(*problem.leading, x_gradient.shape[1]),
        linear_weight=weight_gradient.astype(weight_dtype, copy=False),
        linear_bias=None if problem.bias is None else primitives.rounded(bias_gradient, bias_dtype),
    )
    return _value(losses, denominator, problem), gradients


@np.errstate(all="ignore")
def linear_cross_entropy_hvp(
    x: ArrayLike,
    linear_weight: ArrayLike,
    targets: ArrayLike,
    tangent: LinearGradients,
    /,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    l2: float = 0.0,
    reduction: str = "mean",
) -> LinearGradients:
    r"""Return the Hessian of the cross-entropy of a linear map, times a tangent, without ever holding all logits.

    With the tangents :math:`\dot x, \dot W, \dot b` the logits move by
    :math:`\dot z = \dot x W^T + x \dot W^T + \dot b`, the residuals R by :math:`\dot R = H \dot z` as in
    `cross_entropy_hvp`, and the gradients by

    .. math:: \dot R W + R \dot W, \qquad \dot R^T x + R^T \dot x + \lambda \dot W, \qquad \dot R^T 1.

    Parameters
    ----------
    x, linear_weight, targets, linear_bias, weight, ignore_index, label_smoothing, temperature, z_loss, l2, reduction
        As in `linear_cross_entropy`; with "none" the Hessian is that of the sum.
    tangent : LinearGradients
        The direction: arrays of the shapes of `x`, `linear_weight` and `linear_bias`. What has None for its part is
        held constant: ``LinearGradients(None, v, None)`` is a direction of the weights alone.

    Returns
    -------
    LinearGradients
        The directional derivatives of the gradients, of the dtypes that those have; None where the tangent is None.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `linear_cross_entropy` raises them; ValueError also where a tangent's shape is another, TypeError for arrays
        of libraries other than NumPy, for which this product has no form.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.110).

    Examples
    --------
    >>> import numpy as np, softhead
    >>> tangent = softhead.LinearGradients(None, np.array([[1.0], [0.0]]), None)
    >>> softhead.linear_cross_entropy_hvp([[2.0]], np.zeros((2, 1)), [0], tangent).linear_weight
    array([[ 1.],
           [-1.]])
    """
    refuse_others("linear_cross_entropy_hvp", x=x, linear_weight=linear_weight)
    options = (weight, ignore_index, label_smoothing, temperature, z_loss, l2, reduction)
    problem = _check(x, linear_weight, targets, linear_bias, *options)
    x_tangent, weight_tangent, bias_tangent = _check_tangent(tangent, problem)
    x_dtype, weight_dtype, bias_dtype = problem.gradient_dtypes
    x_product = None if x_tangent is None else np.empty(problem.x.shape, x_dtype)
    weight_product = np.ascontiguousarray(problem.weight.dtype.type(problem.l2) * weight_tangent)
    bias_product = np.zeros(len(problem.weight))
    denominator = loss_denominator(problem.targets, problem.options)
    for block, x_block, logits in _blocks(problem):
        aims = problem.targets[block]
        moved = _product(x_block, weight_tangent.T)
        moved += bias_tangent
        if x_tangent is not None:
            x_moved = _without_ignored(x_tangent[block].astype(moved.dtype, copy=False), aims)
            moved += _product(x_moved, problem.weight.T)
        row_hessian_products(logits, aims, moved, problem.options, denominator, out=moved)
        _add_product(weight_product, moved, x_block)
        bias_product += moved.sum(axis=0, dtype=np.float64)
        if x_tangent is not None and x_product is not None:
            row_losses_and_gradients(logits, aims, problem.options, denominator, out=logits)
            x_product[block] = _product(moved, problem.weight) + _product(logits, weight_tangent)
            _add_product(weight_product, logits, x_moved)
    return LinearGradients(
        x=None if x_product is None else x_product.reshape(*problem.leading, x_product.shape[1]),
        linear_weight=None if tangent.linear_weight is None else weight_product.astype(weight_dtype, copy=False),
        linear_bias=None if tangent.linear_bias is None else primitives.rounded(bias_product, bias_dtype),
    )


def _check(
    x: ArrayLike,
    linear_weight: ArrayLike,
    targets: ArrayLike,
    linear_bias: ArrayLike | None,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    l2: float,
    reduction: str,
) -> _Linear:
    """Check the arguments of a linear class loss."""
    rows = np.asarray(x)
    x_dtype = _checks.real_dtype("x", rows.dtype)
    matrix = _checks.real_array("linear_weight", linear_weight)
    bias = None if linear_bias is None else _checks.real_array("linear_bias", linear_bias)
    _checks.linear_shapes(rows.shape, matrix.shape, None if bias is None else bias.shape)
    n_classes, n_features = matrix.shape
    options = _checks.loss_options(
        n_classes,
        weight=weight,
        label_smoothing=label_smoothing,
        temperature=temperature,
        z_loss=z_loss,
        reduction=reduction,
    )
    l2 = _checks.nonnegative("l2", l2)
    if l2 and reduction == "none":
        raise ValueError(f"{l2=} with reduction='none'; the penalty is no row's, so reduction must be 'mean' or 'sum'")
    leading = rows.shape[:-1]
    n_rows = math.prod(leading)
    aims = _checks.targets(targets, (*leading, n_classes), len(leading), ignore_index)
    bias_dtype = matrix.dtype if bias is None else bias.dtype
    try:
        dtype = np.result_type(x_dtype, matrix.dtype, bias_dtype)
    except TypeError:  # float16 with bfloat16
        given = f"x has dtype {x_dtype.name}, linear_weight {matrix.dtype.name} and linear_bias {bias_dtype.name}"
        raise TypeError(f"{given}; NumPy has no dtype for all of them, so one must be converted") from None
    wide = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
    return _Linear(
        x=rows.reshape(n_rows, n_features),
        weight=matrix.astype(wide, copy=False),
        bias=None if bias is None else bias.astype(wide, copy=False),
        targets=aims.reshape(n_rows, n_classes) if aims.ndim > len(leading) else aims.reshape(n_rows),
        options=options,
        l2=l2,
        leading=leading,
        gradient_dtypes=(x_dtype, matrix.dtype, bias_dtype),
        dtype=dtype,
    )


def _check_tangent(tangent: LinearGradients, problem: _Linear) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the parts of a tangent: that of x as rows, or None; those of the parameters in the computing dtype."""
    shape = problem.weight.shape
    if not isinstance(tangent, LinearGradients):
        raise TypeError(f"tangent is a {type(tangent).__name__}; it must be a LinearGradients")
    x, weight, bias = tangent
    if x is not None:
        x = _checks.same_shape("tangent.x", x, "x", (*problem.leading, shape[1])).reshape(problem.x.shape)
    weight = np.zeros(shape) if weight is None else weight
    weight = _checks.same_shape("tangent.linear_weight", weight, "linear_weight", shape)
    bias = np.zeros(shape[:1]) if bias is None else bias
    bias = _checks.same_shape("tangent.linear_bias", bias, "linear_bias", shape[:1])
    dtype = problem.weight.dtype
    return x, weight.astype(dtype, copy=False), bias.astype(dtype, copy=False)


def _blocks(problem: _Linear) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield slices of rows with their x and their logits, which may be overwritten."""
    n_rows, n_classes = len(problem.x), len(problem.weight)
    row_bytes = max(1, n_classes * problem.weight.itemsize)
    size = min(max(_BLOCK_BYTES // row_bytes, _MIN_ROWS), _MAX_ROWS, n_rows)
    buffer = np.empty((size, n_classes), problem.weight.dtype)
    for start in range(0, n_rows, max(1, size)):
        block = slice(start, min(start + size, n_rows))
        x = _without_ignored(problem.x[block].astype(problem.weight.dtype, copy=False), problem.targets[block])
        logits = _product(x, problem.weight.T, buffer[: len(x)])
        if problem.bias is not None:
            logits += problem.bias
        yield block, x, logits


def _without_ignored(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return x with zeros in ignored rows, whose NaN a product with their zero residuals would spread."""
    if targets.ndim > 1 or not (targets < 0).any():
        return x
    return np.where(targets[:, np.newaxis] < 0, x.dtype.type(0), x)


def _product(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a matrix product, some columns at a time."""
    if out is None:
        out = np.empty((len(a), b.shape[1]), a.dtype)
    step = max(1, _PRODUCT_WORK // max(1, a.size))
    for start in range(0, b.shape[1], step):
        columns = slice(start, start + step)
        np.matmul(a, b[:, columns], out=out[:, columns])
    return out


def _add_product(total: np.ndarray, rows: np.ndarray, x: np.ndarray) -> None:
    """Add rows^T x to total in place, some classes at a time.

    At once, the product would need memory of its own, 154 MB for 50,257 classes and 768 features; and the operating
    system's work for fresh memory makes it take 1.7 times as long, for 32,000 classes and 512 features.
    """
    step = min(len(total), max(1, _PRODUCT_BYTES // max(1, x.shape[1] * total.itemsize)))
    buffer = np.empty((step, x.shape[1]), total.dtype)
    for start in range(0, len(total), max(1, step)):
        classes = slice(start, min(start + step, len(total)))
        product = np.matmul(rows[:, classes].T, x, out=buffer[: classes.stop - start])
        total[classes] += product


def _value(losses: np.ndarray, denominator: float, problem: _Linear) -> np.ndarray:
    """Return the reduced losses with the penalty, or all of them, in the dtype and shape that the caller sees."""
    if problem.options.reduction == "none":
        return primitives.rounded(losses, problem.dtype).reshape(problem.leading)[()]
    value = reduce_losses(losses, denominator, problem.options.reduction)
    if problem.l2:
        value = value + 0.5 * problem.l2 * np.einsum("ij,ij->", problem.weight, problem.weight, dtype=np.float64)
    return primitives.rounded(value, problem.dtype)[()]
