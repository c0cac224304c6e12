"""What the public functions accept: every input error is raised here, before anything is written."""

import math
import operator
import sys
from collections.abc import Collection
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.exceptions import AxisError
from numpy.typing import ArrayLike

_FLOATING = ("float16", "bfloat16", "float32", "float64")  # by name: bfloat16 comes from ml_dtypes, not needed here
REDUCTIONS = ("mean", "sum", "none")


class LossOptions(NamedTuple):
    """The checked options of a class loss; `weight` is float64, one entry a class."""

    weight: np.ndarray
    label_smoothing: float
    temperature: float
    z_loss: float
    reduction: str


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor of PyTorch, which is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def real_dtype(name: str, dtype: np.dtype) -> np.dtype:
    """Return the floating dtype, in native byte order, in which an array is computed and answered."""
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    if dtype.name not in _FLOATING:
        accepted = "integers, booleans or " + ", ".join(_FLOATING)
        raise TypeError(f"{name} has dtype {dtype.name}; accepted are {accepted}")
    return dtype.newbyteorder("=")


def real_array(name: str, value: ArrayLike) -> np.ndarray:
    """Return value as an array of its `real_dtype`, without a copy where it already is one."""
    array = np.asarray(value)
    return array.astype(real_dtype(name, array.dtype), copy=False)


