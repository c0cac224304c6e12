"""Weights of rows and of classes, checked."""

from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_array


def check_class_weight(by_class: np.ndarray, *, balanced: bool) -> np.ndarray:
    """Return the factors of the classes, checked; a class without weight has no balanced one, and gets 0."""
    if balanced:
        by_class = np.where(np.isfinite(by_class), by_class, 0.0)
    wrong = ~(np.isfinite(by_class) & (by_class >= 0.0))
    if wrong.any():
        raise ValueError(
            f"class_weight: {by_class[wrong][0]:g} is among the factors; they must be finite and not negative"
        )
    return by_class


def class_factors(class_weight: Any, classes: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the factor of each class on the weights of its rows, checked."""
    with np.errstate(divide="ignore"):  # "balanced" has no use for a class without weight
        by_class = compute_class_weight(class_weight, classes=classes, y=y, sample_weight=weight)
    return check_class_weight(by_class, balanced=class_weight == "balanced")


def factors_of_counts(class_weight: Any, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the factor of each class, checked, from the sum of the weights that each has of the rows."""
    if class_weight is None:
        by_class = np.ones(len(classes))
    elif class_weight == "balanced":
        with np.errstate(divide="ignore"):
            by_class = counts.sum() / (len(classes) * counts)
    else:
        by_class = compute_class_weight(class_weight, classes=classes, y=classes)
    return check_class_weight(by_class, balanced=class_weight == "balanced")


def sorted_labels(classes: Any, width: int) -> np.ndarray:
    """Return the labels of the columns of probabilities: 0, 1, ... where none are given.

    Raises
    ------
    ValueError
        If there is not one a column, or they are not sorted and different.
    """
    labels = np.arange(width) if classes is None else np.asarray(classes)
    if labels.shape != (width,) or not (labels[1:] > labels[:-1]).all():
        raise ValueError(
            f"classes: must be {width} different labels in sorted order, one for each column of "
            f"probabilities; got {labels.tolist()!r}"
        )
    return labels


def row_weights(sample_weight: Any, X: Any) -> np.ndarray:
    """Return the weights of the rows of X as a new float64 array."""
    if sample_weight is None:
        return np.ones(X.shape[0])
    weight = check_array(
        sample_weight, dtype=np.float64, ensure_2d=False, copy=True, input_name="sample_weight", ensure_min_samples=0
    )
    if weight.shape != (X.shape[0],):
        raise ValueError(f"sample_weight: shape {weight.shape}; one weight a row is needed, shape ({X.shape[0]},)")
    if (weight < 0.0).any():
        raise ValueError(f"sample_weight: {weight.min():g} at row {weight.argmin()}; weights must not be negative")
    return weight
