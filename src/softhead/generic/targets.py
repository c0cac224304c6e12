"""The targets of class losses, checked, for any array library."""

import operator
from typing import Any, NamedTuple

from softhead import _checks
from softhead._checks import LossOptions
from softhead.generic.namespace import Namespace


class Targets(NamedTuple):
    """The checked targets of rows, and the options of their loss."""

    ns: Namespace
    values: Any  # labels (n,), -1 where ignored and C where impossible; or probabilities (n, C), in the wide dtype
    n_classes: int
    weight: Any  # (C,), in the wide dtype; or None
    options: LossOptions  # but for its weight

    def block(self, rows: slice) -> "Targets":
        """Return the targets of some of the rows."""
        return self._replace(values=self.values[rows, ...])

    def cleared(self, rows: Any) -> Any:
        """Return rows with zeros in place of those that are not read, so that nothing of them gets anywhere."""
        if self.values.ndim == 2:
            return rows
        return self.ns.xp.where(self.ns.xp.expand_dims(self.values, axis=1) >= 0, rows, 0.0)

    def settled(self, results: Any) -> Any:
        """Return results row by row, zero for the ignored ones and NaN for impossible labels."""
        if self.values.ndim == 2:
            return results
        labels, where = self.ns.xp.expand_dims(self.values, axis=1), self.ns.xp.where
        possible = labels < self.n_classes
        # A factor, not a choice: it makes derivatives NaN too, where a choice would make them 0 and hide the label.
        return where(labels < 0, 0.0, results * where(possible, self.ns.widened(possible), self.ns.xp.nan))

    def hit(self) -> Any:
        """Return True at the label of every row."""
        classes = self.ns.xp.arange(self.n_classes, dtype=self.values.dtype, device=self.ns.device)
        return self.ns.xp.expand_dims(self.values, axis=1) == classes

    def wanted(self) -> Any:
        """Return w_c ((1 - smoothing) q_c + smoothing / C) for the distributions q that the targets stand for."""
        q = self.values if self.values.ndim == 2 else self.ns.widened(self.hit())
        smoothing = self.options.label_smoothing
        if smoothing and self.n_classes:
            q = (1.0 - smoothing) * q + smoothing / self.n_classes
        return q if self.weight is None else self.weight * q

    def denominator(self) -> Any:
        """Return what the reduction divides a row's loss by: labels count by the weight of their class."""
        if self.options.reduction != "mean":
            return 1.0
        if self.values.ndim == 2:
            return float(self.values.shape[0])
        xp, read = self.ns.xp, self.values >= 0
        if self.weight is None or self.n_classes == 0:
            return xp.sum(self.ns.widened(read))
        weights = xp.take(self.weight, xp.clip(self.values, 0, self.n_classes - 1), axis=0)
        return xp.sum(xp.where(read, weights, 0.0))


def class_targets(
    ns: Namespace,
    targets: Any,
    shape: tuple[int, ...],
    axis: int,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Targets:
    """Return targets for logits of a shape, with options, checked; their shape tells labels from probabilities."""
    n_classes = shape[axis]
    options = _checks.loss_options(
        n_classes,
        weight=None,
        label_smoothing=label_smoothing,
        temperature=temperature,
        z_loss=z_loss,
        reduction=reduction,
    )
    options = options._replace(temperature=ns.temperature(options.temperature))
    values = ns.array(targets)
    kept = shape[:axis] + shape[axis + 1 :]
    if values.shape == shape:
        values = ns.to_rows(ns.not_negative("targets", ns.real("targets", values)), (axis,))
    elif values.shape == kept:
        values = ns.xp.reshape(_labels(ns, values, n_classes, ignore_index), (-1,))
    else:
        raise ValueError(
            f"targets has shape {values.shape}; with logits of shape {shape} and classes along axis {axis}, "
            f"integer classes have shape {kept} and probabilities {shape}"
        )
    return Targets(ns, values, n_classes, class_weight(ns, weight, n_classes), options)


def _labels(ns: Namespace, array: Any, n_classes: int, ignore_index: int) -> Any:
    """Return integer labels, -1 where they are to be ignored and n_classes where they are impossible."""
    ignore_index = checked_ignore_index(ns, array, ignore_index)
    labels = ns.integers(array)
    ignored = labels == ignore_index
    outside = ((labels < 0) | (labels >= n_classes)) & ~ignored
    ns.refuse("targets", labels, outside, f"labels lie in [0, {n_classes}) or equal {ignore_index=}", IndexError)
    return ns.xp.where(ignored, -1, ns.xp.where(outside, n_classes, labels))


def checked_ignore_index(ns: Namespace, labels: Any, ignore_index: int) -> int:
    """Return ignore_index, having refused what is no integer, and labels that are none by their dtype."""
    if not ns.xp.isdtype(labels.dtype, ("bool", "integral")):
        raise TypeError(
            f"targets has dtype {labels.dtype} and the shape of class labels; labels must be integers "
            "(probabilities have the shape of the logits)"
        )
    try:
        return operator.index(ignore_index)
    except TypeError:
        raise TypeError(f"ignore_index is a {type(ignore_index).__name__}; it must be an integer") from None


def class_weight(ns: Namespace, weight: Any, n_classes: int) -> Any:
    """Return the weights of the classes in the wide dtype, or None."""
    if weight is None:
        return None
    array = ns.real("weight", weight)
    if array.shape != (n_classes,):
        raise ValueError(f"weight has shape {array.shape}; with {n_classes} classes it must have shape ({n_classes},)")
    array = ns.not_negative("weight", array)
    if ns.readable and n_classes and not bool(ns.xp.any(array != 0)):
        raise ValueError("weight is all zeros; at least one class must have a positive weight")
    return array