def same_shape(name: str, value: ArrayLike, other: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return value as a real array of exactly the shape of another argument."""
    array = real_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; it must have the shape of {other}, {shape}")
    return array


def reduced_axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """Return the axes, counted from 0 and in order; a 0-d array counts as one of a single entry."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (axis,)
    try:
        positions = [operator.index(one) for one in given]
    except TypeError:
        raise TypeError(f"axis={axis!r}; it must be an integer, a tuple of integers or None") from None
    available = max(ndim, 1)
    for position in positions:
        if not -available <= position < available:
            raise AxisError(position, available, "axis")
    unique = {position % available for position in positions}
    if len(unique) < len(positions):
        raise ValueError(f"axis={axis!r} names the same axis twice; name each axis once")
    return tuple(sorted(unique)) if ndim else ()


def class_axis(name: str, array: np.ndarray, axis: int) -> int:
    """Return the one axis of the classes, counted from 0."""
    if array.ndim == 0:
        raise ValueError(f"{name} is a single number; it needs an axis of classes")
    try:
        position = operator.index(axis)
    except TypeError as error:
        raise TypeError(f"axis={axis!r}: {error}; the classes lie along one axis") from None
    if not -array.ndim <= position < array.ndim:
        raise AxisError(position, array.ndim, "axis")
    return position % array.ndim


def mask(where: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the mask at full shape, or None."""
    if where is None:
        return None
    array = np.asarray(where)
    if array.dtype != np.bool_:
        raise TypeError(f"where has dtype {array.dtype.name}; it must be boolean")
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"where has shape {array.shape}; it must broadcast to the input's shape {shape}") from None


def output(out: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """Return out, or a new array, for a result of the shape and dtype of `like`."""
    if out is None:
        return np.empty(like.shape, like.dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}; it must be a numpy array")
    if out.shape != like.shape or out.dtype != like.dtype:
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}; the result has shape {like.shape} and dtype {like.dtype}"
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only; it must be writable")
    return out


def positive(name: str, value: float) -> float:
    """Return a finite number above 0."""
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}={value!r}; it must be a finite number above 0")
    return number


def nonnegative(name: str, value: float) -> float:
    """Return a finite number not below 0."""
    number = _number(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name}={value!r}; it must be a finite number not below 0")
    return number


def _number(name: str, value: float) -> float:
    """Return a real number, which may come as a 0-d array, as a float."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    # numpy's bfloat16 scalars are no Real, but convert.
    if not isinstance(value, Real) and getattr(getattr(value, "dtype", None), "name", "") not in _FLOATING:
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a real number")
    try:
        return float(value)
    except (TypeError, OverflowError):  # an array of one number, an integer beyond float64
        raise ValueError(f"{name}={value!r}; it must be one number within float64") from None


def linear_shapes(x: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    """Check that x (..., n_features), linear_weight (C, n_features) and linear_bias (C,) fit together."""
    if len(weight) != 2:
        raise ValueError(f"linear_weight has shape {weight}; it must have two axes, (n_classes, n_features)")
    if not x or x[-1] != weight[1]:
        raise ValueError(
            f"x has shape {x}; with linear_weight of shape {weight} its last axis must be {weight[1]} long"
        )
    if bias is not None and bias != weight[:1]:
        raise ValueError(f"linear_bias has shape {bias}; with linear_weight of shape {weight} it must be {weight[:1]}")


def loss_options(
    n_classes: int,
    *,
    weight: ArrayLike | None,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    reduction: str,
) -> LossOptions:
    """Return the options of a class loss, checked."""
    smoothing = _number("label_smoothing", label_smoothing)
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r}; it must lie in [0, 1]")
    return LossOptions(
        weight=class_weight(weight, n_classes),
        label_smoothing=smoothing,
        temperature=positive("temperature", temperature),
        z_loss=nonnegative("z_loss", z_loss),
        reduction=one_of("reduction", reduction, REDUCTIONS),
    )


def one_of(name: str, value: str, accepted: Collection[str]) -> str:
    """Return a value that must be one of a few names."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name}={value!r}; it must be one of {', '.join(map(repr, accepted))}")
    return value


def class_weight(weight: ArrayLike | None, n_classes: int) -> np.ndarray:
    """Return the weights of the classes in float64, all 1 by default."""
    if weight is None:
        return np.ones(n_classes)
    array = real_array("weight", weight).astype(np.float64)
    if array.shape != (n_classes,):
        raise ValueError(f"weight has shape {array.shape}; with {n_classes} classes it must have shape ({n_classes},)")
    wrong = ~(np.isfinite(array) & (array >= 0.0))
    if wrong.any():
        raise ValueError(f"{_at('weight', wrong)} is {array[_first(wrong)]}; weights must be finite and not negative")
    if n_classes and not array.any():
        raise ValueError("weight is all zeros; at least one class must have a positive weight")
    return array


def targets(value: ArrayLike, logits_shape: tuple[int, ...], axis: int, ignore_index: int) -> np.ndarray:
    """Return labels (intp, -1 where ignored) or probabilities, told apart by their shape."""
    array = np.asarray(value)
    kept = logits_shape[:axis] + logits_shape[axis + 1 :]
    if array.shape == logits_shape:
        return probabilities(array)
    if array.shape != kept:
        raise ValueError(
            f"targets has shape {array.shape}; with logits of shape {logits_shape} and classes along axis {axis}, "
            f"integer classes have shape {kept} and probabilities {logits_shape}"
        )
    return _labels(array, logits_shape[axis], ignore_index)


def _labels(array: np.ndarray, n_classes: int, ignore_index: int) -> np.ndarray:
    """Return integer labels, -1 where they are to be ignored."""
    if array.dtype.kind not in "iub":
        raise TypeError(
            f"targets has dtype {array.dtype.name} and the shape of class labels; labels must be integers "
            "(probabilities have the shape of the logits)"
        )
    try:
        ignored = array == operator.index(ignore_index)
    except TypeError:
        raise TypeError(f"ignore_index is a {type(ignore_index).__name__}; it must be an integer") from None
    outside = ((array < 0) | (array >= n_classes)) & ~ignored
    if outside.any():
        raise IndexError(
            f"{_at('targets', outside)} is {array[_first(outside)]}; labels lie in [0, {n_classes}) "
            f"or equal {ignore_index=}"
        )
    return np.where(ignored, -1, array.astype(np.intp))


def classes(name: str, value: ArrayLike, n_classes: int) -> np.ndarray:
    """Return the classes of rows as intp: integers from 0 on, of which none is ignored."""
    array = np.asarray(value)
    if not array.size:
        return array.astype(np.intp)
    if array.dtype.kind not in "iub":
        raise TypeError(f"{name} has dtype {array.dtype.name}; classes must be integers")
    outside = (array < 0) | (array >= n_classes)
    if outside.any():
        raise IndexError(f"{_at(name, outside)} is {array[_first(outside)]}; classes lie in [0, {n_classes})")
    return array.astype(np.intp)


@np.errstate(invalid="ignore")  # NaN among bfloat16 is compared with a warning
def probabilities(array: np.ndarray) -> np.ndarray:
    """Return targets that are probabilities: finite and not negative; they need not sum to 1."""
    array = array.astype(real_dtype("targets", array.dtype), copy=False)
    if array.dtype.itemsize == 2 and array.size:
        # On the bits, for comparisons of half types are slow: from 0 up to infinity they are ordered as the numbers.
        infinity = np.full((), np.inf, array.dtype).view(np.uint16)
        if array.view(np.uint16).max() < infinity:
            return array
    if array.size and not (array.min() >= 0 and array.max() < np.inf):
        wrong = ~((array >= 0) & (array < np.inf))
        raise ValueError(
            f"{_at('targets', wrong)} is {array[_first(wrong)]}; probabilities must be finite and not negative"
        )
    return array


@np.errstate(invalid="ignore")
def unit_interval(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array whose entries lie in [0, 1]."""
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        wrong = ~((array >= 0) & (array <= 1))
        raise ValueError(f"{_at(name, wrong)} is {array[_first(wrong)]}; it must lie in [0, 1]")
    return array


@np.errstate(invalid="ignore")
def broadcast_weight(name: str, weight: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return weights, finite and not negative, at full shape: a view, all 1 by default."""
    array = np.ones(()) if weight is None else real_array(name, weight)
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        raise ValueError(f"{_at(name, wrong)} is {array[_first(wrong)]}; it must be finite and not negative")
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{name} has shape {array.shape}; it must broadcast to {shape}") from None


def relative_weights(weight: np.ndarray) -> np.ndarray:
    """Return weights as float64 over a power of two near the largest, so that no sum overflows or loses digits."""
    return np.ldexp(weight.astype(np.float64), -np.frexp(weight.max(initial=0.0).astype(np.float64))[1])


def _at(name: str, condition: np.ndarray) -> str:
    """Return how to write the first entry for which a condition holds."""
    position = _first(condition)
    return f"{name}[{', '.join(map(str, position))}]" if position else name


def _first(condition: np.ndarray) -> tuple[int, ...]:
    """Return the position of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(condition.argmax()), condition.shape))
