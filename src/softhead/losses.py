"""Cross-entropy of logits: value, gradient and Hessian-vector product."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks
from softhead._checks import LossOptions
from softhead._dispatch import for_any_array
from softhead.functional import as_rows, write_back
from softhead.kernels import primitives
from softhead.kernels import row_losses as kernels


class LossRows(NamedTuple):
    """The checked arguments of a class loss, and its logits and targets as rows."""

    array: np.ndarray
    axis: int
    logits: np.ndarray
    targets: np.ndarray
    options: LossOptions


@for_any_array()
def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> np.ndarray:
    r"""Return the cross-entropy between targets and the softmax of logits.

    For a row of logits z with p = softmax(z / T) and lse the log-sum-exp of z / T, with targets q,

    .. math:: \ell = -\sum_c w_c q_c \log p_c + \zeta \, \mathrm{lse}^2,

    where an integer target y stands for the distribution that is 1 at y, and label smoothing by s replaces q by
    (1 - s) q + s / C. For integer targets without options it is the negative log-likelihood, -log p_y, accurate also
    where it goes to 0.

    Parameters
    ----------
    logits : array_like of shape (..., C, ...)
        Logits: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    targets : array_like
        Integer classes in [0, C), of the shape of `logits` without the axis; or probabilities, of the shape of
        `logits`, finite and not negative (they need not sum to 1). The shape tells which.
    axis : int, default -1
        The axis of the classes.
    weight : array_like of shape (C,), optional
        w, a weight for every class: finite, not negative, not all zero.
    ignore_index : int, default -100
        Rows with this integer target are not read: their loss and gradient are 0. Not used for probabilities.
    label_smoothing : float, default 0.0
        s, between 0 and 1.
    temperature : float, default 1.0
        T, a finite number above 0.
    z_loss : float, default 0.0
        The factor of the squared log-sum-exp, which keeps logits from drifting; not negative, not weighted by class.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the sum of w_y over the rows not ignored for integer targets, by the number of rows
        for probabilities. "none" returns the loss of every row.

    Returns
    -------
    ndarray
        Of the dtype of `logits`: a scalar, or with "none" the losses of the shape of `logits` without the axis. The
        mean over no row is NaN.

    Raises
    ------
    TypeError
        If a dtype is none of the above, or class labels are floating-point numbers.
    ValueError
        If shapes do not fit, or a weight, a probability or an option lies outside its range.
    IndexError
        If a label lies outside [0, C) and is not `ignore_index`; the message names the first.
    numpy.exceptions.AxisError
        If `logits` has no such axis.

    See Also
    --------
    cross_entropy_value_and_grad : The value and its gradient in one pass.
    linear_cross_entropy : The same loss of a linear map, without ever holding all logits.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.108). Label smoothing: C. Szegedy et
    al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section 7. The squared
    log-sum-exp: A. Chowdhery et al., "PaLM: Scaling language modeling with Pathways", JMLR 24, 2023, section 5.

    Examples
    --------
    >>> import numpy as np, softhead
    >>> logits = np.log([[0.1, 0.15, 0.05, 0.6, 0.1]])
    >>> softhead.cross_entropy(logits, [3]).round(4)
    np.float64(0.5108)
    >>> softhead.cross_entropy([[40.0, 0.0]], [0])
    np.float64(4.248354255291589e-18)
    """
    rows = loss_rows(logits, targets, axis, weight, ignore_index, label_smoothing, temperature, z_loss, reduction)
    losses = row_losses(rows.logits, rows.targets, rows.options)
    return answer(losses, loss_denominator(rows.targets, rows.options), rows.options.reduction, rows.array, rows.axis)


@for_any_array()
def cross_entropy_value_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the cross-entropy and its gradient with respect to the logits, in one pass.

    With q the targets after smoothing, the gradient of a row's loss is

    .. math:: \frac{\partial \ell}{\partial z_j} = \frac{1}{T} \Bigl(p_j \sum_c w_c q_c - w_j q_j
        + 2 \zeta \, \mathrm{lse} \, p_j\Bigr),

    p - q for plain targets. It is accurate also for a true class whose probability rounds to 1.

    Parameters
    ----------
    logits, targets, axis, weight, ignore_index, label_smoothing, temperature, z_loss, reduction
        As in `cross_entropy`. With "none" the values are the losses of the rows, and the gradient is that of their
        sum.

    Returns
    -------
    value : ndarray
        As `cross_entropy` returns it.
    grad : ndarray of the shape and dtype of `logits`
        Zero in rows that are ignored.

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As `cross_entropy` raises them.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.109).

    Examples
    --------
    >>> import softhead
    >>> value, grad = softhead.cross_entropy_value_and_grad([[1.0, 2.0, 3.0]], [2])
    >>> value.round(4), grad.round(4)
    (np.float64(0.4076), array([[ 0.09  ,  0.2447, -0.3348]]))
    >>> softhead.cross_entropy_value_and_grad([[40.0, 0.0]], [0])[1]
    array([[-4.24835426e-18,  4.24835426e-18]])
    """
    rows = loss_rows(logits, targets, axis, weight, ignore_index, label_smoothing, temperature, z_loss, reduction)
    gradient = np.empty(rows.array.shape, rows.array.dtype)
    out = as_rows(gradient, (rows.axis,))
    denominator = loss_denominator(rows.targets, rows.options)
    losses = row_losses_and_gradients(rows.logits, rows.targets, rows.options, denominator, out)
    write_back(out, gradient, (rows.axis,))
    return answer(losses, denominator, rows.options.reduction, rows.array, rows.axis), gradient


