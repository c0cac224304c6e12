"""Entropy, relative entropy, and the distillation loss built from it."""

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks
from softhead._dispatch import for_any_array
from softhead.functional import Axis, as_rows, reduced_shape
from softhead.kernels import primitives
from softhead.kernels import row_losses as kernels
from softhead.losses import answer


@for_any_array()
def entropy(logits: ArrayLike, /, *, axis: Axis = -1) -> np.ndarray:
    r"""Return the entropy of the softmax of logits.

    .. math:: H(p) = -\sum_c p_c \log p_c

    Parameters
    ----------
    logits : array_like of shape (...)
        Logits: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.

    Returns
    -------
    ndarray of the shape of `logits` without the axes
        In nats, of the dtype of `logits` in native byte order, between 0 and log C: within 4 units in the last place
        in float32, 8 in float64 and 1 in the half types, also where it goes to 0.

    Raises
    ------
    TypeError
        If the dtype is none of the above.
    numpy.exceptions.AxisError
        If `logits` has no such axis.

    References
    ----------
    C. E. Shannon, "A mathematical theory of communication", Bell System Technical Journal 27, 1948, section 6.

    Examples
    --------
    >>> import numpy as np, softhead
    >>> (softhead.entropy(np.log([0.5, 0.25, 0.25])) / np.log(2)).round(4)  # in bits
    np.float64(1.5)
    """
    array = _checks.real_array("logits", logits)
    axes = _checks.reduced_axes(axis, array.ndim)
    rows = as_rows(array, axes)
    result = np.zeros(len(rows))
    kernels.entropy(rows, result)
    return primitives.rounded(result, array.dtype).reshape(reduced_shape(array.shape, axes))[()]


@for_any_array()
def kl_divergence(
    logits: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    reduction: str = "mean",
) -> np.ndarray:
    r"""Return the relative entropy of targets with respect to the softmax of logits.

    With p = softmax(z / T) and targets q,

    .. math:: \mathrm{KL}(q \,\Vert\, p) = \sum_c q_c (\log q_c - \log p_c),

    the cross-entropy less the entropy of the targets. It is 0 where they are equal, while the cross-entropy of a
    distribution with itself is its entropy.

    Parameters
    ----------
    logits : array_like of shape (..., C, ...)
        z: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    targets : array_like of the shape of `logits`
        q, finite and not negative; 0 log 0 counts 0.
    axis : int, default -1
        The axis of the classes.
    temperature : float, default 1.0
        T, a finite number above 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the number of rows, "none" returns the divergence of every row.

    Returns
    -------
    ndarray
        Of the dtype of `logits`: a scalar, or with "none" of the shape of `logits` without the axis. Never negative
        where targets sum to 1 up to their rounding; the mean over no row is NaN.

    Raises
    ------
    TypeError
        If a dtype is none of the above.
    ValueError
        If shapes do not fit, or a target or the temperature lies outside its range.
    numpy.exceptions.AxisError
        If `logits` has no such axis.

    References
    ----------
    S. Kullback and R. A. Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22, 1951.

    Examples
    --------
    >>> import numpy as np, softhead
    >>> softhead.kl_divergence(np.log([0.5, 0.5]), [0.25, 0.75]).round(4)
    np.float64(0.1308)
    """
    array = _checks.real_array("logits", logits)
    axis = _checks.class_axis("logits", array, axis)
    wanted = _checks.probabilities(_checks.same_shape("targets", targets, "logits", array.shape))
    temperature = _checks.positive("temperature", temperature)
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    rows = as_rows(array, (axis,))
    losses = np.zeros(len(rows))
    kernels.kl_divergence(rows, as_rows(wanted, (axis,)), temperature, losses)
    return answer(losses, len(rows) if reduction == "mean" else 1.0, reduction, array, axis)


@for_any_array()
def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    /,
    *,
    temperature: float,
    axis: int = -1,
    reduction: str = "mean",
) -> np.ndarray:
    r"""Return the divergence of a student's softened distribution from its teacher's, times temperature squared.

    .. math:: \ell = T^2 \, \mathrm{KL}\bigl(\operatorname{softmax}(z_\text{teacher} / T) \,\Vert\,
        \operatorname{softmax}(z_\text{student} / T)\bigr)

    The factor keeps the size of the gradient, which shrinks by 1 / T^2, when the temperature changes.

    Parameters
    ----------
    student_logits : array_like of shape (..., C, ...)
        Logits: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    teacher_logits : array_like of the shape of `student_logits`
        Logits, of any of these dtypes.
    temperature : float
        T, a finite number above 0.
    axis : int, default -1
        The axis of the classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the number of rows, "none" returns the loss of every row.

    Returns
    -------
    ndarray
        Of the dtype of `student_logits`: a scalar, or with "none" of their shape without the axis. Never negative.

    Raises
    ------
    TypeError
        If a dtype is none of the above.
    ValueError
        If shapes differ, or the temperature is not a finite number above 0.
    numpy.exceptions.AxisError
        If the logits have no such axis.

    References
    ----------
    G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", 2015, section 2.

    Examples
    --------
    >>> import softhead
    >>> softhead.distillation_loss([1.0, 2.0, 3.0], [1.0, 2.0, 5.0], temperature=2.0).round(4)
    np.float64(0.4402)
    """
    student = _checks.real_array("student_logits", student_logits)
    axis = _checks.class_axis("student_logits", student, axis)
    teacher = _checks.same_shape("teacher_logits", teacher_logits, "student_logits", student.shape)
    temperature = _checks.positive("temperature", temperature)
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    rows = as_rows(student, (axis,))
    losses = np.zeros(len(rows))
    kernels.distillation(rows, as_rows(teacher, (axis,)), temperature, losses)
    return answer(losses, len(rows) if reduction == "mean" else 1.0, reduction, student, axis)
