"""Softmax, its logarithm and normaliser, samples, and losses of logits."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softhead import _checks
from softhead.generic import losses, maps
from softhead.generic.namespace import namespace
from softhead.jax.tiles import Tile, row_losses


def softmax(x: Any, /, *, axis: maps.Axis = -1, temperature: float = 1.0, where: Any = None) -> Any:
    """Return exp(x / T) over its sum along the axes, as `softhead.softmax` does.

    Parameters
    ----------
    x : array_like of shape (...)
        Logits: integers or booleans (computed in JAX's widest floating dtype), float16, bfloat16, float32 or float64.
    axis : int, tuple of int or None, default -1
        The axis or axes of the classes; None for all.
    temperature : float, default 1.0
        T, a finite number above 0.
    where : array_like of bool, optional
        False leaves an entry out: its probability, and its derivative, are 0.

    Returns
    -------
    jax.Array of the shape and dtype of `x`

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softhead.softmax` raises them.

    Examples
    --------
    >>> import jax, softhead.jax
    >>> softhead.jax.softmax([1.0, 2.0, 3.0]).round(3)
    Array([0.09 , 0.245, 0.665], dtype=float32)
    """
    return maps.map_logits(Tile.probabilities, jnp.asarray(x), axis, temperature, where, None, 0.0, Tile)


def log_softmax(x: Any, /, *, axis: maps.Axis = -1, temperature: float = 1.0, where: Any = None) -> Any:
    """Return the logarithm of the softmax, as `softhead.log_softmax` does.

    Parameters
    ----------
    x, axis, temperature, where
        As in `softmax`; the logarithm of an entry left out is -inf.

    Returns
    -------
    jax.Array of the shape and dtype of `x`

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softhead.log_softmax` raises them.

    Examples
    --------
    >>> import softhead.jax
    >>> softhead.jax.log_softmax([40.0, 0.0])
    Array([-4.248354e-18, -4.000000e+01], dtype=float32)
    """
    return maps.map_logits(Tile.log_probabilities, jnp.asarray(x), axis, temperature, where, None, -math.inf, Tile)


def logsumexp(x: Any, /, *, axis: maps.Axis = -1, keepdims: bool = False, where: Any = None) -> Any:
    """Return the logarithm of the sum of exponentials along the axes, as `softhead.logsumexp` does.

    Parameters
    ----------
    x, axis, where
        As in `softmax`.
    keepdims : bool, default False
        Whether to keep the axes, of length 1.

    Returns
    -------
    jax.Array of the dtype of `x`, and of its shape without the axes

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softhead.logsumexp` raises them.

    Examples
    --------
    >>> import softhead.jax
    >>> softhead.jax.logsumexp([1000.0, 1000.0])
    Array(1000.6932, dtype=float32)
    """
    return maps.reduce_logits(jnp.asarray(x), axis, keepdims, where, Tile)


def entropy(logits: Any, /, *, axis: maps.Axis = -1) -> Any:
    """Return the entropy of the softmax of logits, as `softhead.entropy` does.

    Parameters
    ----------
    logits, axis
        As in `softmax`.

    Returns
    -------
    jax.Array of the dtype of `logits`, and of their shape without the axes

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softhead.entropy` raises them.

    Examples
    --------
    >>> import softhead.jax
    >>> softhead.jax.entropy([0.0, 0.0, 0.0, 0.0])
    Array(1.3862944, dtype=float32)
    """
    array = jnp.asarray(logits)
    ns = namespace(array)
    array = ns.real("logits", array)
    axes = _checks.reduced_axes(axis, array.ndim)
    tile = Tile(ns, ns.to_rows(array, axes), 1.0)
    p = tile.probabilities()
    result = -jnp.sum(p * jnp.where(p == 0.0, 0.0, tile.log_probabilities()), axis=-1)
    return jnp.reshape(result.astype(array.dtype), tuple(size for i, size in enumerate(array.shape) if i not in axes))


def cross_entropy(
    logits: Any,
    targets: Any,
    /,
    *,
    axis: int = -1,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Return the cross-entropy of targets and the softmax of logits, as `softhead.cross_entropy` does.

    Parameters
    ----------
    logits : array_like of shape (..., C, ...)
        As x in `softmax`.
    targets : array_like
        Classes: integers of the shape of `logits` without the axis. Or probabilities: real numbers of its shape.
    axis, weight, ignore_index, label_smoothing, temperature, z_loss, reduction
        As in `softhead.cross_entropy`.

    Returns
    -------
    jax.Array of the dtype of `logits`
        A scalar, or with "none" the losses of the shape of `logits` without the axis.

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As `softhead.cross_entropy` raises them, for values that are known: not those that a compiled program computes.

    Examples
    --------
    >>> import jax, softhead.jax
    >>> jax.grad(softhead.jax.cross_entropy)(jax.numpy.array([40.0, 0.0]), 0)
    Array([-4.248354e-18,  4.248354e-18], dtype=float32)
    """
    array = jnp.asarray(logits)
    axis = _checks.class_axis("logits", array, axis)
    check_values(array.shape, axis, targets, weight, ignore_index)
    problem = losses.loss_rows(
        "logits",
        array,
        jnp.asarray(targets),
        axis,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        temperature=temperature,
        z_loss=z_loss,
        reduction=reduction,
    )
    return problem.value(row_losses(problem.targets, problem.rows), problem.targets.denominator())


def kl_divergence(
    logits: Any, targets: Any, /, *, axis: int = -1, temperature: float = 1.0, reduction: str = "mean"
) -> Any:
    """Return the relative entropy of targets with respect to the softmax of logits: `softhead.kl_divergence`.

    Parameters
    ----------
    logits, targets, axis, temperature, reduction
        As in `cross_entropy`; the targets are probabilities.

    Returns
    -------
    jax.Array of the dtype of `logits`
        A scalar, or with "none" the divergences, of the shape of `logits` without the axis.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softhead.kl_divergence` raises them, for values that are known.

    Examples
    --------
    >>> import softhead.jax
    >>> softhead.jax.kl_divergence([0.0, 0.0], [0.25, 0.75]).round(4)
    Array(0.1308, dtype=float32)
    """
    array = jnp.asarray(logits)
    ns = namespace(array)
    array = ns.real("logits", array)
    axis = _checks.class_axis("logits", array, axis)
    if known(targets):
        _checks.probabilities(np.asarray(targets))
    wanted = ns.widened(ns.same_shape("targets", jnp.asarray(targets), "logits", array.shape))
    temperature = ns.temperature(temperature)
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    q = ns.to_rows(wanted, (axis,))
    log_q = jnp.log(jnp.where(q == 0.0, 1.0, q))
    values = losses.divergence(jnp, Tile(ns, ns.to_rows(array, (axis,)), temperature), q, log_q)
    # Of a distribution, whose sum may carry the rounding of a half type, the divergence is not negative.
    values = _not_negative(values, jnp.abs(jnp.sum(q, axis=-1, keepdims=True) - 1.0) < 2.0**-6)
    return losses.answer(ns, values, reduction, float(q.shape[0]), array, axis)


def distillation_loss(
    student_logits: Any, teacher_logits: Any, /, *, temperature: float, axis: int = -1, reduction: str = "mean"
) -> Any:
    """Return T^2 times the divergence of the teacher's from the student's softmax: `softhead.distillation_loss`.

    Parameters
    ----------
    student_logits, teacher_logits : array_like of one shape
    temperature, axis, reduction
        As in `kl_divergence`.

    Returns
    -------
    jax.Array of the dtype of `student_logits`
        A scalar, or with "none" the losses, of their shape without the axis. Both arguments have derivatives.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softhead.distillation_loss` raises them.

    Examples
    --------
    >>> import softhead.jax
    >>> softhead.jax.distillation_loss([1.0, 2.0, 3.0], [1.0, 2.0, 5.0], temperature=2.0).round(4)
    Array(0.4402, dtype=float32)
    """
    student = jnp.asarray(student_logits)
    ns = namespace(student)
    student = ns.real("student_logits", student)
    axis = _checks.class_axis("student_logits", student, axis)
    teacher = ns.same_shape("teacher_logits", jnp.asarray(teacher_logits), "student_logits", student.shape)
    temperature = ns.temperature(temperature)
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    source, tile = (Tile(ns, ns.to_rows(array, (axis,)), temperature) for array in (teacher, student))
    values = losses.divergence(jnp, tile, source.probabilities(), source.log_probabilities())
    values = _not_negative(values, True) * temperature * temperature
    return losses.answer(ns, values, reduction, float(values.shape[0]), student, axis)


def gumbel_softmax(logits: Any, /, *, key: Any, temperature: float = 1.0, hard: bool = False, axis: int = -1) -> Any:
    """Draw relaxed one-hot samples of the classes that logits stand for, as `softhead.gumbel_softmax` does.

    Parameters
    ----------
    logits, temperature, axis
        As in `softmax`.
    key : jax.Array
        A key of `jax.random`, in the place of the generator that NumPy has.
    hard : bool, default False
        Whether to return one-hot samples. Their derivative is that of the soft ones (the straight-through estimator).

    Returns
    -------
    jax.Array of the shape and dtype of `logits`

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softhead.gumbel_softmax` raises them.

    Examples
    --------
    >>> import jax, softhead.jax
    >>> softhead.jax.gumbel_softmax([1.0, 2.0, 3.0], key=jax.random.key(0), hard=True)
    Array([0., 0., 1.], dtype=float32)
    """
    array = jnp.asarray(logits)
    ns = namespace(array)
    array = ns.real("logits", array)
    axis = _checks.class_axis("logits", array, axis)
    # The default resolves a float32 uniform no finer than 2^-23: no class below that probability would ever win.
    noise = jax.random.gumbel(key, array.shape, ns.wide, mode="high")
    rows = ns.to_rows(ns.widened(array) + noise, (axis,))
    sample = Tile(ns, rows, ns.temperature(temperature)).probabilities()
    if hard:
        sample = maps.hardmax(jax.lax.stop_gradient(rows)) + (sample - jax.lax.stop_gradient(sample))
    return ns.from_rows(sample.astype(array.dtype), array.shape, (axis,))


def check_values(shape: tuple[int, ...], axis: int, targets: Any, weight: Any, ignore_index: int) -> None:
    """Raise on targets and weights of classes that are known to be wrong."""
    if known(targets):
        _checks.targets(np.asarray(targets), shape, axis, ignore_index)
    if weight is not None and known(weight):
        _checks.class_weight(np.asarray(weight), shape[axis])


def known(value: Any) -> bool:
    """Return whether the values of an array are at hand: not in a program that is compiled, or on other hosts."""
    return not isinstance(value, jax.core.Tracer) and getattr(value, "is_fully_addressable", True)


def _not_negative(values: Any, where: Any) -> Any:
    """Return zero for negative values where told, with the derivatives of those values."""
    return values + jax.lax.stop_gradient(jnp.where((values < 0.0) & where, -values, 0.0))