@for_any_array()
def cross_entropy_hvp(
    logits: ArrayLike,
    targets: ArrayLike,
    tangent: ArrayLike,
    /,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> np.ndarray:
    r"""Return the Hessian of the cross-entropy with respect to the logits, times a tangent, never forming it.

    With A the sum of w_c q_c, a row's part of the product with its tangent t is

    .. math:: \frac{1}{T^2} \Bigl((A + 2 \zeta \, \mathrm{lse}) \, p \circ (t - p^\top t)
        + 2 \zeta \, p \, p^\top t\Bigr),

    which depends on the targets through A alone.

    Parameters
    ----------
    logits, targets, axis, weight, ignore_index, label_smoothing, temperature, z_loss, reduction
        As in `cross_entropy`. With "none" the Hessian is that of the sum.
    tangent : array_like of the shape of `logits`
        t, the direction.

    Returns
    -------
    ndarray of the shape and dtype of `logits`
        The directional derivative of the gradient; zero in rows that are ignored.

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As `cross_entropy` raises them; ValueError also where the tangent's shape is another.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equation (4.110).

    Examples
    --------
    >>> import softhead
    >>> softhead.cross_entropy_hvp([0.0, 0.0], 1, [1.0, -1.0])
    array([ 0.5, -0.5])
    """
    rows = loss_rows(logits, targets, axis, weight, ignore_index, label_smoothing, temperature, z_loss, reduction)
    direction = _checks.same_shape("tangent", tangent, "logits", rows.array.shape)
    product = np.empty(rows.array.shape, rows.array.dtype)
    out = as_rows(product, (rows.axis,))
    row_hessian_products(
        rows.logits,
        rows.targets,
        as_rows(direction, (rows.axis,)),
        rows.options,
        loss_denominator(rows.targets, rows.options),
        out,
    )
    write_back(out, product, (rows.axis,))
    return product


def row_losses(logits: np.ndarray, targets: np.ndarray, options: LossOptions) -> np.ndarray:
    """Return the loss of every row in float64; targets are labels (n,) or probabilities (n, C)."""
    losses = np.zeros(len(logits))
    kernels.cross_entropy(
        logits,
        targets,
        options.weight,
        options.label_smoothing,
        options.temperature,
        options.z_loss,
        losses,
    )
    return losses


def row_losses_and_gradients(
    logits: np.ndarray, targets: np.ndarray, options: LossOptions, denominator: float, out: np.ndarray
) -> np.ndarray:
    """Return the loss of every row in float64 and write the gradients, divided by the denominator, into out."""
    losses = np.zeros(len(logits))
    kernels.cross_entropy_gradient(
        logits,
        targets,
        options.weight,
        options.label_smoothing,
        options.temperature,
        options.z_loss,
        denominator,
        losses,
        out,
    )
    return losses


def row_hessian_products(
    logits: np.ndarray,
    targets: np.ndarray,
    tangents: np.ndarray,
    options: LossOptions,
    denominator: float,
    out: np.ndarray,
) -> None:
    """Write the Hessian of every row's loss, divided by the denominator, times its tangent into out."""
    kernels.cross_entropy_hvp(
        logits,
        targets,
        tangents,
        options.weight,
        options.label_smoothing,
        options.temperature,
        options.z_loss,
        denominator,
        out,
    )


def loss_denominator(targets: np.ndarray, options: LossOptions) -> float:
    """Return what the reduction divides a row's loss by: labels (n,) count by the weight of their class."""
    if options.reduction != "mean":
        return 1.0
    if targets.ndim == 2:
        return float(len(targets))
    return float(options.weight[targets[targets >= 0]].sum())


@np.errstate(divide="ignore", invalid="ignore")
def reduce_losses(losses: np.ndarray, denominator: float, reduction: str) -> np.ndarray:
    """Return the reduced losses in float64: the mean over nothing is NaN, silently."""
    return losses if reduction == "none" else losses.sum() / np.float64(denominator)


def answer(losses: np.ndarray, denominator: float, reduction: str, like: np.ndarray, axis: int) -> np.ndarray:
    """Return the losses of the rows of an array, reduced or in its shape without the axis, in its dtype."""
    value = primitives.rounded(reduce_losses(losses, denominator, reduction), like.dtype)
    return value.reshape(like.shape[:axis] + like.shape[axis + 1 :])[()] if reduction == "none" else value[()]


def loss_rows(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    reduction: str,
    name: str = "logits",
) -> LossRows:
    """Check the arguments of a class loss."""
    array = _checks.real_array(name, logits)
    axis = _checks.class_axis(name, array, axis)
    options = _checks.loss_options(
        array.shape[axis],
        weight=weight,
        label_smoothing=label_smoothing,
        temperature=temperature,
        z_loss=z_loss,
        reduction=reduction,
    )
    aims = _checks.targets(targets, array.shape, axis, ignore_index)
    aims = as_rows(aims, (axis,)) if aims.ndim == array.ndim else aims.reshape(-1)
    return LossRows(array, axis, as_rows(array, (axis,)), aims, options)
